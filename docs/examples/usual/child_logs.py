"""`child_logs.py` with `subprocess` and threads."""

import logging
import os
import signal
import subprocess
import sys
import threading

seconds, *command = sys.argv[1:]
logger = logging.getLogger("child")
logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s", stream=sys.stdout)


def log(file, level):
    for line in file:
        logger.log(level, line.rstrip("\n"))


with subprocess.Popen(
    command,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    encoding="utf-8",
    errors="replace",
    start_new_session=True,
) as child:
    threads = [
        threading.Thread(target=log, args=(child.stdout, logging.INFO)),
        threading.Thread(target=log, args=(child.stderr, logging.WARNING)),
    ]
    for thread in threads:
        thread.start()
    try:
        status = child.wait(float(seconds))
    except subprocess.TimeoutExpired as error:
        os.killpg(child.pid, signal.SIGKILL)
        status = str(error)
    for thread in threads:
        thread.join()
sys.exit(status)
