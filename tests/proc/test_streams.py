"""Pieces of a child's output on their way out and data on its way in: whole, in order, once, whatever interrupts."""

from __future__ import annotations

import io
import random
from collections import deque
from functools import partial
from itertools import islice

import pytest
import troubles
from campaigns import campaign, rounds

from ipcio._child_input import Input
from ipcio._child_output import Output
from ipcio._output_format import OutputFormat

EOF = object()
TEXT = "Aé\n\r\nx\x0b\x85\u2028日本語\n\n\ttail"
PLAIN_TEXT = "A\n\r\nx\x0b日本語\n\ntail"  # what old encodings have, too
ENCODINGS = {
    "utf-8": TEXT + "\U0001f600",
    "utf-8-sig": TEXT,
    "utf-16": TEXT + "\U0001f600",
    "utf-16-be": TEXT,
    "utf-32": TEXT + "\U0001f600",
    "utf-7": TEXT,
    "gb18030": TEXT + "\U0001f600",
    "shift_jis": PLAIN_TEXT,
    "euc_jp": PLAIN_TEXT,
    "iso2022_jp": PLAIN_TEXT + "日本\n日本",
    "hz": "A\n中文\nB~\n中",
    "latin-1": "Aé\n\x85\r\xff\ntail",
    "cp1252": "A€\n\rtail",
}


def in_lines(text):
    """Whole lines, which end with a newline and keep it."""
    newline = text[:0] + "\n" if isinstance(text, str) else b"\n"
    *lines, last = text.split(newline)
    return [line + newline for line in lines] + ([last] if last else [])


def drain(output, into):
    """Take all pieces that there are, and what is raised between them."""
    while True:
        try:
            into.extend(output.pieces())
        except UnicodeDecodeError as error:
            into.append(error)
        else:
            return


def flow(form, chunks, *, often=lambda: True):
    """All that comes out if these chunks are read."""
    output = Output("stdout", form)
    taken = []
    for chunk in chunks:
        output.raw.append(chunk)
        if often():
            drain(output, taken)
    assert not output.finished
    output.ended = True
    drain(output, taken)
    assert output.finished
    drain(output, taken)
    assert all(taken), "an empty piece"
    return taken


def joined(taken, empty=""):
    """As taken, with text between errors in one piece, and of an error the bytes that it is about."""
    events = [empty]
    for piece in taken:
        if isinstance(piece, UnicodeDecodeError):
            events += [("wrong", piece.object[piece.start : piece.end]), empty]
        else:
            events[-1] += piece
    return events


def texts(taken):
    return [piece for piece in taken if not isinstance(piece, UnicodeDecodeError)]


def chopped(rng, data):
    """Split at random places."""
    longest = rng.choice([1, 2, 5, 20, 1000])
    at = 0
    while at < len(data):
        size = rng.randint(1, longest)
        yield data[at : at + size]
        at += size


# -- output: bytes ------------------------------------------------------------


def test_bytes_come_as_they_were_read():
    assert flow(OutputFormat(), [b"a", b"bc\n", b"\xff"]) == [b"a", b"bc\n", b"\xff"]
    assert flow(OutputFormat(), [b"a", b"bc\n", b"\xff"], often=lambda: False) == [b"a", b"bc\n", b"\xff"]


def test_nothing_gives_nothing():
    for form in OutputFormat(), OutputFormat(lines=True), OutputFormat("utf-8"), OutputFormat("utf-16", lines=True):
        assert flow(form, []) == []


def test_lines_of_bytes_end_at_newlines_alone_and_the_last_may_have_none():
    data = b"a\n\n\r\rb\r\nc\x0b\x0c\x1c\x85\xff\nlast"
    expected = [b"a\n", b"\n", b"\r\rb\r\n", b"c\x0b\x0c\x1c\x85\xff\n", b"last"]
    assert in_lines(data) == expected
    for size in 1, 2, 3, 100:
        assert flow(OutputFormat(lines=True), [data[at : at + size] for at in range(0, len(data), size)]) == expected
    assert flow(OutputFormat(lines=True), [b"a\n"]) == [b"a\n"]


def test_lines_of_text_end_at_newlines_alone():
    text = "a\r\n\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029\rb\n\nlast"
    raw = text.encode()
    for size in range(1, len(raw) + 1):
        chunks = [raw[at : at + size] for at in range(0, len(raw), size)]
        assert flow(OutputFormat("utf-8", lines=True), chunks) == ["a\r\n", text[3:-5], "\n", "last"]


