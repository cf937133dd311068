"""Handles among the arguments of a child that `multiprocessing` starts.

The parent may drop its own handle as soon as ``start()`` returns, and the child attaches later.
Until then the child itself keeps the name, from its first instruction on, by a descriptor that it
inherits.  So the parent waits for no answer, and nothing is left behind if the child fails.
"""

from __future__ import annotations

import os
import sys

from ipcio._light import partial
from ipcio._typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from ipcio._backend.shares import Share

    Recipe = tuple[Callable[..., Any], tuple[Any, ...]]


def hand_over(handle: object, share: Share | None, recipe: Recipe) -> Recipe:
    """Return the `recipe` by which pickle makes `handle` again; for a child that is being started, with the share."""
    context: Any = sys.modules.get("multiprocessing.context")
    child: Any = None if context is None else context.get_spawning_popen()  # of this thread
    if child is None or share is None:
        return recipe
    inherited = share.pass_to(child)
    if inherited is None:
        _keep_until_exit(handle, child)
        return recipe
    return _take_over, (inherited, *recipe)


def _take_over(inherited: Any, function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    """In the child: attach; then close what it inherited, which has kept the name until now."""
    fd = inherited.detach()
    try:
        return function(*arguments)
    finally:
        os.close(fd)


def _keep_until_exit(handle: object, child: Any) -> None:
    """Where nothing can be inherited: keep the handle until the parent asks for the child's exit code and gets one."""
    kept: list[object] | None = getattr(child, "_ipcio_handles", None)
    if kept is None:
        kept = []
        child._ipcio_handles = kept
        for question in "poll", "wait":
            setattr(child, question, partial(_ask, getattr(child, question), kept))
    kept.append(handle)


def _ask(question: Callable[..., Any], kept: list[object], *arguments: Any, **options: Any) -> Any:
    code = question(*arguments, **options)
    if code is not None:
        kept.clear()
    return code
