"""Engines that bring their own processes: workers of dask and joblib, and the segment that they share."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ipcio import shm

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"


def output(example):
    """In a process of its own, for engines keep workers, threads and trackers until the end of theirs."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)}
    command = [sys.executable, EXAMPLES / example]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, env=environment, check=True).stdout


def test_workers_of_dask_share_a_segment():
    pytest.importorskip("numpy")
    pytest.importorskip("dask")
    assert output("dask_shared.py") == "48 columns, as expected\nwhat travels to a worker is small: True\n"


def test_workers_of_joblib_share_a_segment():
    pytest.importorskip("numpy")
    pytest.importorskip("joblib")
    assert output("joblib_shared.py") == "1000000 numbers, as expected\n"


@pytest.mark.needs("persistence")
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")  # of dask's use of pandas
def test_tables_of_dask(unique):
    """They are read from one segment or several, and written to several, one for each part."""
    frame = pytest.importorskip("dask.dataframe")
    fsspec = pytest.importorskip("fsspec")
    import pandas as pd

    from ipcio._fsspec import SharedMemoryFileSystem

    fsspec.register_implementation("shm", SharedMemoryFileSystem, clobber=True)  # as if ipcio were installed
    fs, prefix = SharedMemoryFileSystem(), unique()
    here = {"compute_kwargs": {"scheduler": "sync"}}
    try:
        pd.DataFrame({"n": range(1000)}).to_csv(f"shm://{prefix}", index=False)
        table = frame.read_csv(f"shm://{prefix}", blocksize=1000)
        assert table.npartitions > 2
        assert table.n.sum().compute(scheduler="sync") == 499500

        table = table.repartition(npartitions=2)
        table.to_csv(f"shm://{prefix}-*.csv", index=False, **here)
        assert frame.read_csv(f"shm://{prefix}-*.csv").n.sum().compute(scheduler="sync") == 499500
        table.to_parquet("shm://", name_function=lambda number: f"{prefix}-{number}.parquet", **here)
        assert frame.read_parquet(f"shm://{prefix}-*.parquet").n.sum().compute(scheduler="sync") == 499500
        with pytest.raises(NotADirectoryError):
            table.to_parquet(f"shm://{prefix}-parts")
        names = [name for name in fs.ls("", detail=False) if name.startswith(prefix)]
        assert [name.removeprefix(prefix) for name in names] == ["", "-0.csv", "-0.parquet", "-1.csv", "-1.parquet"]
    finally:
        for name in fs.glob(f"{prefix}*"):
            shm.unlink(name)
