"""What is public: names, signatures, documentation; what importing costs; which module may import which."""

from __future__ import annotations

import ast
import importlib
import importlib.metadata
import importlib.resources
import importlib.util
import inspect
import io
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import ipcio
from ipcio import MemoryFile

PACKAGE = Path(ipcio.__file__).parent
MODULES = sorted(
    "ipcio." + ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")
    for path in PACKAGE.rglob("*.py")
    if path.parent != PACKAGE or path.stem != "__init__"
)
PUBLIC = [module for module in MODULES if "._" not in module]
BACK_ENDS = [module for module in MODULES if module.startswith(("ipcio._posix.", "ipcio._windows."))]
NAMES_OF_OTHERS = {"ipcio._windows.win32"}  # a copy of the system's own: nothing to document, nothing to hide
OTHER_BACK_END = {"_posix": "ipcio._windows", "_windows": "ipcio._posix"}
FOREIGN = "ipcio._posix" if sys.platform == "win32" else "ipcio._windows"
ABILITIES = {"ipcio._posix.timed_call": "deadlines"}  # that an import needs
LIBRARIES = {"ipcio._fsspec": "fsspec"}  # that an import needs, too


def what_it_needs(module):
    if module in LIBRARIES:
        return pytest.mark.skipif(not importlib.util.find_spec(LIBRARIES[module]), reason=f"needs {LIBRARIES[module]}")
    return pytest.mark.needs(ABILITIES[module]) if module in ABILITIES else ()


IMPORTABLE = [
    pytest.param(module, marks=what_it_needs(module))
    for module in ["ipcio", *MODULES]
    if not module.startswith(FOREIGN)
]

SIGNATURES = {
    "ipcio.shm.create": "(name, size, *, perm=384, persist=False, exist_ok=False, reserve=True, owner=None, init=None)",
    "ipcio.shm.attach": "(name, mode='rw', *, timeout=0, owner=None)",
    "ipcio.shm.open": "(name, mode='rb', *, perm=384)",
    "ipcio.shm.unlink": "(name, *, missing_ok=False)",
    "ipcio.sem.open": "(name, n=0, *, perm=384, persist=False)",
    "ipcio.sem.create": "(name, value=1, *, perm=384, persist=False, exist_ok=False, undo=False, owner=None, max=None)",
    "ipcio.sem.attach": "(name, *, timeout=0, owner=None)",
    "ipcio.sem.unlink": "(name, *, missing_ok=False)",
    "ipcio.mutex.create": "(name, *, perm=384, persist=False, exist_ok=False, recursive=False, owner=None)",
    "ipcio.mutex.attach": "(name, *, timeout=0, owner=None)",
    "ipcio.mutex.unlink": "(name, *, missing_ok=False)",
    "ipcio.event.create": "(name, *, perm=384, persist=False, exist_ok=False, is_set=False, owner=None)",
    "ipcio.event.attach": "(name, *, timeout=0, owner=None)",
    "ipcio.event.unlink": "(name, *, missing_ok=False)",
    "ipcio.queue.create": "(name, size, *, perm=384, persist=False, exist_ok=False, owner=None)",
    "ipcio.queue.attach": "(name, *, timeout=0, owner=None)",
    "ipcio.queue.unlink": "(name, *, missing_ok=False)",
    "ipcio.filelock.lock": "(file, mode='rw', offset=0, nbytes=0, *, timeout=None)",
    "ipcio.filelock.lock_async": "(file, mode='rw', offset=0, nbytes=0, *, timeout=None)",
    "ipcio.filelock.trylock": "(file, mode='rw', offset=0, nbytes=0)",
    "ipcio.filelock.unlock": "(file, offset=0, nbytes=0)",
    "ipcio.filelock.locked": "(file, mode='rw', offset=0, nbytes=0, *, timeout=None)",
    "ipcio.filelock.query": "(file, mode='rw', offset=0, nbytes=0)",
    "ipcio.proc.spawn": "(cmd, *, stdin=None, stdout=None, stderr=None, callback=None, encoding=None, errors='strict', "
    "lines=False, cwd=None, env=None, start_new_session=False, process_group=None, user=None, group=None, "
    "extra_groups=None, umask=-1, pass_fds=())",
    "ipcio.proc.run": "(cmd, *, input=None, timeout=None, check=False, **as_spawn)",
    "ipcio.mmap.open": "(path, mode='r', offset=0, size=0, *, reserve=False)",
    "ipcio.strfile.open": "(data)",
}


