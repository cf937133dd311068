"""At most two requests at a time in all workers of a web server; the permit of a killed worker is released.

Start it with: gunicorn --workers 8 rate_limit:application
"""

import os

from ipcio import sem

limit = sem.create(os.environ.get("LIMIT", "reports"), 2, exist_ok=True, undo=True)


def application(environ, start_response):
    if not limit.dec(timeout=float(environ.get("QUERY_STRING") or 5)):
        start_response("503 Service Unavailable", [("Retry-After", "5")])
        return [b"busy\n"]
    try:
        body = report(environ)
    finally:
        limit.inc()
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [body]


def report(environ):
    return environ["wsgi.input"].readline()  # the slow work, at most twice at a time
