"""`arrow_table.py` with a Feather file, which stays if the program is killed."""

import os
import sys
import time

import pyarrow as pa
from pyarrow import feather

PATH = sys.argv[1]

if sys.argv[2:] == ["offer"]:
    table = pa.table({"metal": ["gold", "silver"], "price": [2650.0, 31.0]})
    feather.write_feather(table, f"{PATH}.new", compression="uncompressed")
    os.replace(f"{PATH}.new", PATH)
    print("offered", flush=True)
    sys.stdin.readline()
    os.unlink(PATH)
else:
    end = time.monotonic() + 30
    while not os.path.exists(PATH):
        if time.monotonic() > end:
            sys.exit("no table")
        time.sleep(0.02)
    table = feather.read_table(PATH, memory_map=True)
    print(table.to_pydict(), pa.total_allocated_bytes())
