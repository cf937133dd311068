"""Real consumers of file objects, given handles: each must do what it does with a real file or `io.BytesIO`.

The standard library's; third-party ones are in `test_consumers_extra`.
"""

from __future__ import annotations

import array
import base64
import codecs
import configparser
import contextlib
import csv
import ctypes
import email
import email.generator
import email.parser
import email.policy
import faulthandler
import gzip
import hashlib
import io
import json
import logging
import marshal
import mmap as stdlib_mmap
import os
import pickle
import pickletools
import plistlib
import re
import shutil
import socket
import struct
import subprocess
import sys
import tarfile
import tokenize
import wave
import xml.etree.ElementTree as ET
import xml.sax
import zipfile

import pytest

bz2, lzma, sqlite3 = map(pytest.importorskip, ("bz2", "lzma", "sqlite3"))  # a Python may be built without them

pytest_plugins = ["handles"]

TEXT = b"".join(b"%d: the quick brown fox\n" % number for number in range(400))
ROOM = 40_000  # more than any of the writers here needs


def written(h):
    """What was written from the start to the position, as a file cut there would hold it."""
    h.truncate()
    h.seek(0)
    return h.read()


# -- archives ------------------------------------------------------------


def archive(file, **options):
    with zipfile.ZipFile(file, "w", **options) as z:
        for number in range(3):
            z.writestr(zipfile.ZipInfo(f"{number}.txt"), TEXT[number:], zipfile.ZIP_DEFLATED)


def test_zipfile_reads(source):
    real = io.BytesIO()
    archive(real)
    h = source(real.getvalue())
    assert zipfile.is_zipfile(h)
    with zipfile.ZipFile(h) as z:
        assert z.namelist() == ["0.txt", "1.txt", "2.txt"]
        assert z.testzip() is None
        with z.open("1.txt") as one, z.open("2.txt") as two:  # they take turns with the position
            assert one.read(100) + two.read(100) + one.read() == TEXT[1:101] + TEXT[2:102] + TEXT[101:]
    assert not h.closed


@pytest.mark.parametrize("content", [b"", b"PK", b"PK\x05\x06", b"x" * 21, b"x" * 22, b"x" * 23, TEXT[:1000]])
def test_zipfile_refuses_what_is_no_archive(content, source):
    """It looks for the end record 22 bytes before the end, which may be before the start."""
    h = source(content)
    assert not zipfile.is_zipfile(h)
    with pytest.raises(zipfile.BadZipFile):
        zipfile.ZipFile(h)


def test_zipfile_reads_the_smallest_archive(source):
    real = io.BytesIO()
    zipfile.ZipFile(real, "w").close()
    assert len(real.getvalue()) == 22
    with zipfile.ZipFile(source(real.getvalue())) as z:
        assert z.namelist() == []


def test_zipfile_writes(target):
    real, h = io.BytesIO(), target(ROOM)
    archive(real)
    archive(h)
    assert written(h) == real.getvalue()


def test_zipfile_appends(target):
    """Mode "a" writes over the directory; it ends with a `truncate`, which narrows the handle."""
    results = []
    for file in io.BytesIO(), target(ROOM):
        file.write(b"not of the archive")  # ZipFile copes with what stands before
        archive(file)
        end = file.tell()
        with zipfile.ZipFile(file, "a") as z:
            z.writestr(zipfile.ZipInfo("more.txt"), TEXT)
        file.seek(0)
        results.append((end, file.read()))
    assert results[0] == results[1]


def test_zipfile_says_when_there_is_no_room(target):
    with pytest.raises(OSError, match="No space left"):
        archive(target(100))


@pytest.mark.parametrize("compression", ["", "gz", "bz2", "xz"])
def test_tarfile_reads(compression, source):
    real = io.BytesIO()
    pack(real, f"w:{compression}")
    for mode in f"r:{compression}", f"r|{compression}", "r:*":
        with tarfile.open(fileobj=source(real.getvalue()), mode=mode) as tar:
            assert [(member.name, tar.extractfile(member).read()) for member in tar] == [("a", TEXT), ("b", b"b")]


