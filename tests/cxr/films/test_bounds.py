"""What would cost memory or minutes is refused before it does."""

from __future__ import annotations

import base64
import io
import json
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydicom.uid import RLELossless

from cxr.errors import InputError
from cxr.films.decode import decode
from cxr.serving.reply import ModelIdentity
from cxr.serving.request import read_request
from cxr.serving.service import BatchService, IncomingRequest
from tests.bad_requests import (
    bad_requests,
    deflated,
    jpeg_2000_in_precincts_of_one_pixel,
    jpeg_header,
    png_header,
    rle_that_claims,
    with_elements,
)
from tests.cxr.networks import predictor, save_model
from tests.films import dicom, encoded, film

# In a process of its own for each body: how much more memory is resident, at most, while it is read and decoded, in MB.
MEASURE = """
import base64, json, os, sys
from pathlib import Path
from cxr.errors import InputError
from cxr.films.decode import decode
from cxr.serving.request import read_request
from tests.films import dicom, encoded, film

def resident(field):
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1]) / 1024

def measure(data):
    Path("/proc/self/clear_refs").write_text("5")  # the highest value starts anew
    before = resident("VmRSS")
    try:
        for one in read_request({"body": data}, {}).films:
            decode(one)
        code = "none"
    except InputError as error:
        code = error.code
    return {"code": code, "grown": resident("VmHWM") - before}

for warm in (encoded(film()), encoded(film(), "JPEG"), dicom(film(), bits=8)):
    decode(warm)
for name, text in json.load(sys.stdin).items():
    data = base64.b64decode(text)
    if os.fork() == 0:
        print(json.dumps({"name": name, **measure(data)}), flush=True)
        os._exit(0)
    os.wait()
"""


def scans(count: int, *, progressive: bool = True) -> bytes:
    """A JPEG whose last scan is repeated."""
    data = encoded(film(0, 128, 128), "JPEG", progressive=progressive)
    last = data.rindex(b"\xff\xda")
    return data[:last] + data[last:-2] * count + data[-2:]


def chunks(count: int) -> bytes:
    """A PNG with empty private chunks before its pixels."""
    whole = encoded(film())
    empty = struct.pack(">I4sI", 0, b"prIv", zlib.crc32(b"prIv"))
    return whole[:33] + empty * count + whole[33:]


def comments(count: int) -> bytes:
    """A JPEG with empty comments before its frame."""
    whole = encoded(film(), "JPEG")
    return whole[:2] + b"\xff\xfe\x00\x02" * count + whole[2:]


