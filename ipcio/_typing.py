"""The parts of `typing` that are needed at run time.  Importing `typing` itself takes as long as most of ipcio."""

from __future__ import annotations

TYPE_CHECKING = False  # to a type checker a variable of that name is true

if TYPE_CHECKING:
    from typing import Generic, Protocol, TypedDict, TypeVar, overload

    from typing_extensions import NamedTuple  # which may be generic on every version
else:
    from collections import namedtuple

    def TypeVar(name, *_, **__):  # noqa: N802 -- the name in typing
        """Return something to write between brackets."""
        return name

    class Generic:
        """A base class with parameters, which mean nothing."""

        __slots__ = ()

        def __class_getitem__(cls, parameters):
            return cls if cls is Generic else type(list[int])(cls, parameters)

    class Protocol:
        """A base class: only type checkers compare classes and modules with it."""

    class TypedDict(dict):
        """A base class: only type checkers know the keys."""

    class _Fields(type):
        def __new__(cls, name, bases, body):
            if not bases:
                return super().__new__(cls, name, bases, body)
            fields = body["__annotations__"]
            defaults = [body.pop(field) for field in fields if field in body]  # of the last ones
            made = namedtuple(name, fields, defaults=defaults, module=body["__module__"])
            for key, value in body.items():
                setattr(made, key, value)
            return made

    class NamedTuple(metaclass=_Fields):
        """A named tuple, written as a class with annotations."""

    def overload(function):
        """Return the function: only type checkers look at overloads."""
        return function


# For type checkers: what was imported above is offered to other modules.
__all__ = ["TYPE_CHECKING", "Generic", "NamedTuple", "Protocol", "TypeVar", "TypedDict", "overload"]