def pack(file, mode):
    with tarfile.open(fileobj=file, mode=mode) as tar:
        for name, data in ("a", TEXT), ("b", b"b"):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))


@pytest.mark.parametrize("mode", ["w:", "w|", "w:xz", "w|bz2"])
def test_tarfile_writes(mode, target):
    real, h = io.BytesIO(), target(ROOM)
    pack(real, mode)
    pack(h, mode)
    assert written(h) == real.getvalue()


# -- compression ---------------------------------------------------------

COMPRESSORS = {
    "gzip": lambda file, mode: gzip.GzipFile(fileobj=file, mode=mode, filename="", mtime=0),
    "bz2": bz2.BZ2File,
    "lzma": lzma.LZMAFile,
}


@pytest.mark.parametrize("compressor", COMPRESSORS)
def test_compressed_files_read(compressor, source):
    real = io.BytesIO()
    with COMPRESSORS[compressor](real, "wb") as out:
        out.write(TEXT)
    with COMPRESSORS[compressor](source(real.getvalue()), "rb") as f:
        assert f.readline() == TEXT[: TEXT.index(b"\n") + 1]
        f.seek(500)
        assert f.read() == TEXT[500:]
        f.seek(0)
        assert f.read() == TEXT


@pytest.mark.parametrize("compressor", COMPRESSORS)
def test_compressed_files_write(compressor, target):
    real, h = io.BytesIO(), target(ROOM)
    for file in real, h:
        with COMPRESSORS[compressor](file, "wb") as out:
            out.write(TEXT)
    assert written(h) == real.getvalue()


# -- text ----------------------------------------------------------------


def test_csv(target):
    rows = [["a", 'b"c', "d,e"], ["1", "zwei\ndrei", "vier"], ["ä", "", "€"]]
    h = target(ROOM)
    with wrapped(h) as text:
        csv.writer(text).writerows(rows)
    real = io.StringIO(newline="")
    csv.writer(real).writerows(rows)
    assert written(h) == real.getvalue().encode()
    h.seek(0)
    with wrapped(h) as text:
        assert list(csv.reader(text)) == rows


@contextlib.contextmanager
def wrapped(h, newline="", **options):
    """Text over a handle that stays open afterwards."""
    text = io.TextIOWrapper(h, encoding="utf-8", newline=newline, **options)
    try:
        yield text
    finally:
        text.detach()


def test_csv_dict_reader(source):
    with wrapped(source(b"name,n\nx,1\ny,2\n")) as text:
        assert list(csv.DictReader(text)) == [{"name": "x", "n": "1"}, {"name": "y", "n": "2"}]


def test_json(target):
    value = {"a": [1, 2.5, None], "ü": "€" * 100}
    h = target(ROOM)
    with wrapped(h) as text:
        json.dump(value, text, ensure_ascii=False)
    assert written(h) == json.dumps(value, ensure_ascii=False).encode()
    h.seek(0)
    assert json.load(h) == value


def test_json_load(source):
    assert json.load(source(b'[1, {"a": "\xc3\xa4"}]')) == [1, {"a": "ä"}]


def test_configparser(source, target):
    parser = configparser.ConfigParser()
    with wrapped(source(b"[one]\na = 1\n; no\n[two]\nb = x\n  y\n")) as text:
        parser.read_file(text)
    assert {s: dict(parser[s]) for s in parser.sections()} == {"one": {"a": "1"}, "two": {"b": "x\ny"}}
    h, real = target(ROOM), io.StringIO()
    parser.write(real)
    with wrapped(h) as text:
        parser.write(text)
    assert written(h) == real.getvalue().encode()


def test_xml_etree(source, target):
    document = b"<root><a x='1'>text</a><b/></root>"
    tree = ET.parse(source(document))
    assert [(e.tag, e.text, e.attrib) for e in tree.getroot()] == [("a", "text", {"x": "1"}), ("b", None, {})]
    assert [e.tag for _, e in ET.iterparse(source(document))] == ["a", "b", "root"]
    real, h = io.BytesIO(), target(ROOM)
    for file in real, h:
        tree.write(file, encoding="utf-8", xml_declaration=True)
    assert written(h) == real.getvalue()


