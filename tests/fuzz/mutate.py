"""Damages files in ways that keep enough of their form to reach deep into a reader.

Every function takes a ``random.Random`` and bytes and gives bytes; the same generator gives the same
bytes, so that an input is known by its seed and number. What a file is (zip, gzip, JSON, text with or
without binary behind it, a pickle, an array of NumPy, a header of JSON behind its length) is told by
its content.
"""

import contextlib
import gzip
import io
import json
import pickletools
import random
import re
import struct
import zipfile
import zlib

MOST_BYTES = 1 << 17  # of an input: bombs must be small to count as such
_INTERESTING = (
    *(0, 1, 2, 3, 4, 7, 8, 15, 16, 17, 31, 32, 63, 64, 100, 127, 128, 255, 256, 257, 1000, 4096),
    *(0x7FFF, 0x8000, 0xFFFF, 0x10000, 1 << 20, 1 << 24, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF),
    *(1 << 32, 1 << 40, (1 << 53) + 1, (1 << 62), (1 << 63) - 1, 1 << 63, (1 << 64) - 1),
)
_NUMBERS = (
    *("0", "-0", "1", "-1", "2", "255", "65536", "2147483648", "4294967295", "9223372036854775807"),
    *("9223372036854775808", "18446744073709551616", "1" + "0" * 30, "9" * 400, "9" * 5000),
    *("0.5", "-3.7", "1e308", "1e-320", "1e400", "-1e400", "nan", "NaN", "inf", "-Infinity", "1_0"),
    *("0x10", "1.5.2", "+7", "", " ", "\u0663", "1e5", "00012"),
)
_TEXTS = (
    *("", " ", "\n", "\r", "\x00", "..", "../../etc/passwd", "/", "/etc/passwd", "a/b", "\\", "~"),
    *(
        "a" * 300,
        "a" * 5000,
        "\u00e9\u4e2d\U0001f600",
        "%s%n",
        "{0.__class__}",
        "null",
        "None",
        "-",
    ),
    *("x" * 256 + ".png", "images/000.png", "file:///etc/passwd", ".", "con\x00.png", "\ud800"),
)
_NUMBER = re.compile(rb"-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?")
_TOKEN = re.compile(rb"[^\s\"',:\[\]{}()]+")


def mutate(rng: random.Random, data: bytes, others: list[bytes]) -> bytes:
    """Bytes that differ from ``data`` by one to a few mutations.

    Args:
        rng: source of all choices.
        data: a file.
        others: files of the same kind, to take pieces from.
    """
    for _ in range(1 if rng.random() < 0.6 else rng.randint(2, 5)):
        data = _once(rng, data, others)[:MOST_BYTES]
    return data


def _once(rng: random.Random, data: bytes, others: list[bytes], depth: int = 0) -> bytes:
    structured = [f for known, f in _STRUCTURES if known(data)] if depth < 4 else []
    if structured and rng.random() < 0.75:
        # A damaged structure may be beyond taking apart: it is then damaged further as plain bytes.
        with contextlib.suppress(Exception):
            return rng.choice(structured)(rng, data, others, depth)
    return rng.choice(_PLAIN)(rng, data, others)


# Plain bytes.


def _flip_bits(rng, data, others):
    if not data:
        return b"\x00"
    data = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 8))):
        data[_place(rng, len(data))] ^= 1 << rng.randrange(8)
    return bytes(data)


def _place(rng, size: int) -> int:
    """A place in a file, often near its begin or end, where headers and tables are."""
    kind = rng.random()
    if kind < 0.4:
        return rng.randrange(min(size, 96))
    return size - 1 - rng.randrange(min(size, 96)) if kind < 0.55 else rng.randrange(size)


def _set_bytes(rng, data, others):
    if not data:
        return b"\xff"
    place = _place(rng, len(data))
    filling = rng.choice((b"\x00", b"\xff", b"\x80", b"\n", b'"', rng.randbytes(1)))
    return data[:place] + filling * rng.choice((1, 1, 2, 4, 8)) + data[place + 1 :]


