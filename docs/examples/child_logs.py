"""Run a program, log each line of its output at once, and kill it with its descendants when the time is up."""

import logging
import sys

from ipcio import proc

seconds, *command = sys.argv[1:]
logger = logging.getLogger("child")
logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s", stream=sys.stdout)


def log(stream, line):
    logger.log(logging.INFO if stream == "stdout" else logging.WARNING, line.rstrip("\n"))


try:
    done = proc.run(command, timeout=float(seconds), callback=log, encoding="utf-8", errors="replace", lines=True)
except TimeoutError as error:
    sys.exit(str(error))
sys.exit(done.status.code)