def test_xml_sax(source):
    seen = []

    class Handler(xml.sax.ContentHandler):
        def startElement(self, name, attrs):  # noqa: N802 -- xml.sax calls it
            seen.append((name, dict(attrs)))

    xml.sax.parse(source(b"<root><a x='1'/></root>"), Handler())
    assert seen == [("root", {}), ("a", {"x": "1"})]


MESSAGE = b"From: a@example.org\nTo: b@example.org\nSubject: hello\n\nText\nFrom here on\n"


def test_email(source, target):
    expected = email.message_from_bytes(MESSAGE, policy=email.policy.default)
    message = email.message_from_binary_file(source(MESSAGE), policy=email.policy.default)
    assert message["Subject"] == "hello"
    assert message.get_content() == expected.get_content()
    headers = email.parser.BytesHeaderParser().parse(source(MESSAGE))
    assert headers["To"] == "b@example.org"
    real, h = io.BytesIO(), target(ROOM)
    for file in real, h:
        email.generator.BytesGenerator(file, mangle_from_=True).flatten(message)
    assert written(h) == real.getvalue()


def test_tokenize(source):
    code = b"# -*- coding: latin-1 -*-\nname = '\xe4'\ndef f():\n    return 1\n"
    tokens = list(tokenize.tokenize(source(code).readline))
    assert tokens == list(tokenize.tokenize(io.BytesIO(code).readline))
    assert tokens[0].string == "iso-8859-1"
    assert tokenize.detect_encoding(source(code).readline)[0] == "iso-8859-1"


def test_compile_and_exec(source):
    scope = {}
    exec(compile(source(b"answer = 6 * 7\n").read(), "<memory>", "exec"), scope)
    assert scope["answer"] == 42


def test_codecs(source, target):
    reader = codecs.getreader("utf-16")(source("zwölf\nBoxkämpfer\n".encode("utf-16")))
    assert reader.readlines() == ["zwölf\n", "Boxkämpfer\n"]
    h = target(ROOM)
    codecs.getwriter("utf-8")(h).writelines(["zwölf\n", "€\n"])
    assert written(h) == "zwölf\n€\n".encode()


def test_print_and_redirect_stdout(target):
    h = target(ROOM)
    with wrapped(h, write_through=True) as text, contextlib.redirect_stdout(text):
        print("one", 2, sep="-")
        assert h.tell() == 6  # write_through: nothing is held back
        print("three", flush=True)
    assert written(h) == b"one-2\nthree\n"


def test_logging(target):
    h = target(ROOM)
    with wrapped(h) as text:
        handler = logging.StreamHandler(text)
        handler.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
        logger = logging.Logger("memory")  # noqa: LOG001 -- known to nobody else
        logger.addHandler(handler)
        logger.warning("disk %s", "full")
        logger.error("€")
        handler.close()
    assert written(h) == "WARNING disk full\nERROR €\n".encode()


# -- records -------------------------------------------------------------

VALUES = [None, 1, 2.5, "text", b"bytes" * 1000, {"a": [1, (2, 3)]}, 1 << 100]


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickle(protocol, target):
    """Several pickles in a row: `load` must not read too far."""
    real, h = io.BytesIO(), target(ROOM)
    for file in real, h:
        for value in VALUES:
            pickle.dump(value, file, protocol)
    assert written(h) == real.getvalue()
    h.seek(0)
    assert [pickle.load(h) for _ in VALUES] == VALUES
    with pytest.raises(EOFError):
        pickle.load(h)


def test_pickle_load(source):
    h = source(b"".join(map(pickle.dumps, VALUES)))
    assert [pickle.load(h) for _ in VALUES] == VALUES