@campaign
def test_lines_at_random_are_those_of_a_model():
    rng = random.Random(51)
    for _ in range(rounds(300)):
        data = bytes(rng.choices(b"\n\r\x0bab", k=rng.randrange(60)))
        assert flow(OutputFormat(lines=True), chopped(rng, data), often=lambda: rng.random() < 0.5) == in_lines(data)


@pytest.mark.parametrize("encoding", [None, "utf-8"])
def test_a_line_in_many_parts_takes_linear_time(encoding):
    # Were all parts copied in every step, the watchdog would bark; so it takes a moment.
    parts = 150_000
    output = Output("stdout", OutputFormat(encoding, lines=True))
    for _ in range(parts):
        output.raw.append(b"x")
        assert not output.waiting
    output.raw.append(b"\n")
    (line,) = output.pieces()
    assert len(line) == parts + 1


# -- output: text --------------------------------------------------------------


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_text_split_at_every_byte_is_that_of_all_at_once(encoding):
    text = ENCODINGS[encoding]
    raw = text.encode(encoding)
    assert "".join(flow(OutputFormat(encoding), [raw])) == text
    assert "".join(flow(OutputFormat(encoding), [raw[at : at + 1] for at in range(len(raw))])) == text
    for at in range(len(raw) + 1):
        chunks = [each for each in (raw[:at], raw[at:]) if each]
        assert "".join(flow(OutputFormat(encoding), chunks)) == text
        assert flow(OutputFormat(encoding, lines=True), chunks) == in_lines(text)


@pytest.mark.parametrize("errors", ["replace", "ignore", "backslashreplace", "surrogateescape"])
@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "shift_jis"])
def test_modes_of_errors_do_not_depend_on_the_split(encoding, errors):
    data = b"a\xff\nb\xe2\x82\n\xf0\x9f\x98\x80\xe6\x97\xa5\x80"
    expected = data.decode(encoding, errors)
    assert "\ufffd" in expected or errors != "replace"
    for at in range(len(data) + 1):
        chunks = [each for each in (data[:at], data[at:]) if each]
        assert "".join(flow(OutputFormat(encoding, errors), chunks)) == expected
        assert flow(OutputFormat(encoding, errors, lines=True), chunks) == in_lines(expected)


UNDECODABLE = {
    "first": ("utf-8", [b"", b"\xff", b"abc"]),
    "last": ("utf-8", [b"abc", b"\xff", b""]),
    "between": ("utf-8", [b"a\xc3\xa9", b"\xff", b"\xe6\x97\xa5b"]),
    "in a row": ("utf-8", [b"a", b"\xff", b"", b"\xfe", b"", b"\xc0", b"b"]),
    "unfinished": ("utf-8", [b"a", b"\xe6\x97", b"b"]),
    "unfinished at the end": ("utf-8", [b"a\n", b"\xe6\x97", b""]),
    "no text": ("utf-8", [b"", b"\xff", b""]),
    "ascii": ("ascii", [b"a", b"\x80", b"b"]),
    "cp1252": ("cp1252", [b"a", b"\x81", b"\x80"]),
    "shift_jis": ("shift_jis", ["日本".encode("shift_jis"), b"\xff", "日本\n".encode("shift_jis"), b"\xfe", b""]),
    "utf-16": ("utf-16", ["é".encode("utf-16"), b"\x00\xdc", "日\n".encode("utf-16")[2:]]),
    "utf-16, odd": ("utf-16", ["é\n".encode("utf-16"), b"\x00", b""]),
    "utf-16 of the other order": ("utf-16", [b"\xfe\xff\x00a", b"\xdc\x00", b"\x00b"]),
    "utf-8-sig": ("utf-8-sig", [b"\xef\xbb\xbfabc", b"\xff", b"\xc3\xa9"]),
    "iso2022_jp": ("iso2022_jp", ["日本".encode("iso2022_jp"), b"\xff", "日本\n".encode("iso2022_jp")]),
}


def _decoded(encoding, parts):
    """The parts that are text as such, and the ones between as errors; `parts` alternate."""
    order = {"utf-16": "utf-16-be" if parts[0].startswith(b"\xfe\xff") else "utf-16-le", "utf-8-sig": "utf-8"}
    encoding = order.get(encoding, encoding)
    return [
        ("wrong", part) if number % 2 else part.decode(encoding).removeprefix("\ufeff")
        for number, part in enumerate(parts)
    ]


