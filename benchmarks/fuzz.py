"""Drawn files of every format that are read, with what they cost as the judge: ``python -m benchmarks.fuzz 60000``.

A mutation of a good film is refused early and costs nothing; what costs is a file whose parts are right and too many.
So files are put together from parts of the formats, by a seed each: elements, sequences, fragments, segments, chunks
and coded streams, more of them than any film has, and then damaged, or not. A file fails that ends the process, raises
what is not ours, has its own bytes in the message, or costs more than it may.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import struct
import sys
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from benchmarks.hostile_parts import (
    EXPLICIT,
    PRIVATE,
    SEQUENCE,
    STREAMS,
    chunk,
    dicom_with,
    element,
    encapsulated,
    exif,
    explicit,
    item,
    jpeg_with,
    nested,
    pictures,
    png_with,
    segment,
    undefined,
)
from cxr.errors import InputError
from cxr.films.decode import decode
from cxr.films.film import MAX_BYTES
from cxr.films.sandbox import SANDBOX
from cxr.serving.metrics import quiet_libraries

MOST_CPU_S: Final = 2.0
MOST_MEMORY: Final = 300 << 20
_ECHO: Final = b"77417741"  # in values; a message that has it tells of the file
_TAGS: Final = (
    *((0x08, 0x05), (0x08, 0x60), (0x08, 0x68), (0x08, 0x2218), (0x18, 0x15), (0x18, 0x5101), (0x20, 0x20), SEQUENCE),
    *(
        (0x28, 0x02),
        (0x28, 0x04),
        (0x28, 0x08),
        (0x28, 0x10),
        (0x28, 0x11),
        (0x28, 0x100),
        (0x28, 0x101),
        (0x28, 0x102),
    ),
    *((0x28, 0x103), (0x28, 0x120), (0x28, 0x121), (0x28, 0x1050), (0x28, 0x1051), (0x28, 0x1052), (0x28, 0x1053)),
    *((0x28, 0x1101), (0x28, 0x1201), (0x28, 0x3000), (0x28, 0x3002), (0x28, 0x3006), (0x54, 0x220), PRIVATE),
)
_VRS: Final = (*(b"CS", b"DS", b"IS", b"LO", b"OB", b"OW", b"SQ", b"UN", b"US", b"UT", b"FD", b"PN", b"AT", b"UC"),)


@dataclass(frozen=True)
class Cost:
    """One file and what it cost: of the process that reads films and of its decoders together."""

    seed: int
    kind: str
    size: int
    cpu_s: float
    memory: int
    outcome: str  # a code, or answered
    fault: str = ""


def drawn(seed: int) -> tuple[str, bytes]:
    """The kind and the bytes of the file of a seed."""
    rng = random.Random(seed)
    kind = rng.choice([*KINDS])
    data = KINDS[kind](rng)[:MAX_BYTES]
    if rng.random() < 0.35 and data:
        changed = bytearray(data)
        for _ in range(rng.randrange(1, 12)):
            changed[rng.randrange(min(len(changed), rng.choice([200, 4000, len(changed)])))] = rng.randrange(256)
        data = bytes(changed)
    if rng.random() < 0.1:
        data = data[: rng.randrange(len(data) + 1)]
    return kind, data


def _many(rng: random.Random, most: float = 4.0) -> int:
    return int(10 ** rng.uniform(0, most if rng.random() < 0.95 else most + 1.5))


def _value(rng: random.Random) -> bytes:
    digits = _ECHO * rng.randrange(1, 60)
    return rng.choice(
        [
            b"",
            b"\\" * rng.randrange(200),
            rng.randbytes(rng.randrange(40)),
            digits,
            digits[:8],
            b"-" + digits[:10],
            b"1\\" + digits,
            b"1e" + digits[:3],
            b"nan ",
            struct.pack("<H", rng.randrange(1 << 16)),
            b"\xff" * 8,
            b"\x1b$B" * rng.randrange(60),
            b"ISO_IR 100",
            b"\\ISO 2022 IR 87",
            "ÄÖ".encode(),
            bytes(rng.randrange(9)),
        ]
    )


def _elements(rng: random.Random) -> bytes:
    tag = rng.choice(_TAGS)
    return dicom_with(*[element(*tag, _value(rng))] * _many(rng), deflated=rng.random() < 0.2)


def _long_element(rng: random.Random) -> bytes:
    value = _value(rng) or b"\0"
    return dicom_with(element(*rng.choice(_TAGS), value * (_many(rng, 6.0) // len(value) + 1)))


def _explicit_elements(rng: random.Random) -> bytes:
    parts = [explicit(*rng.choice(_TAGS), rng.choice(_VRS), _value(rng)) for _ in range(min(_many(rng, 2.5), 3000))]
    return dicom_with(*parts * rng.choice([1, 1, 1, 20]), syntax=EXPLICIT)


def _sequences(rng: random.Random) -> bytes:
    inner = b"".join(element(*rng.choice(_TAGS), _value(rng)) for _ in range(rng.randrange(4)))
    tag = rng.choice([SEQUENCE, PRIVATE, (0x08, 0x2218), (0x54, 0x220), (0x28, 0x3000)])
    form = rng.choice([undefined, element])
    return dicom_with(form(*tag, item(inner) * _many(rng, 5.0)), deflated=rng.random() < 0.2)


def _nested(rng: random.Random) -> bytes:
    return dicom_with(nested(rng.choice([SEQUENCE, PRIVATE]), _many(rng, 3.5), _value(rng), closed=rng.random() < 0.5))


def _look_up_tables(rng: random.Random) -> bytes:
    entries = rng.choice([0, 1, 256, 4096, 65535])
    descriptor = struct.pack("<3H", entries, rng.randrange(1 << 16), rng.choice([0, 8, 12, 16, 99]))
    table = element(0x28, 0x3002, descriptor) + element(0x28, 0x3006, rng.randbytes(min(_many(rng, 5.0), 1 << 18)))
    tag = rng.choice([(0x28, 0x3000), SEQUENCE])
    return dicom_with(element(*tag, item(table) * rng.choice([1, 1, 40])))


def _large(rng: random.Random) -> bytes:
    """A film as large as may be, of values that cost most to bring to greys."""
    rows, columns = rng.choice([(6000, 4000), (64, 65535), (65535, 64), (4000, 3000), (7000, 7000)])
    window = element(0x28, 0x1050, _value(rng)) + element(0x28, 0x1051, _value(rng))
    deep = rng.random() < 0.5 and rows * columns * 2 < MAX_BYTES - 4096
    pixels = rng.randbytes(1 << 16) * (rows * columns * (2 if deep else 1) // (1 << 16) + 1)
    return dicom_with(
        *([window] if rng.random() < 0.5 else []),
        rows=rows,
        columns=columns,
        bits=16 if deep else 8,
        pixels=pixels[: rows * columns * (2 if deep else 1)],
    )


def _fragments(rng: random.Random) -> bytes:
    syntax = rng.choice([*STREAMS, b"1.2.840.10008.1.2.5"])
    return encapsulated(item(rng.choice([b"", bytes(4), _value(rng)])) * _many(rng, 5.0), syntax)


def _runs(rng: random.Random) -> bytes:
    """RLE: runs that are too short or too long."""
    body = rng.choice([bytes([129, 7]), bytes([0, 1]), bytes([128]), rng.randbytes(64)]) * _many(rng, 5.5)
    frame = struct.pack("<16L", rng.choice([1, 1, 1, 2, 15]), 64, *[rng.randrange(1 << 20)] * 14) + body
    side = rng.choice([(300, 260), (7000, 7000), (64, 65535)])
    return encapsulated(item() + item(frame + bytes(len(frame) % 2)), b"1.2.840.10008.1.2.5", *side)


def _stream(rng: random.Random) -> bytes:
    """A coded stream with bytes changed behind its header, or its announced size with it."""
    syntax, coded = rng.choice([*STREAMS.items()])
    stream = bytearray(coded())
    for _ in range(rng.choice([0, 1, 3, 30])):
        stream[rng.randrange(2, len(stream))] = rng.randrange(256)
    if rng.random() < 0.2:
        del stream[rng.randrange(40, len(stream)) :]
    if rng.random() < 0.2:
        at = rng.randrange(len(stream))
        stream[at:at] = stream[at : at + 64] * min(_many(rng, 3.0), 5000)
    return encapsulated(item() + item(bytes(stream) + bytes(len(stream) % 2)), syntax)


def _segments(rng: random.Random) -> bytes:
    markers = [0xE0, 0xE1, 0xE2, 0xED, 0xFE, 0xDB, 0xC4, 0xDD, 0xC0, 0xC2]
    bodies = [exif(_many(rng) % 5000), _value(rng), bytes(rng.randrange(60_000)), (b"\0" + bytes(range(1, 65))) * 900]
    parts = [segment(rng.choice(markers), rng.choice(bodies)) for _ in range(min(_many(rng, 3.0), 1200))]
    return jpeg_with(*parts) if rng.random() < 0.7 else encapsulated(item() + item(jpeg_with(*parts)))


def _scans(rng: random.Random) -> bytes:
    """A progressive JPEG, its last scans again and again, its sides changed."""
    data = bytearray(pictures()["progressive"])
    last = data.rindex(b"\xff\xda")
    data[-2:] = data[last:-2] * min(_many(rng, 2.5), 20_000) + b"\xff\xd9"
    if rng.random() < 0.5:
        at = data.index(b"\xff\xc2") + 5
        data[at : at + 4] = struct.pack(">HH", *rng.choice([(7000, 7000), (300, 65500), (65500, 700), (4000, 3000)]))
    return bytes(data)


def _chunks(rng: random.Random) -> bytes:
    names = [b"tEXt", b"zTXt", b"iTXt", b"eXIf", b"iCCP", b"tRNS", b"PLTE", b"sBIT", b"gAMA", b"acTL", b"fdAT", b"IDAT"]
    packed = b"k\0\0" + zlib.compress(bytes(_many(rng, 6.0)), 9)
    bodies = [_value(rng), packed, exif(_many(rng, 3.0))[6:], b"k\0" + bytes(min(_many(rng, 6.0), 4_000_000))]
    return png_with(*[chunk(rng.choice(names), rng.choice(bodies)) for _ in range(min(_many(rng, 2.5), 1500))])


def _rows(rng: random.Random) -> bytes:
    """A PNG whose pixels are fewer, more or packed thousandfold."""
    depth, colour = rng.choice([(8, 0), (16, 0), (8, 2), (16, 2), (16, 6), (16, 4), (1, 0), (8, 3), (8, 6)])
    width, height = rng.choice([(300, 260), (7000, 7000), (65535, 700), (700, 65535), (4000, 4000)])
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, rng.choice([0, 0, 1]))
    data = zlib.compress(bytes([rng.randrange(5)]) * min(_many(rng, 7.0), 60_000_000), rng.choice([1, 9]))
    parts = [chunk(b"IHDR", header), chunk(b"PLTE", bytes(768)), chunk(b"IDAT", data), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


KINDS: Final[dict[str, Callable[[random.Random], bytes]]] = {
    **{"elements": _elements, "a long element": _long_element, "explicit elements": _explicit_elements},
    **{"sequences": _sequences, "nested sequences": _nested, "look-up tables": _look_up_tables},
    **{"fragments": _fragments, "runs": _runs, "coded streams": _stream, "segments": _segments, "scans": _scans},
    **{"chunks": _chunks, "rows": _rows},
}
_LARGE_EVERY: Final = 500  # large films take their time, and rightly


def cost_of(seed: int) -> Cost:
    """Read the file of a seed, and see what that costs and whether it ends as it may."""
    kind, data = ("large films", _large(random.Random(seed))) if seed % _LARGE_EVERY == 7 else drawn(seed)
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    resident, started = _memory("VmRSS"), _cpu_s()
    outcome = fault = ""
    try:
        decode(data, 224 if seed % 2 else None)
        outcome = "answered"
    except InputError as error:
        outcome = error.code
        if _ECHO[:4].decode() in error.detail or not error.detail.isprintable() or len(error.detail) > 500:
            fault = f"tells of the file: {error.detail[:80]}"
    except Exception as error:
        outcome = type(error).__name__
        fault = f"untyped: {outcome}"
    cpu_s, memory = _cpu_s() - started, max(0, _memory("VmHWM") - resident)
    if not fault and outcome != "answered" and (cpu_s > MOST_CPU_S or memory > MOST_MEMORY + len(data)):
        fault = "costs too much"
    return Cost(seed, kind, len(data), round(cpu_s, 3), memory, outcome, fault)


def _memory(name: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(name))


def _cpu_s() -> float:
    """Of this process, the decoders' helper and all decoders that have ended."""
    helper = SANDBOX.process_id
    spent = 0
    if helper is not None:
        fields = Path(f"/proc/{helper}/stat").read_text(encoding="ascii").rsplit(")", 1)[1].split()
        spent = sum(map(int, fields[11:15]))
    return time.process_time() + spent / os.sysconf("SC_CLK_TCK")


