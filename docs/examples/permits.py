"""A process is killed while it holds the only permit: is the permit lost?"""

import subprocess
import sys

from ipcio import sem

NAME = sys.argv[1] if len(sys.argv) > 1 else "permits-example"

CHILD = """
import sys
from ipcio import sem
with sem.attach(sys.argv[1]):
    print("inside", flush=True)
    sys.stdin.read()
"""

for undo in False, True:
    s = sem.create(NAME, 1, undo=undo)
    with subprocess.Popen([sys.executable, "-c", CHILD, NAME], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        child.stdout.readline()
        child.kill()
    print("crash-safe:" if undo else "plain:", "the permit is back" if s.dec(0) else "the permit is lost")
    s.close()