def test_pickle_out_of_band_buffers_in_memory(target):
    """Protocol 5: the big buffers live in the segment itself."""
    h = target(ROOM)
    data = pickle.dumps(pickle.PickleBuffer(b"x" * 1000), 5, buffer_callback=lambda b: h.write(b.raw()) and False)
    assert pickle.loads(data, buffers=[h.getbuffer()[:1000]]) == b"x" * 1000


def test_pickletools(source):
    out = io.StringIO()
    pickletools.dis(source(pickle.dumps([1, "a"])), out)
    assert "BININT1" in out.getvalue()


def test_marshal(target):
    real, h = io.BytesIO(), target(ROOM)
    for file in real, h:
        for value in VALUES:
            marshal.dump(value, file)
    assert written(h) == real.getvalue()
    h.seek(0)
    assert [marshal.load(h) for _ in VALUES] == VALUES


@pytest.mark.parametrize("kind", [plistlib.FMT_XML, plistlib.FMT_BINARY])
def test_plistlib(kind, source, target):
    value = {"a": [1, 2.5, b"data", "text"], "b": {"c": True}}
    real, h = io.BytesIO(), target(ROOM)
    plistlib.dump(value, real, fmt=kind)
    plistlib.dump(value, h, fmt=kind)
    assert written(h) == real.getvalue()
    assert plistlib.load(source(real.getvalue())) == value


def test_wave(source, target):
    """The writer goes back to patch the header when it learns the length."""
    real, h = io.BytesIO(), target(ROOM)
    for file in real, h:
        w = wave.open(file, "wb")
        w.setnchannels(2)
        w.setsampwidth(2)
        w.setframerate(8000)
        w.writeframes(bytes(range(200)))
        w.writeframes(bytes(range(100)))
        w.close()
        file.seek(0, os.SEEK_END) if file is real else file.seek(44 + 300)
    sound = written(h)
    assert sound == real.getvalue()
    with wave.open(source(sound), "rb") as r:
        assert (r.getnframes(), r.getnchannels(), r.getframerate()) == (75, 2, 8000)
        assert r.readframes(75) == bytes(range(200)) + bytes(range(100))
        r.rewind()
        assert r.readframes(1) == b"\0\1\2\3"


def test_array(target):
    numbers = array.array("d", range(1000))
    h = target(8000)
    numbers.tofile(h)
    h.seek(0)
    again = array.array("d")
    with pytest.raises(EOFError):  # 1001 are not there; what is there arrives
        again.fromfile(h, 1001)
    assert again == numbers
    h.seek(0)
    part = array.array("d")
    part.fromfile(h, 10)
    assert part == numbers[:10]
    assert h.tell() == 80


def test_struct(target):
    h = target(ROOM)
    view = h.getbuffer()
    struct.pack_into("<iHq", view, 5, -1, 2, 3)
    h.seek(5)
    assert h.read(14) == struct.pack("<iHq", -1, 2, 3)
    assert struct.unpack_from("<iHq", view, 5) == (-1, 2, 3)
    assert next(struct.iter_unpack("<iHq", view[5:19])) == (-1, 2, 3)


def test_ctypes_structures_live_in_memory(target):
    class Point(ctypes.Structure):
        _fields_ = (("x", ctypes.c_int32), ("y", ctypes.c_int32))

    h = target(64)
    point = Point.from_buffer(h.getbuffer(), 8)
    point.y = 7
    assert ctypes.addressof(point) == h.addr() + 8
    h.seek(12)
    assert h.read(4) == struct.pack("=i", 7)
    h.seek(8)
    copy = Point()
    assert h.readinto(copy) == 8
    assert copy.y == 7
    h.seek(16)
    assert h.write(copy) == 8


def test_base64(source, target):
    real, h = io.BytesIO(), target(ROOM)
    base64.encode(io.BytesIO(TEXT), real)
    base64.encode(source(TEXT), h)
    encoded = written(h)
    assert encoded == real.getvalue()
    back = io.BytesIO()
    base64.decode(source(encoded), back)
    assert back.getvalue() == TEXT


