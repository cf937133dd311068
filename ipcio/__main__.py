"""``python -m ipcio``: the command `ipcio`."""
# PYTHON_ARGCOMPLETE_OK

import sys

from ipcio._cli import main

sys.exit(main())