@pytest.mark.parametrize("module", PUBLIC)
def test_all_is_what_is_public(module):
    """A public module lists everything that is defined in it without an underscore."""
    found = importlib.import_module(module)
    defined = {
        name
        for name, value in vars(found).items()
        if not name.startswith("_") and getattr(value, "__module__", None) == module
    }
    assert len(found.__all__) == len(set(found.__all__))
    assert defined <= set(found.__all__), "not in __all__"
    for name in found.__all__:
        getattr(found, name)


def test_the_package_shows_its_public_modules_and_handle_types():
    shown = {module.rpartition(".")[2] for module in PUBLIC}
    assert set(ipcio.__all__) == shown | {
        "Event",
        "ExitStatus",
        "MemoryFile",
        "Mutex",
        "ObjectInfo",
        "Process",
        "Queue",
        "Semaphore",
        "__version__",
        "list_objects",
        "remove_orphans",
    }
    assert set(ipcio.__all__) <= set(dir(ipcio))
    with pytest.raises(AttributeError, match="'ipcio' has no attribute 'nonsense'"):
        ipcio.nonsense  # noqa: B018
    with pytest.raises(ImportError):
        from ipcio import nonsense  # noqa: F401


@pytest.mark.parametrize("module", ["ipcio", *PUBLIC])
def test_dir_shows_what_is_public_and_nothing_else(module):
    found = importlib.import_module(module)
    assert sorted(dir(found)) == sorted(found.__all__)


def test_help_shows_no_one_elses_words():
    for member in "__enter__", "__exit__":
        assert "permit" in inspect.getdoc(inspect.getattr_static(ipcio.Semaphore, member))


def test_star_import():
    scope = {}
    exec("from ipcio import *", scope)
    assert set(ipcio.__all__) <= set(scope)
    assert scope["shm"] is importlib.import_module("ipcio.shm")


