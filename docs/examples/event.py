"""An event by name: any process sets it, and every process that waits for it continues."""

from ipcio import sem


class Event:
    def __init__(self, name):
        self._gate = sem.create(name, 0, exist_ok=True)

    def set(self):
        self._gate.inc()

    def wait(self, timeout=None):
        if not self._gate.dec(timeout):
            return False
        self._gate.inc()  # for the next process that waits
        return True
