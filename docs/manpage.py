"""Print the manual page of the command, made of its own help: ``python docs/manpage.py > docs/ipcio.1``.

The page is kept as a file, because it is part of the package; `test_cli_help.py` compares the two.
"""

from __future__ import annotations

import argparse

from ipcio import _cli

SECTIONS = """\
.SH EXIT STATUS
.TP
.B 0
The command has done what it was asked to do.
.TP
.B 1
An error, which is one line on standard error; or a timeout, for which
.B \\-E
sets another status.
.TP
.B 2
A mistake in the call.
.TP
.B 130
Ctrl\\-C.
.PP
.B ipcio lock
and
.B ipcio sem run
exit with the status of their command; see there.
.SH SEE ALSO
.BR flock (1),
.BR ipcs (1),
.BR sem_overview (7),
.BR shm_overview (7)
"""


def page(parser: _cli.Parser) -> str:
    """Return the source of the page, for man(1)."""
    lines = ['.TH IPCIO 1 "" ipcio "User Commands"', ".SH NAME", r"ipcio \- shared memory and semaphores by name"]
    lines += [".SH SYNOPSIS", rf"\fBipcio\fR {fine('COMMAND [ARGUMENT ...]')}", ".SH DESCRIPTION"]
    lines += [*body(parser), ".SH COMMANDS", *(line for each in commands(parser) for line in section(each))]
    return "\n".join(lines) + "\n" + SECTIONS


def section(parser: _cli.Parser) -> list[str]:
    """Describe a subcommand, and its own below it."""
    lines = [f'.SS "{fine(synopsis(parser))}"', *body(parser)]
    return lines + [line for each in commands(parser) for line in section(each)]


def body(parser: _cli.Parser) -> list[str]:
    """Return the description, the arguments, the notes and the examples."""
    lines = paragraphs(parser.description or "")
    for action in arguments(parser):
        lines += [".TP", rf"\fB{fine(', '.join(signatures(action)))}\fR", fine((action.help or "") % vars(action))]
    lines += paragraphs(parser.notes)
    if parser.examples:
        lines += [".PP", ".nf", ".RS 4", *map(fine, parser.examples.splitlines()), ".RE", ".fi"]
    return lines


def paragraphs(text: str) -> list[str]:
    """Return the paragraphs of a text."""
    return [line for each in text.split("\n\n") if each for line in (".PP", fine(each))]


def synopsis(parser: _cli.Parser) -> str:
    """Return how the subcommand is called."""
    if parser.usage:
        return parser.usage.replace("[-h] ", "")
    found = commands(parser)
    if found:
        return f"{parser.prog} {'|'.join(each.prog.split()[-1] for each in found)} ..."
    words = [parser.prog]
    for action in sorted(arguments(parser), key=lambda action: not action.option_strings):
        word = signatures(action)[0]
        words.append(f"[{word}]" if action.option_strings or action.nargs in {"?", "*"} else word)
    return " ".join(words)


def signatures(action: argparse.Action) -> list[str]:
    """Return each spelling of an argument with its value."""
    value = str(action.metavar or "|".join(action.choices or ()))
    if not action.option_strings:
        return [f"{value} ..." if action.nargs in {"*", "+"} else value]
    if action.nargs == 0:
        return list(action.option_strings)
    return [f"{option} [{value}]" if action.nargs == "?" else f"{option} {value}" for option in action.option_strings]


def arguments(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    """Return what the help lists, but for ``--help`` and subcommands."""
    others = argparse._HelpAction, argparse._SubParsersAction
    return [action for action in parser._actions if not isinstance(action, others)]


def commands(parser: argparse.ArgumentParser) -> list[_cli.Parser]:
    """Return the parsers of the subcommands."""
    found = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    return [each for action in found for each in action.choices.values()]


def fine(text: str) -> str:
    """Escape what roff would take for its own."""
    text = text.replace("\\", r"\e").replace("-", r"\-").replace("'", r"\(aq").replace('"', r"\(dq")
    text = text.replace("`", r"\(ga")
    return rf"\&{text}" if text.startswith(".") else text


if __name__ == "__main__":
    print(page(_cli.make_parser()), end="")
