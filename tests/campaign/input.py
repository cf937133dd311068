"""What nobody should put under a name of ipcio's, or give it as an argument: an error that is documented, or success.

Never a signal, a hang, something left behind, or harm to what is not ipcio's.  Each attack is made in a child.
"""

from __future__ import annotations

import faulthandler
import importlib.util
import os

from children import Forked

from campaign import parts
from campaign.arguments import USES, attack_with
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
    """Something under a name, and all that can be done with the name; or any call with any arguments."""
    place = os.fspath(place)
    uses = [use for use in USES if use != "urls" or importlib.util.find_spec("fsspec")]

    def one_round(rng):
        attack = attack_names if rng.random() < 0.5 else attack_with(rng.choice(uses))
        return guarded(attack, rng, place, parts.new_name())

    yield one_round
