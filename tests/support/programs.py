"""Programs for tests to start: the system's own where there is a POSIX shell, else small ones that do the same."""

from __future__ import annotations

import shutil
import sys

HAVE_SHELL = shutil.which("sh") is not None


def python(code: str, *arguments: str) -> list[str]:
    """A Python program, its standard streams without any translation."""
    start = (
        "import os, sys, time\nif os.name == 'nt':\n import msvcrt\n for n in 0, 1, 2: msvcrt.setmode(n, os.O_BINARY)\n"
    )
    return [sys.executable, "-S", "-E", "-c", start + code, *arguments]


# The little of a shell's language that tests of streams need.
_SHELL = r"""
import re, shlex

def say(fd, data):
    while data:
        data = data[os.write(fd, data):]

def printf(form, *words):
    text = re.sub(r"\\([0-7]{1,3})", lambda found: chr(int(found[1], 8)), form)
    text = text.replace(r"\n", "\n").replace(r"\r", "\r").replace("%s", "".join(words))
    return b"".join(each.encode("latin-1") if ord(each) < 256 and "\\" in form else each.encode() for each in text)

def run(fd, name, *words):
    if name == "exec":
        run(fd, *words)
        os._exit(0)
    elif name == "exit":
        os._exit(int(words[0]))
    elif name == "sleep":
        time.sleep(float(words[0]))
    elif name == "echo":
        say(fd, " ".join(words).encode() + b"\n")
    elif name == "printf":
        say(fd, printf(*words))
    elif name == "seq":
        first, last = map(int, words) if len(words) > 1 else (1, int(words[0]))
        say(fd, b"".join(b"%d\n" % number for number in range(first, last + 1)))
    elif name == "yes":
        while True:
            say(fd, b"y\n" * 10000)
    elif name in {"cat", "tee", "head"}:
        left = int(words[1]) if name == "head" else 1 << 62
        while left:
            size = min(left, 1 << 16)
            data = bytes(size) if words[-1:] == ("/dev/zero",) else os.read(0, size)
            if not data:
                break
            left -= len(data)
            say(fd, data)
            if name == "tee":
                say(2, data)
    else:
        assert name in {"true", ":"}, name

lexer = shlex.shlex(sys.argv[1] + ";", posix=True, punctuation_chars=True)
lexer.whitespace_split = True
words, fd = [], 1
tokens = list(lexer)
while tokens:
    token = tokens.pop(0)
    if token == ">&":
        fd = int(tokens.pop(0))
    elif token == ">":
        tokens.pop(0)
        fd = os.open(os.devnull, os.O_WRONLY)
    elif token == ";":
        run(fd, *words)
        words, fd = [], 1
    else:
        words.append(token)
"""


def shell(script: str) -> str | list[str]:
    """Some commands, as the shell takes them, one after the other; also where there is no shell."""
    return script if HAVE_SHELL else python(_SHELL, script)


CAT = ["cat"] if HAVE_SHELL else python(_SHELL, "cat")
SLEEP = ["sleep", "1000"] if HAVE_SHELL else python(_SHELL, "sleep 1000")
TRUE = ["true"] if HAVE_SHELL else python("")


def seq(last: int) -> str | list[str]:
    """Say the numbers from 1, a line each."""
    return shell(f"seq {last}")


def zeros(count: int) -> str | list[str]:
    """Say so many zero bytes."""
    return shell(f"head -c {count} /dev/zero")
