"""Sphinx: ``sphinx-build -W -n -b html docs docs/_build/html``, with ``.[docs]`` installed."""

from __future__ import annotations

from html import escape
from importlib.util import find_spec

from docutils import nodes
from sphinx import addnodes

import ipcio

project = "ipcio"
author = "The ipcio authors"
copyright = "the ipcio authors"
version = release = ipcio.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.intersphinx", "sphinx.ext.viewcode"]
exclude_patterns = ["_build", "examples"]
html_theme = "furo"
html_title = f"ipcio {release}"
html_static_path = ["_static"]
html_css_files = ["ipcio.css"]
html_favicon = "_static/icon.svg"
html_show_sphinx = False

if find_spec("sphinx_copybutton"):
    extensions.append("sphinx_copybutton")
    copybutton_prompt_text = r">>> |\.\.\. |\$ "
    copybutton_prompt_is_regexp = True

myst_enable_extensions = ["attrs_inline", "deflist"]  # attributes: classes of images
myst_heading_anchors = 3  # so that pages can link to each other's sections

autodoc_member_order = "bysource"
autodoc_preserve_defaults = True  # 0o600, not 384
python_maximum_signature_line_length = 88
autodoc_type_aliases = {
    "Event": "ipcio.Event",
    "ExitStatus": "ipcio.proc.ExitStatus",
    "MemoryFile": "ipcio.MemoryFile",
    "Mutex": "ipcio.Mutex",
    "ObjectInfo": "ipcio.ObjectInfo",
    "Process": "ipcio.proc.Process",
    "Queue": "ipcio.Queue",
    "Semaphore": "ipcio.Semaphore",
}

# Names that docstrings use alone.
SHORT = {**autodoc_type_aliases, "Empty": "queue.Empty", "Full": "queue.Full"}

# Where the documentation of Python has the names that ours refers to.  A list in a file of our own, so that a
# build needs no network and gives the same everywhere.
intersphinx_mapping = {"python": ("https://docs.python.org/3", "python.inv")}

default_role = "py:obj"  # `create` in a docstring is a link where it is one of ours
# Of the names in a docstring, ours must exist.  Others are links if python.inv has them.
nitpick_ignore_regex = [
    (r"py:.*", r"(?!ipcio\.).*"),
    ("py:class", r"ipcio\..*\._[A-Z]\w*"),
]  # type variables are no classes


def tidy(_, doctree):
    """Leave out what Markdown needs and no reader wants to see; let bare names of public classes be links."""
    for block in doctree.findall(nodes.literal_block):  # the blank line after an example's output
        if block.rawsource == block.astext():  # otherwise it is not only text
            block.rawsource = block.astext().rstrip("\n")
            block[:] = [nodes.Text(block.rawsource)]
    for head in list(doctree.findall(nodes.thead)):  # the empty one of a table without headings
        if not head.astext().strip():
            head.parent.remove(head)
    for link in doctree.findall(addnodes.pending_xref):
        link["reftarget"] = SHORT.get(link["reftarget"], link["reftarget"])


def link_parameters(_, domain, kind, content):
    """In the text of a function, `size` means its parameter, never a method of that name: link to the signature."""
    if domain != "py" or kind not in {"function", "method", "classmethod"}:
        return
    signatures = [each for each in content.parent if isinstance(each, addnodes.desc_signature)]
    names = {
        name.astext().lstrip("*")
        for signature in signatures
        for parameter in signature.findall(addnodes.desc_parameter)
        for name in list(parameter.findall(addnodes.desc_sig_name))[:1]
    }
    place = next((signature["ids"][0] for signature in signatures if signature["ids"]), None)
    for link in list(content.findall(addnodes.pending_xref)):
        if place and link["reftarget"] in names:
            text = link.children
            link.replace_self(nodes.reference("", "", *text, refid=place, internal=True, classes=["parameter"]))


def describe(_, page, template, context, doctree):  # noqa: ARG001 -- what Sphinx passes
    """Give a page without a description of its own the first sentence of its first paragraph."""
    tags = context.get("metatags", "")
    paragraph = None if doctree is None else next(iter(doctree.findall(nodes.paragraph)), None)
    if paragraph is not None and 'name="description"' not in tags:
        sentence = " ".join(paragraph.astext().split()).removeprefix("The problem. ").partition(". ")[0].rstrip(".:")
        context["metatags"] = f'{tags}<meta name="description" content="{escape(f"ipcio: {sentence}.")}" />\n'


def setup(app):
    app.connect("doctree-read", tidy)
    app.connect("html-page-context", describe)
    app.connect("object-description-transform", link_parameters)
    return {"parallel_read_safe": True}
