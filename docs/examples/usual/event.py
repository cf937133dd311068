"""`event.py` with a file that exists when the event is set, and polling."""

import os
import sys
import time

PATH = sys.argv[1]
if sys.argv[2:] == ["set"]:
    with open(PATH, "w"):
        pass
else:
    print("waiting", flush=True)
    end = time.monotonic() + 30
    while not os.path.exists(PATH) and time.monotonic() < end:
        time.sleep(0.02)
    print(os.path.exists(PATH))
