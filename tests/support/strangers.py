"""Files with locks that conflict with ours: where locks belong to the process, another process opens them.

There, `apart` opens a file in a process that is made for it, and the functions of this module do
there what is to be done with it, and here what is to be done with any other file.
"""

from __future__ import annotations

import functools
import multiprocessing

from children import Forked

from ipcio import filelock

__all__ = ["apart", "lock", "query", "trylock", "unlock"]


class Stranger:
    """A file that another process has open, as long as this is open."""

    def __init__(self, make) -> None:
        self._ours, theirs = multiprocessing.Pipe()
        self._process = Forked(_serve, make, theirs)
        theirs.close()
        self.pid = self._process.pid
        self.name = self._ours.recv()

    def do(self, function, *arguments, **options):
        """Return what it returns there, or raise what it raises."""
        self._ours.send((function, arguments, options))
        answer = self._ours.recv()
        if isinstance(answer, Exception):
            raise answer
        return answer

    def close(self) -> None:
        """End the process, and with it its locks."""
        self._ours.close()
        self._process.kill()

    def __enter__(self):
        return self

    def __exit__(self, *_) -> None:
        self.close()


def _serve(make, pipe) -> None:
    with make() as file:
        pipe.send(file.name)
        while True:  # until it is killed
            function, arguments, options = pipe.recv()
            try:
                answer = function(file, *arguments, **options)
            except Exception as error:
                answer = error
            pipe.send(answer)


def _anywhere(function):
    @functools.wraps(function)
    def call(file, *arguments, **options):
        if isinstance(file, Stranger):
            return file.do(function, *arguments, **options)
        return function(file, *arguments, **options)

    return call


if filelock.semantics == "process":
    apart = Stranger
    lock, query, trylock, unlock = map(_anywhere, (filelock.lock, filelock.query, filelock.trylock, filelock.unlock))
else:
    lock, query, trylock, unlock = filelock.lock, filelock.query, filelock.trylock, filelock.unlock

    def apart(make):
        """Open a file; its locks are its own."""
        return make()
