"""Sphinx: ``sphinx-build -W -n -b html docs docs/_build/html``, with ``.[docs]`` installed."""

from __future__ import annotations

from docutils import nodes

import ipcio

project = "ipcio"
author = "The ipcio authors"
copyright = "the ipcio authors"
version = release = ipcio.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc"]
exclude_patterns = ["_build", "examples"]
html_theme = "furo"
html_title = f"ipcio {release}"

myst_enable_extensions = ["deflist"]
myst_heading_anchors = 3  # so that pages can link to each other's sections

autodoc_member_order = "bysource"
autodoc_preserve_defaults = True  # 0o600, not 384
autodoc_type_aliases = {
    "ExitStatus": "ipcio.proc.ExitStatus",
    "MemoryFile": "ipcio.MemoryFile",
    "ObjectInfo": "ipcio.ObjectInfo",
    "Process": "ipcio.proc.Process",
    "Semaphore": "ipcio.Semaphore",
}

default_role = "py:obj"  # `create` in a docstring is a link where it is one of ours
# Of what a docstring names, ours must exist; parameters and the standard library need not
# be found (that would take the network).
nitpick_ignore_regex = [
    (r"py:.*", r"(?!ipcio\.).*"),
    ("py:class", r"ipcio\..*\._[A-Z]\w*"),
]  # type variables are no classes


def tidy(_, doctree):
    """Leave out what Markdown has to have and nobody should see."""
    for block in doctree.findall(nodes.literal_block):  # the blank line after an example's output
        if block.rawsource == block.astext():  # otherwise it is not only text
            block.rawsource = block.astext().rstrip("\n")
            block[:] = [nodes.Text(block.rawsource)]
    for head in list(doctree.findall(nodes.thead)):  # the empty one of a table without headings
        if not head.astext().strip():
            head.parent.remove(head)


def setup(app):
    app.connect("doctree-read", tidy)
    return {"parallel_read_safe": True}
