"""The parts of `typing` that are needed at run time.  Importing `typing` itself takes as long as most of ipcio."""

from __future__ import annotations

TYPE_CHECKING = False  # to a type checker a variable of that name is true

if TYPE_CHECKING:
    from typing import Generic, Protocol, TypedDict, TypeVar, overload

    from typing_extensions import NamedTuple  # which may be generic on every version
else:
    try:
        from _collections import _tuplegetter
    except ImportError:  # another Python

        def _tuplegetter(at, doc):
            return property(lambda self: tuple.__getitem__(self, at), doc=doc)

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

    # `collections.namedtuple` compiles source for each class, which is most of its time.  These are compiled
    # once; a class gets a copy of the one for as many fields as it has, with its own names.
    _new = tuple.__new__
    _CONSTRUCTORS = (
        lambda _cls: _new(_cls, ()),
        lambda _cls, a: _new(_cls, (a,)),
        lambda _cls, a, b: _new(_cls, (a, b)),
        lambda _cls, a, b, c: _new(_cls, (a, b, c)),
        lambda _cls, a, b, c, d: _new(_cls, (a, b, c, d)),
        lambda _cls, a, b, c, d, e: _new(_cls, (a, b, c, d, e)),
        lambda _cls, a, b, c, d, e, f: _new(_cls, (a, b, c, d, e, f)),
        lambda _cls, a, b, c, d, e, f, g: _new(_cls, (a, b, c, d, e, f, g)),
        lambda _cls, a, b, c, d, e, f, g, h: _new(_cls, (a, b, c, d, e, f, g, h)),
        lambda _cls, a, b, c, d, e, f, g, h, i: _new(_cls, (a, b, c, d, e, f, g, h, i)),
        lambda _cls, a, b, c, d, e, f, g, h, i, j: _new(_cls, (a, b, c, d, e, f, g, h, i, j)),
        lambda _cls, a, b, c, d, e, f, g, h, i, j, k: _new(_cls, (a, b, c, d, e, f, g, h, i, j, k)),
    )

    def _constructor(fields, defaults):
        template = _CONSTRUCTORS[len(fields)]
        code = template.__code__.replace(co_varnames=("_cls", *fields), co_name="__new__")
        constructor = type(template)(code, globals(), "__new__", tuple(defaults) or None)
        constructor.__qualname__ = "__new__"  # which errors name
        return constructor

    # The methods of a named tuple.

    def _make(cls, values):
        """Return one of a sequence or iterable."""
        return cls(*values)

    def _replace(self, /, **changes):
        """Return one with other values for some fields."""
        if unknown := changes.keys() - self._fields:
            raise TypeError(f"Got unexpected field names: {sorted(unknown)!r}")
        return self.__class__(*[changes.get(field, value) for field, value in zip(self._fields, self, strict=True)])

    def _asdict(self):
        """Return a dict from the names of the fields to their values."""
        return dict(zip(self._fields, self, strict=True))

    def _values(self):
        return tuple(self)

    def _repr(self):
        fields = ", ".join(f"{field}={value!r}" for field, value in zip(self._fields, self, strict=True))
        return f"{self.__class__.__name__}({fields})"

    class _Fields(type):
        def __new__(cls, name, bases, body):
            if not bases:
                return super().__new__(cls, name, bases, body)
            fields = tuple(body["__annotations__"])
            defaults = {field: body.pop(field) for field in fields if field in body}  # of the last ones
            body |= {
                "__slots__": (),
                "__new__": _constructor(fields, defaults.values()),
                "__match_args__": fields,
                "__repr__": _repr,
                "__getnewargs__": _values,
                "__replace__": _replace,
                "_asdict": _asdict,
                "_field_defaults": defaults,
                "_fields": fields,
                "_make": classmethod(_make),
                "_replace": _replace,
                **{field: _tuplegetter(at, f"Alias for field number {at}") for at, field in enumerate(fields)},
            }
            return type(name, (tuple,), body)

    class NamedTuple(metaclass=_Fields):
        """A named tuple, written as a class with annotations."""

    def overload(function):
        """Return the function: only type checkers look at overloads."""
        return function


# For type checkers: what was imported above is offered to other modules.
__all__ = ["TYPE_CHECKING", "Generic", "NamedTuple", "Protocol", "TypeVar", "TypedDict", "overload"]