@pytest.mark.parametrize("place", UNDECODABLE)
def test_what_cannot_be_decoded_is_raised_once_between_the_text_around_it(place):
    encoding, parts = UNDECODABLE[place]
    expected = _decoded(encoding, parts)
    text = "".join(part for part in expected if isinstance(part, str))
    data = b"".join(parts)
    for at in range(len(data) + 1):
        chunks = [each for each in (data[:at], data[at:]) if each]
        assert joined(flow(OutputFormat(encoding), chunks)) == expected
        in_parts = flow(OutputFormat(encoding, lines=True), chunks)
        assert [each for each in in_parts if isinstance(each, str)] == in_lines(text)
        assert [each for each in joined(in_parts) if not isinstance(each, str)] == expected[1::2]
    assert joined(flow(OutputFormat(encoding), [data[at : at + 1] for at in range(len(data))])) == expected


@campaign
def test_undecodable_bytes_at_random_places_are_those_of_a_model():
    rng = random.Random(52)
    alphabet = [b"a", b"\n", "é".encode(), "日".encode(), "\U0001f600".encode(), b"\xff", b"\xe6", b"\x80"]
    for _ in range(rounds(300)):
        data = b"".join(rng.choices(alphabet, k=rng.randrange(30)))
        expected, left = [""], data
        while left:
            try:
                expected[-1] += left.decode()
                left = b""
            except UnicodeDecodeError as error:
                expected[-1] += left[: error.start].decode()
                expected += [("wrong", left[error.start : error.end]), ""]
                left = left[error.end :]
        assert joined(flow(OutputFormat("utf-8"), chopped(rng, data), often=lambda: rng.random() < 0.5)) == expected


def test_text_without_its_byte_order_mark_is_raised_once_and_does_not_stop_the_rest():
    output = Output("stdout", OutputFormat("utf-16"))
    output.raw.append(b"a\0b\0")
    output.ended = True
    raised = 0
    for _ in range(10):
        try:
            list(output.pieces())
        except UnicodeError:
            raised += 1
    assert raised <= 2
    assert output.finished


def test_half_a_mark_alone_is_an_error_and_not_nothing():
    with pytest.raises(UnicodeDecodeError):
        b"\xef\xbb".decode("utf-8-sig")
    assert joined(flow(OutputFormat("utf-8-sig"), [b"\xef\xbb"])) == ["", ("wrong", b"\xef\xbb"), ""]


def test_a_mark_behind_what_cannot_be_decoded_is_text():
    assert joined(flow(OutputFormat("utf-8-sig"), [b"\xef\xbb\xbf\xff\xef\xbb\xbfx"])) == [
        "",
        ("wrong", b"\xff"),
        "\ufeffx",
    ]


@pytest.mark.parametrize(("encoding", "errors"), [("no-such", "strict"), ("hex", "strict"), ("utf-8", "no-such")])
def test_unknown_codecs_are_told_at_once(encoding, errors):
    with pytest.raises(LookupError):
        OutputFormat(encoding, errors)


# -- output: consumers who come and go -------------------------------------------


def test_a_loop_that_stops_in_the_middle_goes_on_there():
    output = Output("stdout", OutputFormat(lines=True))
    output.raw.append(b"1\n2\n3\n4")
    assert next(output.pieces()) == b"1\n"
    assert output.waiting
    assert list(islice(output.pieces(), 2)) == [b"2\n", b"3\n"]
    assert list(output.pieces()) == []
    assert not output.waiting
    output.ended = True
    assert output.waiting
    assert list(output.pieces()) == [b"4"]
    assert output.finished


@pytest.mark.parametrize("more", [False, True])
def test_one_consumer_within_another_takes_what_that_would_have_got(more):
    output = Output("stdout", OutputFormat())
    output.raw.extend([b"1", b"2"])
    taken = []
    for piece in output.pieces():
        taken.append(piece)
        if piece == b"1":
            if more:
                output.raw.append(b"3")
            taken.extend(output.pieces())
    assert taken == ([b"1", b"2", b"3"] if more else [b"1", b"2"])