def test_re_searches_memory_without_a_copy(source):
    with source(TEXT).getbuffer() as view:
        assert [m[1] for m in re.finditer(rb"(\d*)99:", view)] == [b"", b"1", b"2", b"3"]


if sys.version_info >= (3, 11):

    def test_tomllib(source):
        import tomllib

        assert tomllib.load(source(b'a = 1\n[b]\nc = "d"\n')) == {"a": 1, "b": {"c": "d"}}

    def test_sqlite_works_in_memory(source, target):
        with contextlib.closing(sqlite3.connect(":memory:")) as made:
            made.execute("create table t (a)")
            made.executemany("insert into t values (?)", [(n,) for n in range(100)])
            made.commit()
            image = made.serialize()
        h = target(ROOM)
        h.write(image)
        for file in source(image), source(written(h)):
            with contextlib.closing(sqlite3.connect(":memory:")) as db:
                db.deserialize(file.getbuffer())
                assert db.execute("select sum(a) from t").fetchone() == (4950,)

    def test_file_digest(source):
        """Over the buffer where there is one: all of it, as with `io.BytesIO`."""
        assert hashlib.file_digest(source(TEXT), "sha256").digest() == hashlib.sha256(TEXT).digest()
        h = source(TEXT)
        h.truncate(100)
        assert hashlib.file_digest(h, "md5").digest() == hashlib.md5(TEXT[:100]).digest()


def test_hashlib_update(source):
    assert hashlib.sha1(source(TEXT).getbuffer()).digest() == hashlib.sha1(TEXT).digest()


# -- copying -------------------------------------------------------------


def test_copyfileobj(source, target):
    h = target(len(TEXT))
    shutil.copyfileobj(source(TEXT), h)
    h.seek(0)
    out = io.BytesIO()
    shutil.copyfileobj(h, out, 7)
    assert out.getvalue() == TEXT


@pytest.mark.parametrize("length", [0, 1, 64, 1 << 20])
def test_copyfileobj_never_loses_data_silently(length, source, target):
    """Too small a target is an error; what was written before it is whole chunks."""
    h = target(len(TEXT) - 1)
    with pytest.raises(OSError, match="No space left"):
        shutil.copyfileobj(source(TEXT), h, length)
    end = h.tell()
    h.seek(0)
    assert h.read(end) == TEXT[:end]
    assert not h.read().strip(b"\0")


def test_copyfileobj_to_a_real_file(source, tmp_path):
    with open(tmp_path / "out", "wb") as out:
        shutil.copyfileobj(source(TEXT), out)
    assert (tmp_path / "out").read_bytes() == TEXT


@pytest.mark.needs("sendfile")
def test_sendfile_to_a_socket(source_fd):
    h = source_fd(TEXT)
    h.seek(10)
    left, right = socket.socketpair()
    with left, right:
        assert os.sendfile(left.fileno(), h.fileno(), None, 50) == 50
        assert right.recv(100) == TEXT[10:60]
        assert h.tell() == 60  # the kernel moved the position
        assert os.sendfile(left.fileno(), h.fileno(), 0, 50) == 50
        assert right.recv(100) == TEXT[:50]
        assert h.tell() == 60  # with an offset it does not


@pytest.mark.needs("sendfile")
def test_sendfile_into_memory(target_fd, tmp_path):
    (tmp_path / "in").write_bytes(TEXT)
    h = target_fd(ROOM)
    h.write(b"head")
    with open(tmp_path / "in", "rb") as real:
        assert os.sendfile(h.fileno(), real.fileno(), 0, len(TEXT)) == len(TEXT)
    assert h.tell() == 4 + len(TEXT)
    h.seek(0)
    assert h.read(4 + len(TEXT)) == b"head" + TEXT


def test_socket_sendfile(source):
    """With a descriptor through the system call, without one by reading."""
    left, right = socket.socketpair()
    with left, right:
        h = source(TEXT[:2000])
        assert left.sendfile(h, 10, 1000) == 1000
        assert h.tell() == 1010
        got = b""
        while len(got) < 1000:
            got += right.recv(4096)
        assert got == TEXT[10:1010]


