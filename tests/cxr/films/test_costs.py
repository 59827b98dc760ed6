"""No file costs more than two seconds of a core, or 300 MB beyond its own size, before it is answered or refused."""

from __future__ import annotations

import os
import random
import struct
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from cxr.errors import InputError
from cxr.films.decode import decode
from cxr.films.film import MAX_BYTES
from tests.films import encoded, film

MOST_CPU_S: Final = 2.0
MOST_MEMORY: Final = 300 << 20
FUZZED: Final = int(os.environ.get("PNEUMOSCAN_FUZZ", "300"))  # inputs

JPEG: Final = encoded(film(1, 300, 260), "JPEG", quality=90)
PNG: Final = encoded(film(1, 300, 260))
SEQUENCE: Final = (0x0028, 0x3010)  # VOI LUT Sequence, which is looked at
PRIVATE: Final = (0x0029, 0x1010)


def element(group: int, number: int, value: bytes) -> bytes:
    """Of an implicit little endian data set."""
    return struct.pack("<HHL", group, number, len(value)) + value


def undefined(group: int, number: int, items: bytes) -> bytes:
    """A sequence of undefined length."""
    return struct.pack("<HHL", group, number, 0xFFFFFFFF) + items + struct.pack("<HHL", 0xFFFE, 0xE0DD, 0)


def item(value: bytes = b"") -> bytes:
    return struct.pack("<HHL", 0xFFFE, 0xE000, len(value)) + value


def words(group: int, number: int, value: int) -> bytes:
    return element(group, number, struct.pack("<H", value))


def of_syntax(syntax: bytes) -> bytes:
    body = b"\x02\x00\x10\x00UI" + struct.pack("<H", len(syntax)) + syntax
    return bytes(128) + b"DICM" + b"\x02\x00\x00\x00UL\x04\x00" + struct.pack("<L", len(body)) + body


def dicom_with(*more: bytes) -> bytes:
    """A good film with elements more."""
    needed = [
        *(element(0x08, 0x60, b"DX"), words(0x28, 0x02, 1), element(0x28, 0x04, b"MONOCHROME2 ")),
        *(words(0x28, 0x10, 300), words(0x28, 0x11, 260), words(0x28, 0x100, 8), words(0x28, 0x101, 8)),
        *(words(0x28, 0x102, 7), words(0x28, 0x103, 0)),
    ]
    parts = sorted((*needed, *more), key=lambda part: struct.unpack_from("<HH", part))
    pixels = element(0x7FE0, 0x10, film(1, 300, 260).tobytes())
    return of_syntax(b"1.2.840.10008.1.2\0") + b"".join(parts) + pixels


def encapsulated(fragments: bytes) -> bytes:
    """A film in JPEG, explicit little endian."""

    def short(group: int, number: int, vr: bytes, value: bytes) -> bytes:
        return struct.pack("<HH", group, number) + vr + struct.pack("<H", len(value)) + value

    two = struct.Struct("<H").pack
    values = (*((0x02, 1), (0x10, 300), (0x11, 260)), *((0x100, 8), (0x101, 8), (0x102, 7), (0x103, 0)))
    head = short(0x08, 0x60, b"CS", b"DX") + short(0x28, 0x04, b"CS", b"MONOCHROME2 ")
    head += b"".join(short(0x28, number, b"US", two(value)) for number, value in values)
    pixels = struct.pack("<HH", 0x7FE0, 0x10) + b"OB\0\0\xff\xff\xff\xff" + fragments
    return of_syntax(b"1.2.840.10008.1.2.4.50") + head + pixels + struct.pack("<HHL", 0xFFFE, 0xE0DD, 0)


def segment(marker: int, value: bytes) -> bytes:
    return b"\xff" + bytes([marker]) + struct.pack(">H", len(value) + 2) + value


def jpeg_with(*segments: bytes) -> bytes:
    return JPEG[:2] + b"".join(segments) + JPEG[2:]


def chunk(name: bytes, value: bytes) -> bytes:
    return struct.pack(">I", len(value)) + name + value + struct.pack(">I", zlib.crc32(name + value))


