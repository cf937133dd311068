"""The little of `typing` that is needed at run time: to import `typing` itself takes as long as most of ipcio."""

from __future__ import annotations

TYPE_CHECKING = False  # to a type checker a variable of that name is true

if TYPE_CHECKING:
    from typing import Generic, TypeVar, overload

    from typing_extensions import NamedTuple  # which may be generic on every version
else:
    from collections import namedtuple

    def TypeVar(name, *_, **__):  # noqa: N802
        """Return something to write between brackets."""
        return name

    class Generic:
        """A base that takes parameters, which mean nothing."""

        __slots__ = ()

        def __class_getitem__(cls, parameters):
            return cls if cls is Generic else type(list[int])(cls, parameters)

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
        """Nothing: only type checkers look at overloads."""
        return function


__all__ = ["TYPE_CHECKING", "Generic", "NamedTuple", "TypeVar", "overload"]