def test_who_has_discarded_everything_gets_nothing_more():
    output = Output("stdout", OutputFormat())
    output.raw.extend([b"1", b"2"])
    taken = []
    for piece in output.pieces():
        taken.append(piece)
        output.discard()
    assert taken == [b"1"]
    assert output.finished


def test_a_consumer_that_raises_has_had_that_piece():
    output = Output("stdout", OutputFormat())
    output.raw.extend([b"1", b"2", b"3"])
    had = []

    def take(piece):
        had.append(piece)
        if piece == b"2":
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        deque(map(take, output.pieces()), maxlen=0)
    deque(map(take, output.pieces()), maxlen=0)
    assert had == [b"1", b"2", b"3"]


# -- input -----------------------------------------------------------------------


def send(stream, sink, size=3):
    """Write what there is, a few bytes at a time; return whether that was the end."""
    while (chunk := stream.next_chunk()) is not None:
        if chunk is stream.END:
            return True
        chunk.sent.extend(map(sink.write, (chunk.data[:size],)))
    return False


def sent_by(stream, size=3):
    sink = io.BytesIO()
    assert send(stream, sink, size)
    return sink.getvalue()


def test_what_is_queued_is_sent_in_order():
    stream = Input()
    sink = io.BytesIO()
    assert stream.is_queue
    assert stream.idle
    assert stream.next_chunk() is None
    stream.put((), EOF)
    stream.put((b"abcd", b"", bytearray(b"ef")), EOF)
    assert not stream.idle
    assert stream.pending == 6
    data, sent = stream.next_chunk()
    sent.extend(map(sink.write, (data[:3],)))
    assert stream.pending == 3
    assert send(stream, sink) is False
    assert (stream.pending, stream.idle) == (0, True)
    stream.put((b"gh", EOF), EOF)
    assert send(stream, sink) is True
    assert sink.getvalue() == b"abcdefgh"


def test_what_is_queued_is_a_copy():
    stream = Input()
    data = bytearray(b"before")
    stream.put((data, EOF), EOF)
    data[:] = b"after!"
    assert sent_by(stream) == b"before"


def test_behind_the_end_nothing_can_be_queued():
    stream = Input("utf-8")
    stream.put((b"a", EOF), EOF)
    for data in (b"b",), ("b",), (EOF,):
        with pytest.raises(ValueError, match="EOF"):
            stream.put(data, EOF)
    stream.put((), EOF)
    other = Input()
    with pytest.raises(ValueError, match="EOF"):
        other.put((b"a", EOF, b"b"), EOF)
    assert other.pending == 0
    other.put((b"c", EOF), EOF)
    assert sent_by(other) == b"c"
    assert sent_by(stream) == b"a"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "utf-8-sig", "iso2022_jp"])
def test_text_in_parts_is_encoded_as_in_one(encoding):
    stream = Input(encoding)
    stream.put(("日", "本"), EOF)
    stream.put(("語a", EOF), EOF)
    assert sent_by(stream) == "日本語a".encode(encoding)


@pytest.mark.parametrize("encoding", ["iso2022_jp", "hz"])
def test_the_end_of_text_ends_its_encoding_too(encoding):
    stream = Input(encoding)
    stream.put(("中", EOF), EOF)
    assert sent_by(stream) == "中".encode(encoding)
    assert sent_by(Input(encoding, read=io.StringIO("中").read)) == "中".encode(encoding)


@pytest.mark.parametrize("wrong", [5, None, "\ud800"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "iso2022_jp"])
def test_what_is_refused_leaves_no_trace(encoding, wrong):
    stream = Input(encoding)
    with pytest.raises((TypeError, UnicodeEncodeError)):
        stream.put(("日", wrong, EOF), EOF)
    assert stream.pending == 0
    stream.put(("日a", EOF), EOF)
    assert sent_by(stream) == "日a".encode(encoding)


def test_text_without_an_encoding_is_refused():
    stream = Input()
    with pytest.raises(TypeError, match="encoding"):
        stream.put((b"a", "b"), EOF)
    assert stream.idle


def test_who_has_discarded_takes_everything_and_sends_nothing():
    stream = Input()
    stream.put((b"abc",), EOF)
    stream.discard()
    stream.put((b"def", EOF), EOF)
    assert stream.pending == 0
    assert stream.next_chunk() is None


