"""What ipcio needs of `functools`, `contextlib`, `operator` and `weakref`.

To import those takes as long as a third of ipcio, because they import `collections`, `types` and
`reprlib`.  CPython builds them on modules in C, which are loaded at its start anyway.
"""

from __future__ import annotations

from ipcio._typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections import deque
    from contextlib import contextmanager, nullcontext, suppress
    from functools import cache, lru_cache, partial
    from operator import add, attrgetter, index, is_not, itemgetter, length_hint, methodcaller, setitem
    from weakref import WeakSet, WeakValueDictionary, ref
else:
    try:
        from _collections import deque
        from _functools import _lru_cache_wrapper, partial
        from _operator import add, attrgetter, index, is_not, itemgetter, length_hint, methodcaller, setitem
        from _weakref import _remove_dead_weakref, ref
    except ImportError:  # another Python
        from collections import deque
        from functools import cache, lru_cache, partial
        from operator import add, attrgetter, index, is_not, itemgetter, length_hint, methodcaller, setitem
        from weakref import WeakSet, WeakValueDictionary, ref
    else:

        def _as_tuple(*numbers):
            return numbers

        def lru_cache(size):
            """Decorate a function to keep the results of so many calls."""

            def keep(function):
                kept = _lru_cache_wrapper(function, size, False, _as_tuple)
                kept.__wrapped__ = function
                kept.__doc__ = function.__doc__
                return kept

            return keep

        cache = lru_cache(None)

        class WeakSet:
            """Objects, as long as anything else refers to them."""

            __slots__ = ("_references",)

            def __init__(self):
                self._references = set()

            def add(self, item):
                """Add one."""
                self._references.add(ref(item, self._references.discard))

            def __iter__(self):
                return iter([item for each in list(self._references) if (item := each()) is not None])

        class WeakValueDictionary:
            """Objects by a key, as long as anything else refers to them."""

            __slots__ = ("_references",)

            def __init__(self):
                self._references = {}

            def get(self, key):
                """Return the object, or None."""
                found = self._references.get(key)
                return None if found is None else found()

            def __setitem__(self, key, item):
                self._references[key] = ref(item, partial(_forget, self._references, key))

            def setdefault(self, key, default):
                """Return the object; if there is none, put `default` there."""
                found = self.get(key)
                if found is None:
                    self[key] = found = default
                return found

            def values(self):
                """Return the objects."""
                return [item for each in list(self._references.values()) if (item := each()) is not None]

        def _forget(references, key, _):
            _remove_dead_weakref(references, key)  # in one step, so never one that was put there since

    class suppress:  # noqa: N801 -- the name in contextlib
        """A block that such errors end, and nothing else."""

        __slots__ = ("_errors",)

        def __init__(self, *errors):
            self._errors = errors

        def __enter__(self):
            pass

        def __exit__(self, kind, error, traceback):
            return kind is not None and issubclass(kind, self._errors)

    class nullcontext:  # noqa: N801
        """A block without an effect."""

        __slots__ = ()

        def __enter__(self):
            pass

        def __exit__(self, *_):
            pass

    class _Block:
        __slots__ = ("_steps",)

        def __init__(self, steps):
            self._steps = steps

        def __enter__(self):
            return next(self._steps)

        def __exit__(self, kind, error, traceback):
            if kind is None:
                next(self._steps, None)
                return False
            try:
                self._steps.throw(error)
            except StopIteration:
                return True
            except BaseException as raised:
                if raised is not error:
                    raise
            return False

    def contextmanager(function):
        """Decorate a generator to be a block around its one ``yield``."""

        def block(*arguments, **options):
            return _Block(function(*arguments, **options))

        block.__doc__ = function.__doc__
        return block


# For type checkers: what was imported above is offered to other modules.
__all__ = [
    "WeakSet",
    "WeakValueDictionary",
    "add",
    "attrgetter",
    "cache",
    "contextmanager",
    "deque",
    "index",
    "is_not",
    "itemgetter",
    "length_hint",
    "lru_cache",
    "methodcaller",
    "nullcontext",
    "partial",
    "ref",
    "setitem",
    "suppress",
]
