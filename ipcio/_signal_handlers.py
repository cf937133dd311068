"""Whether a signal handler calls, and what it has interrupted."""

from __future__ import annotations

import sys

from ipcio._typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Container
    from types import FrameType
    from typing import Any

_OPTIMIZED = 0x1  # of a code object's flags: its variables are in no dictionary
_VARARGS = 0x04  # of a code object's flags: it has an argument like `*args`
_UNSHARED = 3  # references to a dictionary: the frame's, a variable's and the argument's
_KEEPS_COPIES = sys.version_info < (3, 13) and hasattr(sys, "getrefcount")  # which PyPy lacks


def in_signal_handler() -> bool:
    """Whether a signal handler calls: a function that was given the very frame that it interrupts."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if _count_references(frame.f_back) > _LEAST and _was_given_its_caller(frame):
            return True
        frame = frame.f_back
    return False


def _was_given_its_caller(frame: FrameType) -> bool:
    code = frame.f_code
    names = code.co_varnames[: code.co_argcount]
    if code.co_flags & _VARARGS:
        names += (code.co_varnames[code.co_argcount + code.co_kwonlyargcount],)
    if not names:
        return False
    variables: Any = frame.f_locals
    values: list[object] = [variables.get(name) for name in names]
    # Before Python 3.13 the frame keeps this copy, and with it objects that the function deletes, a handle say.
    if code.co_flags & _OPTIMIZED and _KEEPS_COPIES and sys.getrefcount(variables) <= _UNSHARED:
        variables.clear()
    if isinstance(values[-1], tuple):
        values += values[-1]
    caller = frame.f_back
    return caller is not None and any(value is caller for value in values)


_count_references: Callable[[object], int] = getattr(sys, "getrefcount", lambda _: 1)


def _references_of_interpreter() -> int:
    """How many references to a frame the interpreter itself has: a handler's argument is one more."""

    def count() -> int:
        return _count_references(sys._getframe().f_back)

    return count() if hasattr(sys, "getrefcount") else 0


_LEAST = _references_of_interpreter()


def has_interrupted_method(of: object, modules: Container[str]) -> bool:
    """Whether this thread is in a method of that object, which these modules define, below the method that asks."""
    frame: FrameType | None = sys._getframe(1)
    is_asking = True  # the method that asks, and methods that have called it
    while frame is not None:
        is_method = frame.f_globals.get("__name__", "") in modules and frame.f_locals.get("self") is of
        if is_method and not is_asking:
            return True
        is_asking &= is_method
        frame = frame.f_back
    return False