def png_with(*chunks: bytes) -> bytes:
    return PNG[:33] + b"".join(chunks) + PNG[33:]


def exif(entries: int) -> bytes:
    directory = b"".join(struct.pack("<HHLL", number, 4, 1, 1) for number in range(entries))
    return b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", entries) + directory + bytes(4)


CHARSETS: Final = b"\\" * 40_000_000
COSTLY: Final[dict[str, Callable[[], bytes]]] = {
    "character sets": lambda: dicom_with(element(0x08, 0x05, CHARSETS)),
    "character sets in an item": lambda: dicom_with(undefined(*SEQUENCE, item(element(0x08, 0x05, CHARSETS)))),
    "character sets in a private item": lambda: dicom_with(undefined(*PRIVATE, item(element(0x08, 0x05, CHARSETS)))),
    "character sets in many items": lambda: dicom_with(
        undefined(*PRIVATE, item(element(0x08, 0x05, CHARSETS[:4000])) * 9000)
    ),
    "empty items": lambda: dicom_with(element(*SEQUENCE, item() * 5_000_000)),
    "empty items without length": lambda: dicom_with(undefined(*SEQUENCE, item() * 5_000_000)),
    "empty items inside the first": lambda: dicom_with(
        element(*SEQUENCE, item(undefined(*SEQUENCE, item() * 130_000)))
    ),
    "empty elements": lambda: dicom_with(element(*PRIVATE, b"") * 5_000_000),
    "a long text": lambda: dicom_with(element(0x18, 0x5101, b"PA\\" * 15_000_000)),
    "empty fragments": lambda: encapsulated(item() * 5_000_000),
    "an offset table": lambda: encapsulated(item(bytes(44_000_000)) + item(JPEG + bytes(len(JPEG) % 2))),
    "Exif in a JPEG": lambda: jpeg_with(segment(0xE1, exif(5400)) * 700),
    "Exif in a JPEG in a DICOM file": lambda: encapsulated(item() + item(jpeg_with(segment(0xE1, exif(5400)) * 700))),
    "tables in a JPEG": lambda: jpeg_with(segment(0xDB, (b"\0" + bytes(range(1, 65))) * 1000) * 700),
    "text in a PNG": lambda: png_with(chunk(b"tEXt", b"k\0" + bytes(45_000_000))),
    "packed text in a PNG": lambda: png_with(chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(45_000_000), 9)) * 20),
    "Exif in a PNG": lambda: png_with(chunk(b"eXIf", exif(60_000)[6:])),
}