def _set_number(rng, data, others):
    """Overwrites an integer of 1 to 8 bytes."""
    width = rng.choice((1, 2, 4, 4, 8, 8))
    if len(data) < width:
        return data + bytes(width)
    place = min(_place(rng, len(data)), len(data) - width)
    if rng.random() < 0.7:
        place -= place % min(width, 4)
    order = rng.choice(("little", "little", "little", "big"))
    old = int.from_bytes(data[place : place + width], order)
    near = rng.choice((old + 1, old - 1, old * 2, old // 2, len(data), len(data) - place))
    value = rng.choice(_INTERESTING) if rng.random() < 0.6 else near
    value &= (1 << 8 * width) - 1
    return data[:place] + value.to_bytes(width, order) + data[place + width :]


def _set_length(rng, data, others):
    """Changes a number that may well be a length: one from 1 to the file's size, where it lies aligned."""
    found = []
    for place in range(0, min(len(data) - 4, 4096), rng.choice((1, 2, 4))):
        (value,) = struct.unpack_from("<I", data, place)
        if 0 < value <= len(data):
            found.append(place)
    if not found:
        return _set_number(rng, data, others)
    place = rng.choice(found)
    (old,) = struct.unpack_from("<I", data, place)
    value = rng.choice((old - 1, old + 1, old * 3, 0, len(data), *_INTERESTING)) & 0xFFFFFFFF
    return data[:place] + struct.pack("<I", value) + data[place + 4 :]


def _truncate(rng, data, others):
    if not data:
        return data
    return data[: rng.choice((_place(rng, len(data)), rng.randrange(len(data)), len(data) - 1))]


def _extend(rng, data, others):
    more = rng.choice((b"\x00", b"\n", b"}", rng.randbytes(7), bytes(64), data[-32:], data))
    return data + more


def _cut(rng, data, others):
    if not data:
        return data
    place = _place(rng, len(data))
    return data[:place] + data[place + rng.choice((1, 1, 2, 4, 8, 16, 100)) :]


def _repeat(rng, data, others):
    if not data:
        return data
    place, size = _place(rng, len(data)), rng.choice((1, 4, 8, 32, 200))
    return (
        data[: place + size] + data[place : place + size] * rng.randint(1, 3) + data[place + size :]
    )


def _splice(rng, data, others):
    """The first part of one file and the last of another, or a piece of it in the middle."""
    other = rng.choice(others) if others else data
    if not data or not other:
        return data + other
    place, from_ = rng.randrange(len(data)), rng.randrange(len(other))
    if rng.random() < 0.5:
        return data[:place] + other[min(place, len(other)) :]
    piece = other[from_ : from_ + rng.choice((4, 16, 64, 256))]
    return data[:place] + piece + data[place + rng.choice((0, len(piece))) :]


_PLAIN = (
    *(_flip_bits, _set_bytes, _set_number, _set_number, _set_length, _truncate, _extend, _cut),
    *(_repeat, _splice),
)


# Text.


def _number_text(rng, data, others, depth):
    found = list(_NUMBER.finditer(data[: 1 << 14]))
    hit = rng.choice(found)
    return data[: hit.start()] + rng.choice(_NUMBERS).encode() + data[hit.end() :]


def _token_text(rng, data, others, depth):
    found = list(_TOKEN.finditer(data[: 1 << 14]))
    hit = rng.choice(found)
    new = rng.choice(found).group()
    if rng.random() < 0.5:
        new = rng.choice((*_TEXTS, *_NUMBERS)).encode("utf-8", "surrogatepass")
    return data[: hit.start()] + new + data[hit.end() :]


def _lines_text(rng, data, others, depth):
    """Drops, doubles, moves or exchanges lines; those of a header, where binary data follow."""
    end = data.find(b"end_header")
    head, tail = (data, b"") if end < 0 else (data[:end], data[end:])
    lines = head.split(b"\n")
    place, other = rng.randrange(len(lines)), rng.randrange(len(lines))
    kind = rng.randrange(5)
    if kind == 0:
        del lines[place]
    elif kind == 1:
        lines.insert(other, lines[place])
    elif kind == 2:
        lines[place], lines[other] = lines[other], lines[place]
    elif kind == 3:
        lines[place] = lines[place] + rng.choice((b" ", b" 1", b" x", b"\r", b"\t", b",", b"#"))
    else:
        lines.insert(place, lines[other] * rng.randint(1, 3))
    return b"\n".join(lines) + tail


# JSON.


def _nested(rng) -> str:
    levels = rng.choice((50, 990, 3000, 20000))
    return rng.choice(("[" * levels + "]" * levels, '{"a":' * levels + "1" + "}" * levels))


def _odd_value(rng):
    return rng.choice(
        (
            *(None, True, False, 0, 1, -1, 0.5, -2.5, 1e308, 1e-320, float("nan"), float("inf")),
            *(2**31, 2**53 + 1, 2**63, 10**30, 10**400, -(2**63)),
            *({}, [], [[]], [None], {"": None}, [0] * 20, [[1, 2], [3]], ["a"]),
            rng.choice(_TEXTS),
        )
    )


def _json(rng, data, others, depth):
    tree = json.loads(data)
    if rng.random() < 0.04:
        mark = "9876543210123456789"
        text = json.dumps(_with_change(rng, tree, lambda old: int(mark)))
        return text.replace(mark, _nested(rng), 1).encode("utf-8", "surrogatepass")
    for _ in range(rng.choice((1, 1, 2, 4))):
        tree = _with_change(rng, tree, lambda old: _changed(rng, old))
    return json.dumps(tree, ensure_ascii=rng.random() < 0.8).encode("utf-8", "surrogatepass")


def _changed(rng, old):
    kind = rng.random()
    if isinstance(old, bool) or old is None or kind < 0.35:
        return _odd_value(rng)
    if isinstance(old, int | float):
        with contextlib.suppress(OverflowError):
            return rng.choice(
                (old + 1, old - 1, -old, old * 2, float(old), str(old), [old], old * 1e6)
            )
        return 0
    if isinstance(old, str):
        other = rng.choice(_TEXTS)
        return rng.choice((old + other, other + old, old[:-1], old.upper(), old * 2, [old], other))
    if isinstance(old, list):
        return rng.choice((old[:-1], old + old[:1], old[::-1], old * 2, [old], {"0": old}, old[1:]))
    keys = list(old)
    if not keys or kind < 0.5:
        return {**old, rng.choice(_TEXTS): _odd_value(rng)}
    key = rng.choice(keys)
    if kind < 0.8:
        return {k: v for k, v in old.items() if k != key}
    return {(k + "x" if k == key else k): v for k, v in old.items()}


def _with_change(rng, tree, change):
    """The tree with one node changed; nodes near the root are as likely as all those far from it."""
    if isinstance(tree, dict) and tree and rng.random() < 0.85:
        key = rng.choice(list(tree))
        return {k: _with_change(rng, v, change) if k == key else v for k, v in tree.items()}
    if isinstance(tree, list) and tree and rng.random() < 0.85:
        place = rng.randrange(len(tree))
        return [_with_change(rng, v, change) if i == place else v for i, v in enumerate(tree)]
    return change(tree)


# A header of JSON behind its length: safetensors (8 bytes), packed arrays (a magic word and 4 bytes).


def _framed(rng, data, others, depth):
    start, width = (0, 8) if data[8:9] == b"{" else (8, 4)
    size = int.from_bytes(data[start : start + width], "little")
    place = start + width
    text = _json(rng, data[place : place + size], [], depth)
    text += b" " * (-(place + len(text)) % 16)
    return data[:start] + len(text).to_bytes(width, "little") + text + data[place + size :]


# Archives and streams.


def _zip(rng, data, others, depth):
    """Takes an archive apart, changes a member or the list of them, and puts it together again."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = [(info.filename, archive.read(info)) for info in archive.infolist()[:64]]
    method = zipfile.ZIP_STORED
    place, kind = rng.randrange(len(members)), rng.random()
    name, content = members[place]
    if kind < 0.7:
        members[place] = name, _once(rng, content, [c for _, c in members], depth + 1)
    elif kind < 0.75:
        del members[place]
    elif kind < 0.8:
        other = rng.choice(("x", "/x", "../x", "", "data.pkl", "a" * 400, "\u4e2d", name + "x"))
        members[place] = other, content
    elif kind < 0.85:
        members.append((name, rng.choice(members)[1]))
    elif kind < 0.9:
        other = rng.randrange(len(members))
        members[place], members[other] = (name, members[other][1]), (members[other][0], content)
    elif kind < 0.95:
        method = rng.choice((zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA))
    else:  # a bomb: zeros, packed a thousand to one
        method = zipfile.ZIP_DEFLATED
        members[place] = name, content + bytes(rng.choice((1 << 12, 1 << 16, 1 << 21)))
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as archive:
        for name, content in members:
            info = zipfile.ZipInfo(name)
            info.compress_type = method
            archive.writestr(info, content, compresslevel=1)
    return stream.getvalue()


def _zip_tables(rng, data, others, depth):
    """Changes a field of a local header, an entry of the directory, or the record at its end."""
    marks = [m.start() for m in re.finditer(rb"PK(?:\x01\x02|\x03\x04|\x05\x06)", data)]
    mark = rng.choice(marks)
    place = mark + rng.randrange(4, 46)
    width = rng.choice((2, 4))
    value = rng.choice((*_INTERESTING, len(data))) & ((1 << 8 * width) - 1)
    return data[:place] + value.to_bytes(width, "little") + data[place + width :]


def _gzip(rng, data, others, depth):
    inner = zlib.decompressobj(31).decompress(data, 1 << 20)
    if rng.random() < 0.1:
        inner += bytes(rng.choice((1, 1000, 1 << 16, 1 << 21)))
    else:
        inner = _once(rng, inner, [], depth + 1)
    return gzip.compress(inner, 1, mtime=0)


def _zstd(rng, data, others, depth):
    """SPZ 4: one stream packed anew from changed content, with or without its size in the frame."""
    import zstandard

    count, start = data[15], int.from_bytes(data[16:20], "little")
    sizes = list(struct.iter_unpack("<QQ", data[start : start + 16 * count]))
    chosen, place, parts = rng.randrange(count), start + 16 * count, []
    for index, (packed, size) in enumerate(sizes):
        chunk, place = data[place : place + packed], place + packed
        if index == chosen:
            plain = zstandard.ZstdDecompressor().decompress(chunk, max_output_size=1 << 20)
            plain = rng.choice((plain + bytes(1 << 20), _once(rng, plain, [], depth + 1), plain))
            frame = zstandard.ZstdCompressor(write_content_size=rng.random() < 0.5)
            chunk = frame.compress(plain)
            size = rng.choice((size, len(plain), 1 << 40))
        parts.append((chunk, size))
    table = b"".join(struct.pack("<QQ", len(chunk), size) for chunk, size in parts)
    return data[:start] + table + b"".join(chunk for chunk, _ in parts)


def _pickle(rng, data, others, depth):
    """Drops, doubles, moves or replaces one instruction of a program."""
    places = [place for _, _, place in pickletools.genops(data)]
    ends = [*places[1:], len(data)]
    ops = [data[i:j] for i, j in zip(places, ends, strict=True)]
    place, other, kind = rng.randrange(len(ops)), rng.randrange(len(ops)), rng.randrange(5)
    if kind == 0:
        del ops[place]
    elif kind == 1:
        ops.insert(other, ops[place])
    elif kind == 2:
        ops[place], ops[other] = ops[other], ops[place]
    elif kind == 3:
        codes = [op.code.encode("latin-1") for op in pickletools.opcodes if len(op.code) == 1]
        ops[place] = rng.choice(codes) + ops[place][1:]
    else:
        number = rng.choice(_INTERESTING)
        new = (
            b"J" + struct.pack("<I", number & 0xFFFFFFFF),
            b"\x8a\x09" + number.to_bytes(9, "little"),
            b"X" + struct.pack("<I", 3) + b"abc",
            b"\x8c\x00",
            b"cbuiltins\neval\n",
            b"cos\nsystem\n",
            *(
                b"h\x00",
                b"q\x00",
                b"\x86",
                b"\x85",
                b"}",
                b"]",
                b")",
                b"N",
                b"0",
                b"2",
                b"(",
                b"R",
                b"b",
            ),
        )
        ops[place] = rng.choice(new)
    return b"".join(ops)


_DESCRIPTIONS = (
    *("'descr': '<f8'", "'descr': '>f4'", "'descr': '|O'", "'descr': '<U9'", "'descr': '|S0'"),
    *("'descr': [('a', '<f4')]", "'descr': '<c16'", "'descr': '<M8[s]'", "'descr': '|b1'"),
    *("'descr': '|V4'", "'descr': 'x'", "'descr': 5", "'descr': ('<f4', (2,))", "'descr': '<f2'"),
)
_SHAPES = (
    *(
        "()",
        "(0,)",
        "(-1,)",
        "(3,)",
        "(1, 1)",
        "(0, 9223372036854775807)",
        "(4294967296, 4294967296)",
    ),
    *("(True,)", "(1.5,)", "[3]", "3", "(-2, -7)", "(1000000000000,)", "(9" + "9" * 60 + ",)"),
)


def _npy(rng, data, others, depth):
    """Changes the header of an array: its type, its shape, its order, or any of its text."""
    wide = data[6] > 1
    start = 12 if wide else 10
    size = int.from_bytes(data[8:start], "little")
    text = data[start : start + size].decode("latin-1")
    kind = rng.randrange(5)
    if kind == 0:
        text = re.sub(r"'descr': ('[^']*'|\[[^\]]*\])", lambda _: rng.choice(_DESCRIPTIONS), text)
    elif kind in (1, 2):
        text = re.sub(r"'shape': \([^)]*\)", lambda _: f"'shape': {rng.choice(_SHAPES)}", text)
    elif kind == 3:
        text = text.replace("False", rng.choice(("True", "None", "2", "False, 'x': 1")))
    else:
        text = _token_text(rng, text.encode("latin-1"), [], 0).decode("latin-1")
    head = text.encode("latin-1", "replace")
    return data[:8] + len(head).to_bytes(start - 8, "little") + head + data[start + size :]


def _looks_like_json(data: bytes) -> bool:
    return data[:1] in (b"{", b"[") and data.rstrip()[-1:] in (b"}", b"]")


def _looks_like_text(data: bytes) -> bool:
    head = data[:64]
    return bool(head) and all(9 <= b < 127 for b in head)


def _looks_framed(data: bytes) -> bool:
    return data[8:9] == b"{" or data[:6] == b"GSPACK"


def _looks_like_pickle(data: bytes) -> bool:
    return data[:1] == b"\x80" and data[1:2] in b"\x02\x03\x04\x05" and len(data) > 2


_STRUCTURES = (
    (lambda d: d[:2] == b"PK", _zip),
    (lambda d: d[:2] == b"PK", _zip),
    (lambda d: d[:2] == b"PK", _zip_tables),
    (lambda d: d[:2] == b"\x1f\x8b", _gzip),
    (lambda d: d[:4] == b"NGSP" and d[4:5] == b"\x04", _zstd),
    (lambda d: d[:6] == b"\x93NUMPY", _npy),
    (_looks_framed, _framed),
    (_looks_like_pickle, _pickle),
    (_looks_like_json, _json),
    (_looks_like_json, _json),
    (_looks_like_text, _number_text),
    (_looks_like_text, _token_text),
    (_looks_like_text, _lines_text),
)