def test_a_file_is_read_and_sent_to_its_end():
    data = bytes(range(256)) * 3000
    assert sent_by(Input(read=io.BytesIO(data).read), 1001) == data
    text = "日本\r\n" * 70000
    assert sent_by(Input("utf-16", read=io.StringIO(text, newline="").read), 1001) == text.encode("utf-16")


# -- interrupts ------------------------------------------------------------------


interrupted_after = partial(
    troubles.interrupted_after, inside=lambda name: name.partition(".")[0] in {"ipcio", "codecs", "encodings"}
)


FORMS = {
    "bytes": OutputFormat,
    "lines": lambda: OutputFormat(lines=True),
    "text": lambda: OutputFormat("utf-8"),
    "text in lines": lambda: OutputFormat("utf-8", lines=True),
    "utf-16": lambda: OutputFormat("utf-16"),
    "iso2022_jp": lambda: OutputFormat("iso2022_jp", lines=True),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("wrong", [False, True])
def test_an_interrupt_after_any_call_loses_and_doubles_no_output(form, wrong):
    made = FORMS[form]()
    encoding = form if form in {"utf-16", "iso2022_jp"} else "utf-8"
    data = "1日\r本\n2\n\n3日".encode(encoding)
    if wrong:
        data = data[: len(data) // 2] + b"\xff" + data[len(data) // 2 :]
    chunks = [data[at : at + 5] for at in range(0, len(data), 5)]
    expected = flow(made, chunks)
    one = b"" if form in {"bytes", "lines"} else ""
    for count in range(2000):
        output = Output("stdout", made)
        source = iter(chunks)
        taken = []

        def step(output=output, source=source, taken=taken):
            # As the one who reads, and as the one who consumes: each in one call of C.
            while not output.finished:
                before = len(output.raw)
                output.raw.extend(islice(source, 1))
                if len(output.raw) == before:
                    output.ended = True
                try:
                    taken.extend(output.pieces())
                except UnicodeDecodeError as error:
                    taken.append(error)

        came = interrupted_after(count, step)
        step()
        assert joined(taken, one) == joined(expected, one), count
        if made._lines:
            assert texts(taken) == texts(expected), count
        if not came:
            break
    assert 20 < count < 1999


def test_an_interrupt_of_who_asks_whether_something_waits_loses_nothing():
    for count in range(100):
        output = Output("stdout", OutputFormat("utf-8", lines=True))
        output.raw.append(b"1\n")
        list(output.pieces())
        output.raw.append(b"2\n3")
        came = interrupted_after(count, lambda output=output: output.waiting)
        output.ended = True
        assert output.waiting
        assert list(output.pieces()) == ["2\n", "3"]
        if not came:
            break
    assert 3 < count < 99


@pytest.mark.parametrize("encoding", [None, "utf-8", "utf-16", "iso2022_jp"])
def test_an_interrupt_after_any_call_queues_all_or_nothing(encoding):
    pieces = (b"ab", b"cd") if encoding is None else ("日", "本a")
    expected = b"abcd" if encoding is None else "日本a".encode(encoding)
    for count in range(500):
        stream = Input(encoding)
        came = interrupted_after(count, lambda stream=stream: stream.put((*pieces, EOF), EOF))
        if not stream.pending:
            stream.put((*pieces, EOF), EOF)
        with pytest.raises(ValueError, match="EOF"):
            stream.put((b"x",), EOF)
        assert sent_by(stream) == expected, count
        if not came:
            break
    assert 2 < count < 499


@pytest.mark.parametrize("encoding", [None, "utf-8", "utf-16", "iso2022_jp"])
@pytest.mark.parametrize("kind", ["queue", "file"])
def test_an_interrupt_after_any_call_sends_each_byte_once(kind, encoding):
    pieces = [b"01234", b"56789"] if encoding is None else ["a日", "本語", "本a"]
    expected = b"".join(pieces) if encoding is None else "".join(pieces).encode(encoding)
    for count in range(2000):
        if kind == "file":
            source = iter(pieces)
            stream = Input(encoding, read=lambda _, source=source: next(source, b""))
        else:
            stream = Input(encoding)
            stream.put((*pieces, EOF), EOF)
        sink = io.BytesIO()
        came = interrupted_after(count, lambda stream=stream, sink=sink: send(stream, sink))
        assert send(stream, sink) is True
        assert sink.getvalue() == expected, count
        if not came:
            break
    assert 10 < count < 1999