def costs(seeds: range) -> Iterator[Cost]:
    """What the files of seeds cost, each read by a process that starts again where one ends it."""
    left = list(seeds)
    while left:
        answers, its_end = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(answers)
            quiet_libraries()
            with os.fdopen(its_end, "w", encoding="ascii") as told:
                for seed in left:
                    print(json.dumps(asdict(cost_of(seed))), file=told, flush=True)
            SANDBOX.close()
            os._exit(0)
        os.close(its_end)
        with os.fdopen(answers, encoding="ascii") as told:
            for line in told:
                yield Cost(**json.loads(line))
                left.pop(0)
        _, status = os.waitpid(pid, 0)
        if left:
            yield Cost(
                left.pop(0), "?", 0, 0.0, 0, "dead", f"ended the process with {os.waitstatus_to_exitcode(status)}"
            )


def main() -> int:
    """Read drawn files, print the costliest and what failed; 1 where something did."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("inputs", type=int)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    options = parser.parse_args()
    found = []
    for one in costs(range(options.first, options.first + options.inputs)):
        found.append(one)
        if one.fault:
            print("FAILED", one, flush=True)
        if len(found) % 1000 == 0:
            print(f"{len(found)} read", file=sys.stderr, flush=True)
    ways: tuple[tuple[int, Callable[[Cost], float]], ...] = (
        (10, lambda one: one.cpu_s),
        (5, lambda one: one.memory - one.size),
    )
    for count, way in ways:
        for one in sorted(found, key=way, reverse=True)[:count]:
            what = f"{one.outcome:24} {one.kind}, seed {one.seed}"
            print(f"{one.cpu_s:6.2f} CPU-s {one.memory >> 20:5} MB {one.size:>11,} bytes  {what}")
    print(Counter(one.outcome for one in found))
    failed = [one for one in found if one.fault]
    print(f"{len(found)} files, {len(failed)} failed")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