@pytest.mark.needs("proc")
def test_copy_file_range_does_what_it_does_with_files(source_fd, tmp_path):
    def copy(file, to):
        file.seek(3)
        with open(tmp_path / to, "wb") as out:
            try:
                return os.copy_file_range(file.fileno(), out.fileno(), 100), file.tell()
            except OSError as error:
                return error.errno, file.tell()

    h = source_fd(TEXT)
    plain = f"{os.path.dirname(os.readlink(f'/proc/self/fd/{h.fileno()}'))}/.ipcio-test-{os.getpid()}"
    try:
        with open(plain, "wb+", buffering=0) as real:
            real.write(TEXT)
            assert copy(h, "a") == copy(real, "b")
    finally:
        os.unlink(plain)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.needs("posix")
def test_pread_and_readv(source_fd):
    h = source_fd(TEXT)
    assert os.pread(h.fileno(), 10, 5) == TEXT[5:15]
    assert h.tell() == 0
    parts = [bytearray(3), bytearray(4)]
    assert os.readv(h.fileno(), parts) == 7
    assert b"".join(parts) == TEXT[:7]
    assert h.readline() == TEXT[7 : TEXT.index(b"\n") + 1]


@pytest.mark.needs("posix")
def test_pwrite_and_writev(target_fd):
    h = target_fd(100)
    assert os.writev(h.fileno(), [b"abc", b"de"]) == 5
    assert h.tell() == 5
    h.write(b"f")
    os.pwrite(h.fileno(), b"X", 0)
    h.seek(0)
    assert h.read(6) == b"Xbcdef"


def test_fstat_and_fdopen(source_fd):
    h = source_fd(TEXT)
    assert os.fstat(h.fileno()).st_size == len(TEXT)
    h.seek(100)
    with open(h.fileno(), "rb", buffering=0, closefd=False) as real:
        assert real.read(50) == TEXT[100:150]
    assert h.tell() == 150


def test_another_map_of_the_descriptor(target_fd):
    h = target_fd(stdlib_mmap.PAGESIZE)
    with stdlib_mmap.mmap(h.fileno(), 0) as other:
        h.write(b"hello")
        assert other[:5] == b"hello"
        other[:1] = b"J"
    h.seek(0)
    assert h.read(5) == b"Jello"


@pytest.mark.needs("posix")
def test_fcntl_locks_take_the_handle(target_fd):
    import fcntl

    h = target_fd(100)
    fcntl.lockf(h, fcntl.LOCK_EX | fcntl.LOCK_NB, 10)
    fcntl.lockf(h, fcntl.LOCK_UN, 10)
    fcntl.flock(h, fcntl.LOCK_SH | fcntl.LOCK_NB)
    fcntl.flock(h, fcntl.LOCK_UN)


def test_faulthandler_writes_to_the_descriptor(target_fd):
    h = target_fd(ROOM)
    h.write(b"trace:\n")
    faulthandler.dump_traceback(h, all_threads=False)
    assert b"test_faulthandler_writes" in written(h)


# -- processes -----------------------------------------------------------

UPPER = "import sys; sys.stdout.buffer.write(sys.stdin.buffer.read().upper())"


def test_subprocess_reads_from_and_writes_to_memory(source_fd, target_fd):
    """As with real files: from the positions on, which move along."""
    h, out = source_fd(TEXT), target_fd(ROOM)
    h.seek(100)
    out.write(b"head\n")
    subprocess.run([sys.executable, "-c", UPPER], stdin=h, stdout=out, check=True)
    assert h.tell() == len(TEXT)
    assert written(out) == b"head\n" + TEXT[100:].upper()


def test_subprocess_input_is_a_buffer(source):
    done = subprocess.run(
        [sys.executable, "-c", UPPER], input=source(TEXT).getbuffer(), stdout=subprocess.PIPE, check=True
    )
    assert done.stdout == TEXT.upper()