def cost(data: bytes) -> tuple[float, int, str]:
    """Seconds of a core, bytes of memory beyond what stood before, and what came out."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    before, started = _memory("VmRSS"), time.process_time()
    outcome = outcome_of(data)[0]
    return time.process_time() - started, _memory("VmHWM") - before, outcome


def outcome_of(data: bytes) -> tuple[str, str]:
    """The code of the refusal and its words."""
    try:
        decode(data)
    except InputError as error:
        return error.code, error.detail
    return "answered", ""


def _memory(name: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(name))


@pytest.mark.parametrize("kind", COSTLY)
def test_a_file_made_to_be_costly_is_not(kind: str) -> None:
    data = COSTLY[kind]()
    assert len(data) <= MAX_BYTES
    cpu_s, memory, outcome = cost(data)
    assert cpu_s < MOST_CPU_S, outcome
    assert memory < MOST_MEMORY + len(data), outcome


@pytest.mark.parametrize("keyword", [(0x28, 0x10), (0x28, 0x100), (0x28, 0x101), (0x28, 0x103), (0x28, 0x08)])
@pytest.mark.parametrize("value", [b"9" * 4000, b"-1", b"1e300 ", b"nan ", b"\xff" * 40])
def test_a_number_of_a_tag_is_in_no_message(keyword: tuple[int, int], value: bytes) -> None:
    """As an explicit data set that gives the element a VR of texts."""
    plain = dicom_with()
    start = plain.index(b"DICM") + 4
    rest = plain[start + 12 + 8 + 18 :]
    text = b"".join(_as_explicit(rest, keyword, value))
    _, words_of = outcome_of(of_syntax(b"1.2.840.10008.1.2.1\0") + text)
    assert len(words_of) < 200
    assert value.decode("latin_1").strip()[:20] not in words_of


def _as_explicit(data: bytes, keyword: tuple[int, int], value: bytes) -> list[bytes]:
    parts, at = [], 0
    if keyword == (0x28, 0x08):
        parts.append(struct.pack("<HH2sH", *keyword, b"IS", len(value)) + value)
    while at < len(data):
        group, number, length = struct.unpack_from("<HHL", data, at)
        found = data[at + 8 : at + 8 + length]
        at += 8 + length
        if (group, number) == keyword:
            parts.append(struct.pack("<HH2sH", group, number, b"IS", len(value)) + value)
        elif group == 0x7FE0:
            parts.append(struct.pack("<HH2sHL", group, number, b"OW", 0, length) + found)
        else:
            vr = b"CS" if length > 2 or number == 0x60 else b"US"
            parts.append(struct.pack("<HH2sH", group, number, vr, length) + found)
    return parts


def drawn(rng: random.Random) -> bytes:
    """A file of parts that readers build objects for, now and then with bytes changed."""
    many = int(10 ** rng.uniform(0, 4.5))
    small = rng.choice([b"", b"\\" * rng.randrange(64), rng.randbytes(rng.randrange(40)), b"9" * rng.randrange(400)])
    tag = rng.choice([(0x08, 0x05), SEQUENCE, PRIVATE, (0x28, 0x1050), (0x08, 0x2218), (0x18, 0x5101), (0x28, 0x08)])
    nested = item(small)
    for _ in range(int(10 ** rng.uniform(0, 3))):
        nested = item(undefined(*rng.choice([SEQUENCE, PRIVATE]), nested))
    markers, names = [0xE0, 0xE1, 0xE2, 0xED, 0xFE, 0xDB, 0xC4], [b"tEXt", b"zTXt", b"eXIf", b"iCCP", b"tRNS", b"IDAT"]
    forms: list[Callable[[], bytes]] = [
        lambda: dicom_with(element(*tag, small * many)),
        lambda: dicom_with(undefined(*tag, item(element(*tag, small)) * many)),
        lambda: dicom_with(undefined(*SEQUENCE, nested)),
        lambda: dicom_with(*[element(*tag, small)] * many),
        lambda: encapsulated(item(small) * many),
        lambda: jpeg_with(segment(rng.choice(markers), exif(many % 5000)) * (many % 900)),
        lambda: png_with(*[chunk(rng.choice(names), small)] * many),
        lambda: encapsulated(item() + item(jpeg_with(segment(0xE1, exif(many % 5000))))),
    ]
    data = rng.choice(forms)()
    if rng.random() < 0.4:
        changed = bytearray(data[:MAX_BYTES])
        for _ in range(rng.randrange(1, 12)):
            changed[rng.randrange(min(len(changed), 4000))] = rng.randrange(256)
        data = bytes(changed)
    return data[:MAX_BYTES]


@pytest.mark.slow
def test_drawn_files_keep_within_their_cost_and_raise_nothing_untyped() -> None:
    """PNEUMOSCAN_FUZZ says how many; the costliest ten are printed."""
    found = []
    for seed in range(FUZZED):
        data = drawn(random.Random(seed))
        cpu_s, memory, outcome = cost(data)
        found.append((cpu_s, memory, seed, len(data), outcome))
        assert cpu_s < MOST_CPU_S, found[-1]
        assert memory < MOST_MEMORY + len(data), found[-1]
    for cpu_s, memory, seed, size, outcome in sorted(found, reverse=True)[:10]:
        print(f"seed {seed}: {size:,} bytes, {cpu_s:.2f} CPU-s, {memory / 2**20:.0f} MB, {outcome}")
