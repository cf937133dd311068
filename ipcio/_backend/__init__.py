"""What a platform owes the portable modules: types only, which no module imports when a program runs.

Each module here says what the module of the same name in a back end has to provide, as protocols that type checkers
compare that one with.  Named tuples that both sides make are in `ipcio._tuples`.

The portable module owns the meaning (arguments, modes, the handle); the back end
owns the system calls and every difference between platforms.  A back end raises
`OSError` with ``errno`` and with ``filename`` set to what the user passed, and
leaves nothing behind when it raises.
"""
