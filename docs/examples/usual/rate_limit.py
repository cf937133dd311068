"""`rate_limit.py` with a lock file for each permit."""

import fcntl
import os
import time

PATHS = [f"{os.environ.get('LIMIT', 'reports')}-{number}.lock" for number in range(2)]


def acquire(timeout):
    end = time.monotonic() + timeout
    while True:
        for path in PATHS:
            file = open(path, "w")  # noqa: SIM115 -- the open file is the permit
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.close()
            else:
                return file
        if time.monotonic() > end:
            return None
        time.sleep(0.05)


def application(environ, start_response):
    permit = acquire(timeout=float(environ.get("QUERY_STRING") or 5))
    if permit is None:
        start_response("503 Service Unavailable", [("Retry-After", "5")])
        return [b"busy\n"]
    with permit:
        body = report(environ)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [body]


def report(environ):
    return environ["wsgi.input"].readline()
