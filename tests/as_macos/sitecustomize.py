"""Imported by every Python that starts with this directory in PYTHONPATH: its ipcio has but what macOS has."""

from __future__ import annotations

import os

# Children may start elsewhere.
os.environ["PYTHONPATH"] = os.pathsep.join(map(os.path.abspath, os.environ["PYTHONPATH"].split(os.pathsep)))

import calls  # noqa: F401
import view

view.install()
