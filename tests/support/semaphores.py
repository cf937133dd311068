"""Semaphores to make, and what tests ask of them."""

from __future__ import annotations

import os

from abilities import semaphore_file

from ipcio import sem


def there(name):
    return os.path.lexists(semaphore_file(name))


def lives(name):
    try:
        sem.attach(name).close()
    except FileNotFoundError:
        return False
    return True


def works(s, value=3):
    return s.value == value and s.dec(0) and s.value == value - 1 and s.inc() and s.value == value


def plain(name, **options):
    return sem.create(name, 3, **options)


def crash_safe(name, **options):
    return sem.create(name, 3, undo=True, **options)


def unlinked(name):
    s = crash_safe(name)
    sem.unlink(name)
    return s


KINDS = {"plain": plain, "undo": crash_safe}