def test_subprocesses_share_an_output(target_fd):
    out = target_fd(ROOM)
    for word in "one", "two":
        subprocess.run([sys.executable, "-c", f"import os; os.write(1, b'{word}\\n')"], stdout=out, check=True)
        out.write(b"--\n")
    assert written(out) == b"one\n--\ntwo\n--\n"


# -- the layers of io ----------------------------------------------------


def buffered_session(raw):
    """A random walk through `io.BufferedRandom`; what it saw."""
    seen = []
    f = io.BufferedRandom(raw, 16)
    for step in range(300):
        where = step * 7919 % 900
        f.seek(where)
        if step % 3:
            seen.append(f.read(step % 40))
        else:
            f.write(b"%d" % step * 5)
        seen.append(f.tell())
        seen.append(f.peek(1)[:1])
        seen.append(f.readline())
    f.flush()
    f.seek(0)
    seen.append(f.read(1000))
    f.detach()
    return seen


def test_buffered_random(target):
    real, h = io.BytesIO(bytes(2000)), target(2000)
    assert buffered_session(h) == buffered_session(real)


def test_buffered_reader(source):
    f = io.BufferedReader(source(TEXT), 10)
    assert f.peek(3)[:3] == TEXT[:3]
    buffer = bytearray(25)
    assert f.readinto(buffer) == 25
    assert bytes(buffer) == TEXT[:25]
    assert list(f) == io.BytesIO(TEXT[25:]).readlines()
    f.seek(-5, os.SEEK_END)
    assert f.read1() == TEXT[-5:]
    raw = f.raw
    f.close()
    assert raw.closed


def test_buffered_writer_reports_what_does_not_fit(target):
    h = target(100)
    f = io.BufferedWriter(h, 10)
    f.write(b"x" * 8)
    with pytest.raises(OSError, match="No space left"):
        f.write(b"y" * 100)
    h.seek(0)
    assert h.read(9) == b"xxxxxxxx\0"
    f.write(b"z" * 8)
    h.truncate(12)
    with pytest.raises(OSError, match="No space left"):
        f.flush()
    with pytest.raises(OSError, match="No space left"):
        f.close()
    assert h.closed


def test_buffered_pair(source, target):
    h = target(100)
    f = io.BufferedRWPair(source(TEXT), h)
    f.write(f.read(10))
    f.flush()
    assert written(h) == TEXT[:10]


@pytest.mark.parametrize("buffer", [False, True])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "latin-1"])
def test_text_reads(encoding, buffer, source):
    content = "zwölf\nBoxkämpfer\r\njagen\rVictor".encode(encoding)
    seen = []
    for raw in io.BytesIO(content), source(content):
        text = io.TextIOWrapper(io.BufferedReader(raw) if buffer else raw, encoding=encoding)
        first = text.readline()
        cookie = text.tell()
        rest = list(text)
        text.seek(cookie)
        seen.append((first, rest, text.read(7), text.readline(), text.newlines))
        text.detach()
    assert seen[0] == seen[1]
    assert seen[0][1] == ["Boxkämpfer\n", "jagen\n", "Victor"]


@pytest.mark.parametrize("buffer", [False, True])
def test_text_writes(buffer, target):
    h = target(ROOM)
    lower = io.BufferedRandom(h) if buffer else h
    text = io.TextIOWrapper(lower, encoding="utf-8", newline="\r\n")
    text.write("ä\n" * 5000)
    text.seek(3)
    text.write("x")
    text.flush()
    lower.flush()
    h.seek(0)
    assert h.read(8) == b"\xc3\xa4\rx\xc3\xa4\r\n"
    text.detach()


def test_iteration_matches_a_file(source):
    for content in b"", b"\n", b"a", b"a\n", b"a\n\nb", TEXT:
        assert list(source(content)) == list(io.BytesIO(content))
        assert source(content).readlines(30) == io.BytesIO(content).readlines(30)
        lines = iter(source(content).readline, b"")
        assert b"".join(lines) == content
