"""Every way a film and its options can come in."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from cxr.errors import InputError
from cxr.serving.request import Options, read_request

FILM = b"\x89PNG\r\n\x1a\n and so on"
TEXT = base64.b64encode(FILM).decode()
JSON = f'{{"data": "{TEXT}"}}'
JPEG = b"\xff\xd8\xff\xe1" + b"{" * 100
DICOM = b"{" + bytes(127) + b"DICM" + bytes(99)


def oip(*texts: Any, **fields: Any) -> dict[str, Any]:
    return {"inputs": [{"name": "image", "datatype": "BYTES", "shape": [len(texts)], "data": list(texts)}], **fields}


@pytest.mark.parametrize(
    "row",
    [
        pytest.param({"body": FILM}, id="raw"),
        pytest.param({"comment": b"before it", "image": FILM}, id="form with a text before the film"),
        pytest.param({"comment": "text", "image": FILM}, id="form with decoded text before the film"),
        pytest.param({"body": FILM, "comment": b"x"}, id="form with a part called body"),
        pytest.param({"body": b"a note", "image": FILM}, id="form with a note called body"),
        pytest.param({"body": b"\xef\xbb\xbf" + JSON.encode()}, id="JSON with a byte order mark"),
        pytest.param({"body": JSON.encode("utf-16")}, id="JSON in UTF-16 with a byte order mark"),
        pytest.param({"body": JSON.encode("utf-16-be")}, id="JSON in UTF-16"),
        pytest.param({"body": {"data": f"DATA:image/png;BASE64,{TEXT}"}}, id="data URI in capitals"),
        pytest.param({"body": {"data": "\r\n".join([TEXT[:8], TEXT[8:], ""])}}, id="base64 with line breaks"),
        pytest.param({"body": {"data": TEXT.rstrip("=")}}, id="base64 without padding"),
        pytest.param({"body": {"data": TEXT.replace("+", "-").replace("/", "_")}}, id="base64 for URLs"),
        pytest.param({"body": bytearray(FILM)}, id="raw, as TorchServe hands it over"),
        pytest.param({"film": bytearray(FILM)}, id="form"),
        pytest.param({"cam": bytearray(b"grid"), "film": FILM, "other": b"x"}, id="form with fields"),
        pytest.param({"note": b"x", "film": FILM}, id="form with a part called film"),
        pytest.param({"body": {"data": TEXT}}, id="decoded JSON"),
        pytest.param({"body": b' {"data": "' + TEXT.encode() + b'"}'}, id="JSON bytes"),
        pytest.param({"body": {"data": f"data:image/png;base64,{TEXT}"}}, id="data URI"),
        pytest.param({"body": {"instances": [{"b64": TEXT}]}}, id="KServe V1"),
        pytest.param({"body": oip(TEXT)}, id="Open Inference Protocol"),
    ],
)
def test_the_film_is_found(row: dict[str, Any]) -> None:
    assert read_request(row, {}).films == (FILM,)


@pytest.mark.parametrize("data", [JPEG, DICOM, bytes(64), b"\xff\xfe", b"[" + bytes(127) + b"DICM"])
def test_no_film_is_taken_for_json(data: bytes) -> None:
    assert read_request({"body": data}, {}).films == (data,)


@pytest.mark.parametrize(
    ("row", "headers", "options"),
    [
        ({"body": FILM}, {}, Options("grid", "predicted", None, as_png=False)),
        ({"body": FILM}, {"Cxr-Cam": "overlay", "cxr-target": "NORMAL"}, Options("overlay", "NORMAL")),
        ({"body": FILM, "cam": b"none", "target": b"contrast"}, {"Cxr-Cam": "overlay"}, Options("none", "contrast")),
        ({"body": {"data": TEXT, "cam": "heatmap"}}, {}, Options("heatmap")),
        ({"body": FILM}, {"Cxr-View": "PA"}, Options(view="PA")),
        ({"body": oip(TEXT, parameters={"view": "LATERAL"})}, {"Cxr-View": "PA"}, Options(view="LATERAL")),
        ({"body": FILM}, {"explain": "True"}, Options("overlay")),
        ({"body": FILM}, {"explain": "True", "Cxr-Cam": "grid"}, Options("grid")),
        ({"body": FILM}, {"explain": "False", "body": {"content-type": "image/png"}}, Options()),
        ({"body": FILM}, {"Accept": "image/png"}, Options(as_png=True)),
        ({"body": FILM}, {"accept": "*/*"}, Options()),
        ({"body": {"instances": [{"b64": TEXT}], "cam": "none"}}, {"Accept": "image/png"}, Options("none")),
        ({"body": oip(TEXT, parameters={"target": "contrast"})}, {}, Options(target="contrast")),
        ({"body": FILM}, {"Cxr-Regions": "0.5"}, Options(regions=0.5)),
        ({"body": FILM}, {"Cxr-Regions": "none", "Cxr-Cam": "none"}, Options("none")),
        ({"film": FILM, "regions": b"0.25"}, {"Cxr-Regions": "0.5"}, Options(regions=0.25)),
        ({"body": {"data": TEXT, "regions": 0.75}}, {}, Options(regions=0.75)),
        ({"body": {"instances": [{"b64": TEXT}], "regions": "0.75"}}, {}, Options(regions=0.75)),
        ({"body": oip(TEXT, parameters={"regions": 0.05})}, {}, Options(regions=0.05)),
        ({"body": FILM}, {"Cxr-Film": "png"}, Options(film="png")),
        ({"film": FILM, "film_picture": b"png"}, {"Cxr-Film": "none"}, Options(film="png")),
        ({"film_picture": b"png", "image": FILM}, {}, Options(film="png")),
        ({"body": {"data": TEXT, "film_picture": "not read"}}, {"Cxr-Film": "png"}, Options(film="png")),
        ({"film": b'{"data": "' + TEXT.encode() + b'"}', "film_picture": b"png"}, {}, Options(film="png")),
        ({"body": {"data": TEXT, "film": "png", "cam": "none"}}, {}, Options("none", film="png")),
        ({"film": b'{"data": "' + TEXT.encode() + b'"}'}, {}, Options()),
        ({"body": {"instances": [{"b64": TEXT}], "film": "png"}}, {}, Options(film="png")),
        ({"body": oip(TEXT, parameters={"film": "png"})}, {}, Options(film="png")),
    ],
)
def test_options_are_read(row: dict[str, Any], headers: dict[str, Any], options: Options) -> None:
    request = read_request(row, headers)
    assert request.films == (FILM,)
    assert request.options == options


@pytest.mark.parametrize(
    ("row", "headers", "code"),
    [
        ({}, {}, "EMPTY_BODY"),
        ({"a": FILM, "b": FILM}, {}, "SEVERAL_FILMS"),
        ({"film": FILM, "body": JPEG}, {}, "SEVERAL_FILMS"),
        ({"film": FILM, "json": JSON.encode()}, {}, "SEVERAL_FILMS"),
        ({"film": DICOM, "image": bytes(2000)}, {}, "SEVERAL_FILMS"),
        ({"body": FILM}, {"Content-Encoding": "gzip"}, "UNSUPPORTED_ENCODING"),
        ({"body": b"\x1f\x8b\x08" + FILM}, {}, "UNSUPPORTED_ENCODING"),
        ({"body": b"--XX\r\n" + FILM}, {"Content-Type": "Multipart/Form-Data; boundary=XX"}, "UNSUPPORTED_ENCODING"),
        ({"CANARY": b""}, {"Content-Type": "application/x-www-form-urlencoded; charset=x"}, "UNSUPPORTED_ENCODING"),
        ({"body": b'{"data": "x", "data": "y"}'}, {}, "BAD_JSON"),
        ({"body": f'{{"data": "{TEXT}", "view": "PA", "view": "AP"}}'.encode()}, {}, "BAD_JSON"),
        ({"body": f'["{TEXT}"]'.encode()}, {}, "BAD_JSON"),
        ({"body": {"data": TEXT[:-1]}}, {}, "BAD_BASE64"),
        ({"body": {"data": TEXT[:5]}}, {}, "BAD_BASE64"),
        ({"body": {"data": "+-" + TEXT}}, {}, "BAD_BASE64"),
        ({"cam": b"grid"}, {}, "EMPTY_BODY"),
        ({"body": {"data": ""}}, {}, "EMPTY_BODY"),
        ({"body": b"{ not json"}, {}, "BAD_JSON"),
        ({"body": {"dat": TEXT}}, {}, "BAD_JSON"),
        ({"body": {"data": 7}}, {}, "BAD_JSON"),
        ({"body": [TEXT]}, {}, "BAD_JSON"),
        ({"body": {"instances": TEXT}}, {}, "BAD_JSON"),
        ({"body": {"instances": []}}, {}, "EMPTY_BODY"),
        ({"body": {"instances": [{"b64": TEXT}] * 33}}, {}, "BAD_JSON"),
        ({"body": {"inputs": []}}, {}, "BAD_JSON"),
        ({"body": {"inputs": [{"datatype": "FP32", "data": [1.0]}]}}, {}, "BAD_JSON"),
        ({"body": oip()}, {}, "EMPTY_BODY"),
        ({"body": oip(TEXT, parameters={"cam": "CANARY"})}, {}, "BAD_OPTION"),
        ({"body": {"data": "%%%"}}, {}, "BAD_BASE64"),
        ({"body": {"data": "é" + TEXT}}, {}, "BAD_BASE64"),
        ({"body": {"data": "data:image/png," + TEXT}}, {}, "BAD_BASE64"),
        ({"body": FILM}, {"Cxr-Cam": "CANARY"}, "BAD_OPTION"),
        ({"body": FILM}, {"Cxr-Film": "CANARY"}, "BAD_OPTION"),
        *(({"body": FILM}, {"Cxr-Regions": text}, "BAD_OPTION") for text in ("CANARY", "0", "1", "nan", "0.5" * 99)),
        *(({"body": {"data": TEXT, "regions": one}}, {}, "BAD_OPTION") for one in (True, None, [0.5], 7)),
        ({"body": FILM}, {"Cxr-Regions": "0.5", "Cxr-Cam": "none"}, "BAD_OPTION"),
        ({"film": FILM, "film_picture": b"CANARY"}, {}, "BAD_OPTION"),
        ({"film_picture": b"png"}, {}, "EMPTY_BODY"),
        ({"body": FILM, "target": b"\xff"}, {}, "BAD_OPTION"),
        ({"body": {"data": TEXT, "cam": ["grid"]}}, {}, "BAD_OPTION"),
        ({"body": {"data": TEXT, "view": None}}, {}, "BAD_OPTION"),
        ({"body": {"data": TEXT, "cam": "none"}}, {"Cxr-Cam": "CANARY"}, "BAD_OPTION"),
        ({"body": oip(TEXT, parameters=[1])}, {}, "BAD_JSON"),
    ],
)
def test_what_cannot_be_read_gets_its_code(row: dict[str, Any], headers: dict[str, Any], code: str) -> None:
    with pytest.raises(InputError) as caught:
        read_request(row, headers)
    assert caught.value.code == code
    assert "CANARY" not in caught.value.detail


def test_what_is_wrong_with_one_of_several_films_stays_with_it() -> None:
    request = read_request({"body": {"instances": [{"b64": TEXT}, {"b64": "%"}, "no object", {"b64": ""}]}}, {})
    assert request.dialect == "v1"
    assert request.films[0] == FILM
    assert [one.code for one in request.films[1:] if isinstance(one, InputError)] == [
        "BAD_BASE64",
        "BAD_JSON",
        "EMPTY_BODY",
    ]


@pytest.mark.parametrize(("given", "kept"), [("run-7", "run-7"), (7, ""), ("x" * 129, ""), (None, "")])
def test_the_id_of_an_open_inference_request_is_kept(given: Any, kept: str) -> None:
    request = read_request({"body": oip(TEXT, TEXT, id=given)}, {})
    assert (request.dialect, request.client_id, len(request.films)) == ("v2", kept, 2)
