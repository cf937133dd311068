"""The command ``ipcio`` as a program of its own."""

from __future__ import annotations

import os
import subprocess
import sys

DEADLINE = 50  # seconds until a silent command is a failed test

ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": os.pathsep.join(os.path.abspath(p) for p in sys.path if p),
    "PYTHONIOENCODING": "utf-8",
    "PYTHONUNBUFFERED": "",  # as users run it
}


def start(*arguments, **options) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "ipcio", *map(str, arguments)],
        **{
            "stdin": subprocess.DEVNULL,
            "stdout": subprocess.PIPE,
            "stderr": subprocess.PIPE,
            "encoding": "utf-8",
            "env": ENVIRONMENT,
            **options,
        },
    )


def run(*arguments, **options) -> tuple[int, str, str]:
    """Run the command to its end; return its status and what it wrote to stdout and stderr."""
    with start(*arguments, **options) as process:
        return finish(process)


def finish(process: subprocess.Popen) -> tuple[int, str, str]:
    try:
        output, errors = process.communicate(timeout=DEADLINE)
    except BaseException:
        process.kill()
        raise
    return process.returncode, output, errors