def test_version():
    try:
        installed = importlib.metadata.version("ipcio")
    except importlib.metadata.PackageNotFoundError:  # a bare checkout on sys.path
        installed = re.search(
            r"^## \[(.+?)\]", (PACKAGE.parent / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE
        )[1]
    assert installed == ipcio.__version__


def test_py_typed_is_shipped():
    assert importlib.resources.files("ipcio").joinpath("py.typed").is_file()


@pytest.mark.parametrize("where", SIGNATURES)
def test_signatures(where):
    module, _, name = where.rpartition(".")
    signature = inspect.signature(getattr(importlib.import_module(module), name))
    plain = [parameter.replace(annotation=parameter.empty) for parameter in signature.parameters.values()]
    assert str(inspect.Signature(plain)) == SIGNATURES[where]
    assert all(p.annotation is not p.empty for p in signature.parameters.values())
    assert signature.return_annotation is not signature.empty


def said_of_parameters(module, function):
    """What the documentation says first of each parameter, with one word for all kinds of object."""
    text = inspect.getdoc(getattr(importlib.import_module(f"ipcio.{module}"), function))
    found = re.findall(r"^(\w+)\n((?: {4}.+\n)+)", text, re.MULTILINE)
    called = {"shm": "segment", "sem": "semaphore"}.get(module, module)
    first = {name: re.split(r"[.;(]", " ".join(said.split()))[0].strip() for name, said in found}
    return {name: re.sub(rf"\ban? {called}\b|\b{called}\b", "it", said) for name, said in first.items()}


@pytest.mark.parametrize("module", ["sem", "mutex", "event", "queue"])
@pytest.mark.parametrize("function", ["create", "attach"])
def test_what_all_kinds_of_object_have_is_described_alike(module, function):
    described, others = said_of_parameters(module, function), said_of_parameters("shm", function)
    both = described.keys() & others.keys()
    assert both >= ({"name", "perm", "persist", "exist_ok", "owner"} if function == "create" else {"timeout", "owner"})
    assert {name: described[name] for name in both} == {name: others[name] for name in both}
    named = list(inspect.signature(getattr(importlib.import_module(f"ipcio.{module}"), function)).parameters)
    assert [name for name in named if name in described] == list(described)


def test_every_public_function_has_a_fixed_signature():
    functions = {
        f"{module}.{name}"
        for module in PUBLIC
        for name, value in vars(importlib.import_module(module)).items()
        if name in importlib.import_module(module).__all__ and callable(value)
        if value.__module__ == module and not hasattr(value, "_fields")  # no class of handles, no record
    }
    assert functions == set(SIGNATURES)


def test_memory_files_have_every_method():
    assert issubclass(MemoryFile, io.RawIOBase)
    wanted = {name for name in dir(io.RawIOBase) if not name.startswith("_")}
    wanted |= {"read1", "readinto1", "name", "mode", "size", "addr", "getbuffer", "created"}
    assert {name for name in dir(MemoryFile) if not name.startswith("_")} == wanted


def documentation(of):
    """What there is to read about it, if only in the class it overrides a method of."""
    if inspect.ismemberdescriptor(of):  # a slot of DirectFile, which stands for a method of MemoryFile
        return "see MemoryFile or RawSemaphore"
    return of.__doc__ if inspect.isdatadescriptor(of) else inspect.getdoc(of)


@pytest.mark.parametrize("module", ["ipcio", *PUBLIC])
def test_everything_public_is_documented(module):
    found = importlib.import_module(module)
    assert found.__doc__
    for name in found.__all__:
        value = getattr(found, name)
        if inspect.isroutine(value) or inspect.isclass(value):
            assert inspect.getdoc(value), name
        if inspect.isclass(value):
            members = {m for each in value.__mro__ if each.__module__.startswith("ipcio") for m in vars(each)}
            for member in members:
                if not member.startswith("_"):
                    assert documentation(getattr(value, member)), f"{name}.{member}"


OWED = {  # what `_backend/` documents, once for all back ends
    node.name
    for path in (PACKAGE / "_backend").glob("*.py")
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    if isinstance(node, ast.FunctionDef | ast.ClassDef)
}


@pytest.mark.parametrize(
    "module", [each for each in MODULES if "._" in each and each not in {"ipcio.__main__", *NAMES_OF_OTHERS}]
)
def test_private_modules_document_what_other_modules_use(module):
    """All functions and classes without an underscore, but for what every back end owes.

    The source is read, because not every module can be imported here.
    """
    tree = ast.parse(source(module).read_text(encoding="utf-8"))
    assert ast.get_docstring(tree)
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name[0] != "_":
            assert ast.get_docstring(node) or node.name in OWED, node.name


def test_every_method_of_a_memory_file_is_documented():
    for name in dir(MemoryFile):
        if not name.startswith("_"):
            assert documentation(getattr(MemoryFile, name)), name


# -- what importing costs ------------------------------------------------

FREE_OF = {
    "ipcio.strfile": ["ipcio.shm", "ipcio.mmap", "ipcio._posix", "ctypes", "typing", "re", "subprocess"],
    "ipcio.mmap": ["ipcio.shm", "ipcio.strfile", "ctypes", "typing", "re", "subprocess", "pickle"],
    "ipcio.proc": [
        "ipcio.shm",
        "ipcio.sem",
        "ipcio.mmap",
        "ipcio.filelock",
        "ipcio.strfile",
        "ipcio._memfile",
        "ctypes",
        "asyncio",
        "multiprocessing",
        "subprocess",
        "typing",
        "pickle",
    ],
    "ipcio.event": [
        "ipcio.shm",
        "ipcio.sem",
        "ipcio.mmap",
        "ipcio.strfile",
        "ipcio._memfile",
        "asyncio",
        "multiprocessing",
        "subprocess",
        "typing",
    ],
    "ipcio.sem": [
        "ipcio.shm",
        "ipcio.mmap",
        "ipcio.strfile",
        "ipcio._memfile",
        "ctypes",
        "multiprocessing",
        "typing",
        "re",
        "pickle",
    ],
    "ipcio.shm": [
        "ipcio.sem",
        "ipcio.mmap",
        "ipcio.strfile",
        "ctypes",
        "typing",
        "re",
        "subprocess",
        "pickle",
    ],
}


# Nothing but strfile does without on Windows: Python itself offers none of its calls.
if sys.platform == "win32":
    for unwanted in FREE_OF.keys() - {"ipcio.strfile"}:
        FREE_OF[unwanted] = [name for name in FREE_OF[unwanted] if name != "ctypes"]


def pulled_in(module, after=""):
    """The modules that importing `module` adds to a Python that has imported `after`."""
    code = (
        f"import json, sys{after}; sys.path[:] = json.loads(sys.argv[1]); before = set(sys.modules); "
        f"import {module}; print(json.dumps(sorted(set(sys.modules) - before)))"
    )
    path = json.dumps([entry for entry in sys.path if entry])
    done = subprocess.run([sys.executable, "-I", "-c", code, path], stdout=subprocess.PIPE, check=True)
    return json.loads(done.stdout)


def test_importing_the_package_pulls_in_nothing():
    assert set(pulled_in("ipcio")) == {"ipcio", "__future__"}


SLOW = {  # each of these takes longer than most modules of ipcio
    "collections",
    "contextlib",
    "ctypes",
    "enum",
    "functools",
    "importlib",
    "inspect",
    "ipcio._backend",  # types only
    "operator",
    "re",
    "subprocess",
    "threading",
    "types",
    "typing",
    "weakref",
}


@pytest.mark.skipif(sys.platform == "win32", reason="the calls of Windows are declared with ctypes")
@pytest.mark.skipif(sys.implementation.name != "cpython", reason="ipcio._light has the modules of CPython in C")
@pytest.mark.parametrize("module", [each for each in PUBLIC if each.removeprefix("ipcio.") in ipcio.__all__])
def test_importing_pulls_in_no_slow_module_of_the_standard_library(module):
    assert not SLOW.intersection(pulled_in(module))


@pytest.mark.parametrize("module", FREE_OF)
def test_importing_pulls_in_nothing_of_other_features(module):
    # typing is the exception: every module asks it what TYPE_CHECKING is.  Which modules
    # it brings differs by version and is not ours to judge.
    new = pulled_in(module, after=", typing")
    assert module in new
    assert not [name for name in new for unwanted in FREE_OF[module] if f"{name}.".startswith(f"{unwanted}.")]


# -- layers --------------------------------------------------------------


def source(module):
    path = PACKAGE.joinpath(*module.split(".")[1:])
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def imports(path, module):
    """The modules of ours that the code of `path` imports at run time, at any level."""

    class Visitor(ast.NodeVisitor):
        def visit_If(self, node):
            if ast.unparse(node.test) == "TYPE_CHECKING":
                node.body = []
            self.generic_visit(node)

        def visit_Import(self, node):
            found.update(alias.name for alias in node.names if alias.name.split(".")[0] == "ipcio")

        def visit_ImportFrom(self, node):
            assert not node.level, f"{module}: imports are absolute here"
            if node.module.split(".")[0] == "ipcio":
                for alias in node.names:
                    deeper = f"{node.module}.{alias.name}"
                    found.add(deeper if deeper in MODULES else node.module)

    found = set()
    Visitor().visit(ast.parse(path.read_text(encoding="utf-8")))
    return found


def layers():
    """Return the line of each module on the page that lists the layers, counted from the top."""
    page = (Path(__file__).parents[2] / "docs" / "design.md").read_text(encoding="utf-8")
    picture = re.search(r"^## Layers$.*?^```text$(.*?)^```$", page, re.MULTILINE | re.DOTALL)[1]
    found = {}
    for number, line in enumerate(picture.splitlines()):
        if line.startswith("  "):
            # "  _posix/shm sem     their meaning": the folder is that of all modules on the line.
            # With "*" they are all modules of that folder.
            folder, names = re.fullmatch(r"  ((?:\w+/)*)(\*|\w+(?: \w+)*) {2,}\S.*", line).groups()
            if names == "*":
                names = " ".join(path.stem for path in PACKAGE.joinpath(folder).glob("*.py") if path.stem != "__init__")
            for name in names.split():
                path = f"ipcio/{folder}{name}".removesuffix("/__init__")
                assert path not in found, f"docs/design.md, 'Layers': {path} stands there twice"
                found[path.replace("/", ".")] = number
    return found


LAYERS = layers()


@pytest.mark.parametrize("module", ["ipcio", *MODULES])
def test_imports_run_downwards_only(module):
    if module not in LAYERS:
        pytest.fail(
            f"docs/design.md, 'Layers': {module} has no line. "
            "Write one below every module that imports it and above every module that it imports."
        )
    others = imports(source(module), module)
    too_high = {other for other in others if LAYERS.get(other, len(LAYERS)) <= LAYERS[module]}
    assert not too_high, f"docs/design.md, 'Layers': {module} imports what does not stand below it"
    here, _, _ = module.removeprefix("ipcio.").partition(".")
    assert not {other for other in others if other.startswith(OTHER_BACK_END.get(here, "-"))}


def test_the_layers_name_nothing_that_is_gone():
    gone = LAYERS.keys() - {"ipcio", *MODULES}
    assert not gone, "docs/design.md, 'Layers': these modules do not exist"
