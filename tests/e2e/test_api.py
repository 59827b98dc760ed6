"""A running server against its own description, `docs/openapi.yaml`, and a client of the Open Inference Protocol."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import requests
import schemathesis
import tritonclient.http as triton
from hypothesis import strategies
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import positive_data_acceptance

from tests.e2e.small_server import VERSION, SmallServer, small_server
from tests.films import dicom, encoded, film
from tests.programs import NEEDS_JAVA

__all__ = ["small_server"]  # a fixture

pytestmark = [pytest.mark.e2e, NEEDS_JAVA]

DESCRIPTION = Path(__file__).parents[2] / "docs" / "openapi.yaml"
METRICS = "/metrics"
REFUSED = [b"no film", encoded(film())[:300], encoded(film(1, 20, 20)), dicom(film(), bits=8, Modality="CT")]
FILES = {
    "image/png": [encoded(film(1)), encoded(film(2, 300, 260).astype(np.uint16) * 257)],
    "image/jpeg": [encoded(film(3), "JPEG", quality=95)],
    "application/dicom": [dicom(film(4), bits=8)],
    "application/octet-stream": [dicom(film(5), bits=8, ViewPosition=None)],
}
# Beside these, schemathesis makes up bodies of its own, most of which are no films.
for media_type, files in FILES.items():
    schemathesis.openapi.media_type(media_type, strategies.sampled_from(files + REFUSED))

API = schemathesis.openapi.from_path(
    DESCRIPTION,
    config=schemathesis.Config.from_dict(
        {
            "seed": 1,
            "generation": {"max-examples": 10, "deterministic": True},
            "checks": {
                # A schema can say what base64 is, and not what a film is.
                "positive_data_acceptance": {"expected-statuses": ["2xx", 404, 415, 422]},
                # TorchServe 0.12.0 takes every method on these paths for the one that is meant.
                "unsupported_method": {"enabled": False},
            },
            "operations": [
                # One parameter more on the same handler: random requests are enough there.
                {"include-path-regex": "/{version}$", "phases": {"coverage": {"enabled": False}}}
            ],
        }
    ),
)


@pytest.mark.slow
@API.parametrize()
def test_the_server_answers_as_its_description_says(case: schemathesis.Case, small_server: SmallServer) -> None:
    reply = case.call(base_url=small_server.metrics_url if case.path == METRICS else small_server.url)
    # TorchServe 0.12.0 itself answers 500 to a form that has a part without a name.
    nameless = case.media_type == "multipart/form-data" and isinstance(case.body, dict) and "" in case.body
    excluded = [not_a_server_error] if nameless else []
    if reply.status_code == 400 and "regions are those of a map, and cam is none" in reply.text:
        excluded.append(positive_data_acceptance)  # no schema of headers says that one excludes the other
    case.validate_response(reply, excluded_checks=excluded)


def test_what_torchserve_itself_answers_is_described(small_server: SmallServer) -> None:
    data = encoded(film())
    predict, version = API["/predictions/{model}"]["POST"], API["/predictions/{model}/{version}"]["POST"]
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    replies = [
        (404, predict, requests.post(f"{small_server.url}/predictions/other", data=data, timeout=60)),
        (404, version, requests.post(f"{small_server.predictions}/9.9.9", data=data, timeout=60)),
        (500, predict, requests.post(small_server.predictions, data=data, headers=form, timeout=60)),
    ]
    for status, operation, reply in replies:
        assert reply.status_code == status
        assert reply.json()["code"] == status
        operation.validate_response(reply)


def test_torchserve_refuses_a_body_over_64_mib_without_a_word(small_server: SmallServer) -> None:
    reply = requests.post(small_server.predictions, data=bytes((64 << 20) + 1), timeout=60)
    assert (reply.status_code, reply.content, reply.headers.get("content-type")) == (413, b"", None)


def test_a_triton_client_gets_the_answers_of_the_raw_route_over_the_open_inference_protocol(
    small_server: SmallServer,
) -> None:
    films = [encoded(film(1, 300, 260)), b"no film", dicom(film(2), bits=8)]
    tensor = triton.InferInput("image", [len(films)], "BYTES")
    tensor.set_data_from_numpy(np.array([base64.b64encode(one) for one in films], dtype=object), binary_data=False)
    wanted = triton.InferRequestedOutput("prediction", binary_data=False)
    with triton.InferenceServerClient(small_server.url.removeprefix("http://")) as client:
        result = client.infer(
            "pneumonia", [tensor], outputs=[wanted], request_id="7", parameters={"cam": "none", "target": "contrast"}
        )
    said = result.get_response()
    assert (said["model_name"], said["model_version"], said["id"]) == ("pneumonia", VERSION, "7")
    entries = [json.loads(text) for text in result.as_numpy("prediction")]
    alone = [requests.post(small_server.predictions, data=one, timeout=60).json() for one in films]
    assert (entries[1]["status"], entries[1]["code"]) == (alone[1]["status"], alone[1]["code"])
    for i in (0, 2):
        assert entries[i]["probabilities"] == pytest.approx(alone[i]["probabilities"], abs=1e-5)
        assert "cam" not in entries[i]


def test_a_triton_client_is_told_of_a_request_without_a_film_that_can_be_answered(small_server: SmallServer) -> None:
    tensor = triton.InferInput("image", [1], "BYTES")
    tensor.set_data_from_numpy(np.array([base64.b64encode(b"no film")], dtype=object), binary_data=False)
    with (
        triton.InferenceServerClient(small_server.url.removeprefix("http://")) as client,
        pytest.raises(triton.InferenceServerException, match="UNKNOWN_FORMAT") as refused,
    ):
        client.infer("pneumonia", [tensor])
    assert refused.value.status() == "415"


def test_the_protocols_health_and_metadata_are_not_served(small_server: SmallServer) -> None:
    with triton.InferenceServerClient(small_server.url.removeprefix("http://")) as client:
        assert not client.is_server_live()
        assert not client.is_server_ready()
        assert not client.is_model_ready("pneumonia")
        with pytest.raises(triton.InferenceServerException) as refused:
            client.get_model_metadata("pneumonia")
        assert refused.value.status() == "404"


# Runs with what openapi-python-client brings along: films in, what the generated client made of each reply out.
GENERATED = """
import io, json, sys
sys.path.insert(0, sys.argv[1])
from client import Client
from client.api.films import predict, predict_version
from client.models import FilmForm, FilmJson, PredictModel, V1Request
from client.types import File

