"""`shared_dict.py` with `sqlite3`."""

import json
import sqlite3


class SharedDict:
    def __init__(self, path):
        self._database = sqlite3.connect(path, isolation_level=None)
        self._database.execute("CREATE TABLE IF NOT EXISTS items (key PRIMARY KEY, value)")

    def __getitem__(self, key):
        row = self._database.execute("SELECT value FROM items WHERE key = ?", [key]).fetchone()
        if row is None:
            raise KeyError(key)
        return json.loads(row[0])

    def __setitem__(self, key, value):
        self._database.execute("INSERT OR REPLACE INTO items VALUES (?, ?)", [key, json.dumps(value)])
