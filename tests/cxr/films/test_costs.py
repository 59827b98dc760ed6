"""No file costs more than two seconds of a core, or 300 MB beyond its own size, before it is answered or refused."""

from __future__ import annotations

import os
import signal
import struct
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from benchmarks.fuzz import KINDS, MOST_CPU_S, MOST_MEMORY, Cost, costs
from benchmarks.hostile_parts import (
    PRIVATE,
    SEQUENCE,
    chunk,
    dicom_with,
    element,
    encapsulated,
    exif,
    explicit,
    item,
    jpeg_with,
    of_syntax,
    pictures,
    png_with,
    segment,
    undefined,
)
from cxr.errors import InputError
from cxr.films.decode import decode
from cxr.films.film import MAX_BYTES

SAMPLE: Final = 120  # inputs of the fuzzer, of which `python -m benchmarks.fuzz 60000` reads more


def runs(segment: bytes) -> bytes:
    """A film in RLE of one segment, which Pillow refuses."""
    frame = struct.pack("<16L", 1, *[64] * 15) + segment
    return encapsulated(item() + item(frame), b"1.2.840.10008.1.2.5", 7000, 7000)


CHARSETS: Final = b"\\" * 40_000_000
COSTLY: Final[dict[str, Callable[[], bytes]]] = {
    "character sets": lambda: dicom_with(element(0x08, 0x05, CHARSETS)),
    "character sets in an item": lambda: dicom_with(undefined(*SEQUENCE, item(element(0x08, 0x05, CHARSETS)))),
    "character sets in a private item": lambda: dicom_with(undefined(*PRIVATE, item(element(0x08, 0x05, CHARSETS)))),
    "character sets in many items": lambda: dicom_with(
        undefined(*PRIVATE, item(element(0x08, 0x05, CHARSETS[:4000])) * 9000)
    ),
    "transfer syntaxes": lambda: bytes(128) + b"DICM" + explicit(0x02, 0x10, b"UN", CHARSETS),
    "empty items": lambda: dicom_with(element(*SEQUENCE, item() * 5_000_000)),
    "empty items without length": lambda: dicom_with(undefined(*SEQUENCE, item() * 5_000_000)),
    "empty items inside the first": lambda: dicom_with(
        element(*SEQUENCE, item(undefined(*SEQUENCE, item() * 130_000)))
    ),
    "empty elements": lambda: dicom_with(element(*PRIVATE, b"") * 5_000_000),
    "a long text": lambda: dicom_with(element(0x18, 0x5101, b"PA\\" * 15_000_000)),
    "empty fragments": lambda: encapsulated(item() * 5_000_000),
    "an offset table": lambda: encapsulated(item(bytes(44_000_000)) + item(pictures()["JPEG"] + b"\0")),
    "runs of nothing": lambda: runs(bytes([128]) * 47_000_000),
    "runs of one": lambda: runs(bytes([0, 1]) * 23_000_000),
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


def test_drawn_files_keep_within_their_cost_raise_nothing_untyped_and_are_in_no_message() -> None:
    found = list(costs(range(1_000_000, 1_000_000 + SAMPLE)))
    assert [one for one in found if one.fault] == []
    assert {one.kind for one in found} >= {*KINDS}
    assert {"answered", "DAMAGED_IMAGE"} <= {one.outcome for one in found}


def test_a_file_that_ends_the_process_is_told_and_the_next_ones_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the fuzzer could not fail."""

    def deadly(seed: int) -> Cost:
        if seed == 1:
            os.kill(os.getpid(), signal.SIGSEGV)
        return Cost(seed, "drawn", 0, 0.0, 0, "answered")

    monkeypatch.setattr("benchmarks.fuzz.cost_of", deadly)
    assert [(one.seed, one.outcome) for one in costs(range(3))] == [(0, "answered"), (1, "dead"), (2, "answered")]
