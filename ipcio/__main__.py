"""``python -m ipcio``: the command `ipcio`."""

import sys

from ipcio._cli import main

sys.exit(main())
