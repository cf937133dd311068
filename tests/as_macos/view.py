"""What the modules of ipcio see of the system, which may be less than there is.

Each of them gets an ``import`` of its own, by which it finds a `View` in place of a module
of the standard library, and so does not find what a `View` hides.  Everybody else goes on
with the real one: the standard library, and the tests as witnesses.
"""

from __future__ import annotations

import builtins
import importlib
import sys
import types
from importlib.machinery import PathFinder, SourceFileLoader


class View(types.ModuleType):
    """A module of which something may be hidden, and something put in place of what is there."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._real = importlib.import_module(name)
        self._hidden = set()

    def __getattr__(self, name):
        if name in self._hidden:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r} here")
        return getattr(self._real, name)


_views = {}


def view(name: str) -> View:
    """The view of a module, by the name that it is imported by."""
    if name not in _views:
        _views[name] = View(name)
    return _views[name]


def hide(module: str, *names: str) -> None:
    """Have ipcio not find these in a module."""
    view(module)._hidden.update(names)


def put(module: str, name: str, value: object) -> None:
    """Have ipcio find this in a module."""
    setattr(view(module), name, value)


def _import(name, globals=None, locals=None, fromlist=(), level=0):  # noqa: A002 -- called by these names
    module = builtins.__import__(name, globals, locals, fromlist, level)
    return _views.get(module.__name__, module)


put("builtins", "__import__", _import)


class _Loader(SourceFileLoader):
    def exec_module(self, module):
        module.__builtins__ = {**vars(builtins), **vars(view("builtins"))}
        super().exec_module(module)


class _Finder:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name.partition(".")[0] != "ipcio":
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and isinstance(spec.loader, SourceFileLoader):
            spec.loader = _Loader(spec.loader.name, spec.loader.path)
        return spec


def install() -> None:
    """Let all that is to be imported of ipcio see that."""
    sys.meta_path.insert(0, _Finder)