BOMBS: dict[str, tuple[Callable[[], bytes], str]] = {
    "a PNG that announces 400 megapixels": (lambda: png_header(20_000, 20_000), "TOO_MANY_PIXELS"),
    "a PNG that announces 2^31 x 2^31": (lambda: png_header(2**31 - 1, 2**31 - 1), "TOO_MANY_PIXELS"),
    "a JPEG that announces 400 megapixels": (lambda: jpeg_header(20_000, 20_000), "TOO_MANY_PIXELS"),
    "RLE that claims 400 megapixels": (lambda: rle_that_claims(20_000, 20_000), "TOO_MANY_PIXELS"),
    "a deflated data set of 200 MB": (lambda: deflated(200), "TOO_MANY_BYTES"),
    "a JPEG with thousands of scans": (lambda: scans(5000), "DAMAGED_IMAGE"),
    "a sequential JPEG with thousands of scans": (lambda: scans(5000, progressive=False), "DAMAGED_IMAGE"),
    "a PNG with a million empty chunks": (lambda: chunks(1_000_000), "DAMAGED_IMAGE"),
    "a JPEG with a million empty comments": (lambda: comments(1_000_000), "DAMAGED_IMAGE"),
    "a DICOM with a million empty elements": (
        lambda: with_elements(b"\x29\x00\x10\x10\0\0\0\0" * 1_000_000),
        "DAMAGED_IMAGE",
    ),
    "a DICOM sequence of a million empty items": (
        lambda: with_elements(
            struct.pack("<HHL", 0x40, 0x275, 2**32 - 1)
            + b"\xfe\xff\x00\xe0\0\0\0\0" * 1_000_000
            + b"\xfe\xff\xdd\xe0\0\0\0\0"
        ),
        "DAMAGED_IMAGE",
    ),
    "a DICOM window of a million values": (
        lambda: with_elements(struct.pack("<HHL", 0x28, 0x1050, 2_000_000) + b"1\\" * 1_000_000),
        "DAMAGED_IMAGE",
    ),
    "a DICOM frame in a million parts": (
        lambda: dicom(film(), bits=8, syntax=RLELossless, PixelData=b"\xfe\xff\x00\xe0\0\0\0\0" * 1_000_000),
        "DAMAGED_IMAGE",
    ),
    "JPEG 2000 in a million precincts": (lambda: jpeg_2000_in_precincts_of_one_pixel(1000), "any"),
    "JSON with a million empty lists": (lambda: b'{"instances": [' + b"[]," * 1_000_000 + b"[]]}", "BAD_JSON"),
    "JSON nested a million deep": (lambda: b'{"data": ' + b"[" * 1_000_000, "BAD_JSON"),
}


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_bomb_costs_less_than_50_mb_at_any_moment() -> None:
    bodies = {name: base64.b64encode(make()).decode() for name, (make, _) in BOMBS.items()}
    done = subprocess.run(
        [sys.executable, "-c", MEASURE], input=json.dumps(bodies), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    said = {one["name"]: one for one in map(json.loads, done.stdout.splitlines())}
    codes = {name: code for name, (_, code) in BOMBS.items() if code != "any"}
    assert {name: said[name]["code"] for name in codes} == codes
    assert {name: round(one["grown"]) for name, one in said.items() if one["grown"] >= 50} == {}


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_measurement_sees_a_large_film() -> None:
    """Else the test above could not fail."""
    large = encoded(np.asarray(Image.fromarray(film()).resize((7000, 7000))), compress_level=1)
    done = subprocess.run(
        [sys.executable, "-c", MEASURE],
        input=json.dumps({"large": base64.b64encode(large).decode()}),
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout)["grown"] > 40


def test_the_deflated_bomb_is_small_and_would_grow() -> None:
    assert len(deflated(200)) < 250_000


@pytest.mark.slow
def test_a_25_mb_dicom_is_read_raw_and_as_base64() -> None:
    stored = (np.asarray(Image.fromarray(film(3)).resize((3520, 3600)), np.uint16) * 16).astype(np.uint16)
    data = dicom(stored)
    assert len(data) > 25_000_000
    text = json.dumps({"data": base64.b64encode(data).decode()}).encode()
    for body in (data, text):
        (one,) = read_request({"body": bytearray(body)}, {}).films
        assert isinstance(one, bytes)
        assert decode(one).info.width == 3520


def test_the_bad_requests_cover_twenty_ways_and_get_their_codes(tmp_path: Path) -> None:
    """The same requests go to a real server in tests/e2e; here they meet the handler alone."""
    spec = save_model(tmp_path)
    service = BatchService(predictor(tmp_path), ModelIdentity.of(spec, "pneumonia", "1.0.0"))
    bad = bad_requests()
    assert len(bad) >= 20
    batch = [
        IncomingRequest(
            {"body": one.sent["data"] if "data" in one.sent else json.dumps(one.sent["json"]).encode()},
            one.sent.get("headers", {}),
            one.name,
        )
        for one in bad
    ]
    for one, reply in zip(bad, service.answer(batch), strict=True):
        assert (reply.status, json.loads(reply.body)["code"]) == (one.status, one.code), one.name
        assert reply.content_type == "application/problem+json"


def test_a_progressive_jpeg_as_programs_write_it_is_read() -> None:
    assert decode(encoded(film(), "JPEG", progressive=True)).info.format == "JPEG"
    with pytest.raises(InputError, match="scans"):
        decode(scans(200))


def test_a_reply_too_large_to_be_sent_is_an_error_and_not_the_end_of_the_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TorchServe kills a worker over a reply of more than max_response_size."""
    spec = save_model(tmp_path)
    service = BatchService(predictor(tmp_path), ModelIdentity.of(spec, "pneumonia", "1.0.0"))
    monkeypatch.setattr("cxr.serving.reply.MAX_REPLY_BYTES", 20_000)
    text = base64.b64encode(encoded(film())).decode()
    body = {"instances": [{"b64": text}] * 4}
    asked = [IncomingRequest({"body": body}, {"Cxr-Cam": cam}, "id") for cam in ("overlay", "none")]
    too_large, small = service.answer(asked)
    assert (too_large.status, json.loads(too_large.body)["code"]) == (413, "TOO_MANY_BYTES")
    assert small.status == 200


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA", "I;16"])
def test_every_mode_of_png_gives_the_same_film(mode: str) -> None:
    grey = film(4) if mode != "1" else np.where(film(4) > 127, 255, 0).astype(np.uint8)
    picture = Image.fromarray(grey)
    if mode == "I;16":
        picture = Image.fromarray(grey.astype(np.uint16) * 257)
    elif mode == "P":
        picture.putpalette([level for grey_level in range(256) for level in (grey_level,) * 3])
    elif mode != "L":
        picture = picture.convert(mode)
    decoded = decode(encoded(picture))
    np.testing.assert_array_equal(decoded.pixels, grey)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_film_stands_upright_whatever_its_exif_orientation(orientation: int) -> None:
    """TIFF 6.0, Orientation: the stored film is what a viewer has to turn back."""
    upright = film(5)
    undo = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.T,
        6: np.rot90(upright),
        7: upright[::-1, ::-1].T,
        8: np.rot90(upright, -1),
    }
    exif = Image.Exif()
    exif[0x0112] = orientation
    stream = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(undo[orientation])).save(stream, "PNG", exif=exif)
    np.testing.assert_array_equal(decode(stream.getvalue()).pixels, upright)