options = []
def record(request):
    options.extend(name for name in request.headers if name.startswith("cxr-"))

client = Client(sys.argv[2], httpx_args={"event_hooks": {"request": [record]}})
model, (film, *bad) = PredictModel("pneumonia"), json.load(sys.stdin)
one, wrong = bytes.fromhex(film), {"data": "%"}
file = lambda data=one: File(io.BytesIO(data), "film.png", "application/octet-stream")
v1 = {"instances": [{"b64": sys.argv[3]}]}
bodies = [file(), FilmForm(film=file()), FilmJson(data=sys.argv[3]), V1Request.from_dict(v1)]
asked = [predict.sync_detailed(model, client=client, body=body) for body in bodies]
asked += [predict.sync_detailed(model, client=client, body=file(bytes.fromhex(data))) for data in bad]
asked += [predict.sync_detailed(model, client=client, body=FilmJson.from_dict(wrong))]
asked += [predict_version.sync_detailed(model, "9.9.9", client=client, body=file())]
asked += [predict.sync_detailed(model, client=client, body=FilmForm(film=File(io.BytesIO(one), None, "a; charset=b")))]
said = [(int(reply.status_code), type(reply.parsed).__name__, reply.parsed.to_dict()) for reply in asked]
print(json.dumps({"said": said, "options": options}))
"""
GENERATOR = shutil.which("openapi-python-client", path=f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}")


@pytest.mark.skipif(GENERATOR is None, reason="needs openapi-python-client")
def test_a_generated_client_gets_answers_and_typed_errors_and_says_nothing_that_nobody_set(
    small_server: SmallServer, tmp_path: Path
) -> None:
    assert GENERATOR is not None
    (tmp_path / "config.yml").write_text("post_hooks: []\n")
    words = ["generate", "--path", str(DESCRIPTION), "--meta", "none", "--config", str(tmp_path / "config.yml")]
    subprocess.run([GENERATOR, *words, "--output-path", str(tmp_path / "client")], check=True, capture_output=True)
    data = encoded(film())
    done = subprocess.run(
        [Path(GENERATOR).resolve().parent / "python", "-c", GENERATED, tmp_path, small_server.url, base64_of(data)],
        input=json.dumps([one.hex() for one in [data, *REFUSED]]),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["options"] == []
    kinds = [(status, kind) for status, kind, _ in said["said"]]
    assert kinds[:4] == [(200, "Answer"), (200, "Answer"), (200, "Answer"), (200, "V1Answer")]
    assert kinds[4:8] == [(415, "Problem415"), (422, "Problem422"), (422, "Problem422"), (422, "Problem422")]
    assert kinds[8:] == [(400, "Problem400"), (404, "TorchServeError"), (500, "TorchServeError")]
    codes = [body["code"] for _, _, body in said["said"][4:9]]
    assert codes == ["UNKNOWN_FORMAT", "DAMAGED_IMAGE", "TOO_SMALL", "NOT_A_RADIOGRAPH", "BAD_BASE64"]
    first, *others = (body["probabilities"] for _, _, body in said["said"][:3])
    assert others == [first, first]
    assert (
        said["said"][0][2]["image"]["flags"]
        == requests.post(small_server.predictions, data=data, timeout=60).json()["image"]["flags"]
    )


def base64_of(data: bytes) -> str:
    return base64.b64encode(data).decode()
