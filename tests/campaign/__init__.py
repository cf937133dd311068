"""The fault campaign: ipcio attacked as the world would, for minutes or for hours.

``python -m tests.campaign`` from the top of a checkout; ``--help`` lists the rest.  `parts` is
what the parts of it owe, `runner` goes through them, and each other module is one part.
"""
