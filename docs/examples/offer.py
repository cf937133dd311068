import json
import os

from ipcio import shm

with shm.create("prices", 4096) as memory:  # 4096 bytes of shared memory, named "prices"
    memory.write(json.dumps({"gold": 2650}).encode() + b"\n")
    input(f"Process {os.getpid()}: press Enter to stop. ")
