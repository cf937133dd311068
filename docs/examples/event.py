"""An event by name: `event.py NAME` waits for it, and `event.py NAME set` lets all processes that wait continue."""

import sys

from ipcio import event

e = event.create(sys.argv[1], exist_ok=True)
if sys.argv[2:] == ["set"]:
    e.set()
else:
    print("waiting", flush=True)
    print(e.wait(timeout=30))
