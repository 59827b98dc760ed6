"""What an archive's handler answers, in a form that can be kept and compared."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from PIL import Image
from pydicom import dcmread
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from tests.conformance.archives import Answered, Asked, Worker
from tests.films import compressed, dicom, encoded, film

Entries = dict[str, Any]

_METRIC: Final = re.compile(
    r"\[METRICS\](?P<name>\w+)\.(?P<unit>\w+):(?P<value>[-\d.]+)\|#(?P<labels>.*)\|#type:(?P<kind>\w+)\|#hostname:.*,\d+"
)
_ELAPSED: Final = re.compile(r'("elapsed_s": )[\d.]+')  # of the training, in a model card
_NO_FILMS: Final = {".csv", ".md"}
_NOT_ASKED: Final = "reference"  # what a film should look like is no film that is sent


# --- what is asked ------------------------------------------------------------------------------------------------


def ways_to_ask(data: bytes) -> dict[str, Asked]:
    """The requests that are made about a film, by name; together they make a batch."""
    text = base64.b64encode(data).decode()
    tensor = {"name": "image", "datatype": "BYTES", "shape": [1], "data": [text]}
    return {
        "grid": Asked({"body": data}),
        "heatmap of the contrast": Asked({"body": data}, {"Cxr-Cam": "heatmap", "Cxr-Target": "contrast"}),
        "overlay of PNEUMONIA": Asked({"body": data}, {"Cxr-Cam": "overlay", "Cxr-Target": "PNEUMONIA"}),
        "a picture": Asked({"body": data}, {"Accept": "image/png"}),
        "base64, no map": Asked({"body": {"data": text, "cam": "none"}}),
        "V1": Asked({"body": {"instances": [{"b64": text}], "view": "AP"}}),
        "V2": Asked({"body": {"inputs": [tensor], "id": "mine", "parameters": {"target": "NORMAL", "cam": "grid"}}}),
        "a form": Asked({"film": data, "cam": b"grid", "view": b"PA"}),
    }


def films_of(folders: Iterable[Path]) -> Iterator[tuple[str, Path]]:
    """Every film of some folders, as FOLDER/PATH and the file, in the order of the names."""
    for folder in folders:
        for path in sorted(folder.rglob("*")):
            inner = path.relative_to(folder)
            if path.is_file() and path.suffix not in _NO_FILMS and _NOT_ASKED not in inner.parts:
                yield f"{folder.name}/{inner.as_posix()}", path


def made_films() -> dict[str, bytes]:
    """Films and files made on the spot, one of each kind."""
    grey = film(4, 160, 128)
    deep = grey.astype(np.uint16) * 16
    plain = dicom(deep)
    eight = dicom(grey, bits=8)
    # The stream alone: GDCM gives its file another identifier each time.
    lossless = dcmread(io.BytesIO(compressed(plain, JPEGLosslessSV1))).PixelData
    return {
        "PNG of 8 bits": encoded(grey),
        "PNG of 16 bits": encoded(grey.astype(np.uint16) * 257),
        "PNG with colours that are grey": encoded(np.dstack([grey] * 3)),
        "JPEG": encoded(grey, "JPEG", quality=90),
        "PNG that is large": encoded(film(5, 900, 700)),
        "DICOM, Explicit VR": plain,
        "DICOM, Implicit VR": dicom(deep, syntax=ImplicitVRLittleEndian),
        "DICOM, MONOCHROME1": dicom(deep, PhotometricInterpretation="MONOCHROME1"),
        "DICOM, a window": dicom(deep, WindowCenter=1500, WindowWidth=2000, ViewPosition="AP"),
        "DICOM, no view": dicom(deep, ViewPosition=None),
        "DICOM, JPEG 2000": compressed(plain, JPEG2000Lossless),
        "DICOM, JPEG-LS": compressed(plain, JPEGLSLossless),
        "DICOM, JPEG Lossless": dicom(deep, syntax=JPEGLosslessSV1, PixelData=lossless),
        "DICOM, RLE": compressed(eight, RLELossless),
        "DICOM, big endian": dicom(grey, bits=8, syntax=ExplicitVRBigEndian),
        "DICOM, deflated": dicom(grey, bits=8, syntax=DeflatedExplicitVRLittleEndian),
        "DICOM, lateral": dicom(deep, ViewPosition="LL"),
        "DICOM, a CT slice": dicom(deep, Modality="CT"),
        "PNG that is cut": encoded(grey)[:900],
        "PNG that is small": encoded(film(0, 40, 40)),
        "PNG of one grey": encoded(np.full((96, 80), 90, np.uint8)),
        "no film": b"GIF89a" + bytes(100),
    }


def edge_requests() -> dict[str, Asked]:
    """Requests that are unusual or wrong in how they are put, not in their film."""
    good, other = encoded(film(1)), dicom(film(2), bits=8)
    text, second = base64.b64encode(good).decode(), base64.b64encode(other).decode()
    tensor = {"name": "image", "datatype": "BYTES", "shape": [1], "data": [text]}
    asked = {
        "model card": Asked({}, {"describe": "True"}),
        "model card, with a body": Asked({"body": good}, {"describe": "True"}),
        "nothing": Asked({}),
        "an empty body": Asked({"body": b""}),
        "explanations": Asked({"body": good}, {"explain": "True"}),
        "a text body": Asked({"body": "no film"}),
        "JSON as bytes": Asked({"body": json.dumps({"data": text}).encode()}),
        "JSON as bytes, broken": Asked({"body": b'{"data": '}),
        "JSON as bytes, many values": Asked({"body": b'{"data": [' + b"[]," * 20_000 + b"[]]}"}),
        "a JSON list": Asked({"body": [1, 2]}),
        "JSON with other keys": Asked({"body": {"image": text}}),
        "JSON, empty text": Asked({"body": {"data": ""}}),
        "JSON, no base64": Asked({"body": {"data": "%%%"}}),
        "JSON, an unknown map": Asked({"body": {"data": text, "cam": "jet"}}),
        "JSON, options": Asked({"body": {"data": text, "cam": "overlay", "target": "NORMAL", "view": "PA"}}),
        "a data URI": Asked({"body": {"data": f"data:image/png;base64,{text}"}}),
        "a data URI without base64": Asked({"body": {"data": "data:image/png,abc"}}),
        "headers in another case": Asked({"body": good}, {"CXR-CAM": "heatmap", "cxr-target": "contrast"}),
        "body and header differ": Asked({"body": {"data": text, "cam": "none"}}, {"Cxr-Cam": "overlay"}),
        "a query": Asked({"body": good, "cam": "none"}),
        "Accept with a quality": Asked({"body": good}, {"accept": "image/png;q=0.9"}),
        "Accept of several kinds": Asked({"body": good}, {"accept": "application/json, image/png"}),
        "a form with another name": Asked({"upload": other, "target": b"contrast"}),
        "a form without a film": Asked({"cam": b"grid"}),
        "V1, a good and a bad film": Asked({"body": {"instances": [{"b64": text}, {"b64": "AAAA"}, {"b64": second}]}}),
        "V1, all bad": Asked({"body": {"instances": [{"b64": "AAAA"}, {"b64": "%"}]}}),
        "V1, none": Asked({"body": {"instances": []}}),
        "V1, no list": Asked({"body": {"instances": {"b64": text}}}),
        "V1, too many": Asked({"body": {"instances": [{"b64": "AAAA"}] * 33}}),
        "V1, no text": Asked({"body": {"instances": [{"b64": 7}, text]}}),
        "V1, a picture": Asked({"body": {"instances": [{"b64": text}], "cam": "overlay"}}, {"Accept": "image/png"}),
        "V2, two films": Asked({"body": {"inputs": [{**tensor, "shape": [2], "data": [text, second]}]}}),
        "V2, two tensors": Asked({"body": {"inputs": [tensor, tensor]}}),
        "V2, numbers": Asked({"body": {"inputs": [{**tensor, "datatype": "FP32"}]}}),
        "V2, parameters of a kind": Asked({"body": {"inputs": [tensor], "parameters": [1]}}),
        "V2, an unknown view": Asked({"body": {"inputs": [tensor], "parameters": {"view": "oblique"}}}),
        "V2, an id too long": Asked({"body": {"inputs": [tensor], "id": "x" * 129}}),
    }
    for target in ("predicted", "NORMAL", "PNEUMONIA", "contrast", "COVID"):
        asked[f"target {target}"] = Asked({"body": good}, {"Cxr-Target": target})
    for view in ("PA", "AP", "LATERAL", "oblique"):
        asked[f"view {view}"] = Asked({"body": good}, {"Cxr-View": view})
    return asked


def bad_requests() -> dict[str, Asked]:
    """The requests of `tests.bad_requests`, as TorchServe hands them over."""
    from tests import bad_requests as listed  # here alone: it brings the product into this process

    asked = {}
    for bad in listed.bad_requests():
        body = bad.sent["json"] if "json" in bad.sent else bad.sent["data"]
        asked[bad.name] = Asked({"body": body} if body else {}, dict(bad.sent.get("headers", {})))
    return asked


# --- what is kept -------------------------------------------------------------------------------------------------


def ask_about(worker: Worker, name: str, asked: Mapping[str, Asked]) -> tuple[Entries, Entries]:
    """One batch: its replies by NAME | WAY, and what it counted."""
    replies, printed = worker.ask([*asked.values()])
    entries = {
        f"{name} | {way}": {"request_sha256": _digest_of(one), **kept_of(reply)}
        for (way, one), reply in zip(asked.items(), replies, strict=True)
    }
    return entries, {name: metrics_of(printed)}


def ask_each(worker: Worker, name: str, asked: Mapping[str, Asked], batch: int = 8) -> tuple[Entries, Entries]:
    """Many requests, several in a batch."""
    entries: Entries = {}
    counted: Entries = {}
    ways = [*asked.items()]
    for start in range(0, len(ways), batch):
        some = dict(ways[start : start + batch])
        got, lines = ask_about(worker, name, some)
        entries |= got
        counted[f"{name} from {next(iter(some))}"] = lines[name]
    return entries, counted


def kept_of(reply: Answered) -> dict[str, Any]:
    """A reply as it is kept: JSON parsed, pictures as digests."""
    kept: dict[str, Any] = {"status": reply.status, "content_type": reply.content_type}
    if reply.content_type == "image/png":
        return {**kept, "body": _picture(reply.body)}
    text = _ELAPSED.sub(r'\1"<seconds>"', reply.body.decode("utf-8"))
    return {**kept, "body": _parsed(json.loads(text)), "body_sha256": hashlib.sha256(text.encode()).hexdigest()}


def metrics_of(printed: str) -> dict[str, Any]:
    """The metric lines among what a handler printed: counters and gauges by name and labels, times as how many."""
    kept: dict[str, Any] = {}
    for line in printed.splitlines():
        found = _METRIC.fullmatch(line)
        if found is None:
            kept.setdefault("other lines", []).append(line)
            continue
        key = f"{found['kind']} {found['name']}.{found['unit']} {found['labels']}"
        if found["unit"] == "Seconds":
            kept[key] = kept.get(key, 0) + 1
        else:
            kept.setdefault(key, []).append(float(found["value"]))
    return kept


def _parsed(value: Any) -> Any:
    if isinstance(value, list):
        return [_parsed(one) for one in value]
    if not isinstance(value, dict):
        return value
    if value.get("datatype") == "BYTES":
        return {**value, "data": [_parsed(json.loads(text)) for text in value["data"]]}
    return {
        key: _picture(base64.b64decode(one)) if key == "png" and isinstance(one, str) else _parsed(one)
        for key, one in value.items()
    }


def _picture(data: bytes) -> dict[str, Any]:
    with Image.open(io.BytesIO(data)) as image:
        pixels = np.asarray(image)
        return {
            "size": [*image.size],
            "mode": image.mode,
            "mean": round(float(pixels.mean()), 2),
            "pixels_sha256": hashlib.sha256(pixels.tobytes()).hexdigest(),
            "bytes_sha256": hashlib.sha256(data).hexdigest(),
        }


def _digest_of(asked: Asked) -> str:
    text = json.dumps(asked.to_wire(""), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def sample(worker: Worker, ways: Sequence[str] = ("overlay of PNEUMONIA",)) -> Entries:
    """What is kept in `replies.json`: the replies about films made on the spot and to unusual requests.

    Digests are left out: they change with the processor and with the library that writes a PNG.
    """
    entries: Entries = {}
    for name, data in made_films().items():
        asked = ways_to_ask(data)
        entries |= ask_about(worker, name, {way: asked[way] for way in ways})[0]
    entries |= ask_each(worker, "request", edge_requests())[0]
    undigested: Entries = without_digests(entries)
    return undigested


def without_digests(value: Any) -> Any:
    """A kept reply without the digests of requests, bodies and pictures; the weights' own stay."""
    if isinstance(value, list):
        return [without_digests(one) for one in value]
    if not isinstance(value, dict):
        return value
    return {
        key: without_digests(one)
        for key, one in value.items()
        if not key.endswith("_sha256") or key == "weights_sha256"
    }
