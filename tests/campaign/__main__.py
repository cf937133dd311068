"""``python -m tests.campaign``: attack ipcio for two minutes, and print what it withstood."""

from __future__ import annotations

import multiprocessing.resource_tracker
import os
import sys

# As for pytest: what helps tests is found by its bare name.
sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.extend(os.path.join(sys.path[0], folder) for folder in ("support", "contracts"))

from campaign import runner

if __name__ == "__main__":
    if hasattr(os, "fork"):
        multiprocessing.resource_tracker.ensure_running()  # which is started once and stays
    sys.exit(runner.main())
