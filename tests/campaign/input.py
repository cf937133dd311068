"""What nobody should put under a name of ipcio's: an error that is documented, or success.

Never a signal, a hang, something left behind, or harm to what is not ipcio's.  Each attack is made in a child.
"""

from __future__ import annotations

import faulthandler
import os

from children import Forked

from campaign import parts
from campaign.under_names import attack_names

PATIENCE = 60  # seconds, after which a child hangs


def guarded(attack, rng, place, name):
    """Do it in a child; what it raises, a deadly signal and a hang are an `AssertionError`."""

    def act():
        faulthandler.dump_traceback_later(PATIENCE, exit=True)
        return attack(rng, place, name)

    with Forked(act) as child:
        return child.result()


@parts.part("input")
def setup(place):
    """Something under a name, and all that can be done with the name."""
    place = os.fspath(place)

    def one_round(rng):
        return guarded(attack_names, rng, place, parts.new_name())

    yield one_round
