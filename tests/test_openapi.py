"""The API's description against the code: its codes and options, and replies made here for every dialect and error."""

from __future__ import annotations

import base64
import copy
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from jsonschema import Draft202012Validator
from openapi_spec_validator import OpenAPIV31SpecValidator
from PIL import Image
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT202012

from cxr import NOTICE
from cxr.errors import CODES, InputError
from cxr.films import film as films
from cxr.model.classes import CLASSES, NAME, STANDARD
from cxr.model.spec import Observed, Preprocessing
from cxr.predict import Predictor
from cxr.serving.regions import LEVELS, find_regions
from cxr.serving.reply import ModelIdentity, error_reply
from cxr.serving.request import CAM_FORMS, FILM_FORMS, MAX_FILMS, VIEWS
from cxr.serving.service import BatchService, IncomingRequest
from tests.cxr.networks import save_model, small_network
from tests.films import dicom, encoded, film

DESCRIPTION: dict[str, Any] = yaml.safe_load(
    (Path(__file__).parents[1] / "docs" / "openapi.yaml").read_text(encoding="utf-8")
)
SCHEMAS = DESCRIPTION["components"]["schemas"]
RESPONSES = DESCRIPTION["components"]["responses"]
REGISTRY: Registry[Any] = Registry().with_resource(
    "urn:openapi", Resource.from_contents(DESCRIPTION, default_specification=DRAFT202012)
)
FILM = encoded(film())


def validator(schema: str) -> Draft202012Validator:
    return Draft202012Validator({"$ref": f"urn:openapi#/components/schemas/{schema}"}, registry=REGISTRY)


def base64_of(data: bytes) -> str:
    return base64.b64encode(data).decode()


def without_each_field(body: Any) -> Iterator[tuple[str, Any]]:
    """The body without one of its fields, however deep, in turn."""
    if isinstance(body, list):
        for i, item in enumerate(body):
            for name, changed in without_each_field(item):
                yield f"{i}.{name}", [*body[:i], changed, *body[i + 1 :]]
    if isinstance(body, dict):
        for key, value in body.items():
            yield key, {name: other for name, other in body.items() if name != key}
            for name, changed in without_each_field(value):
                yield f"{key}.{name}", body | {key: changed}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> BatchService:
    folder = tmp_path_factory.mktemp("model")
    observed = (Observed(0.0, 1.0, 8, 4, 0.5, (0.2, 0.8)),)
    spec = save_model(folder, preprocessing=Preprocessing(), observed=observed)
    return BatchService(Predictor.load(folder, "cpu"), ModelIdentity.of(spec, "pneumonia", "1.0.0"))


def ask(service: BatchService, row: Mapping[str, Any], **headers: str) -> tuple[int, str, bytes]:
    (reply,) = service.answer([IncomingRequest(row, headers, "id-0")])
    return reply.status, reply.content_type, reply.body


def ask_json(service: BatchService, body: Any, **headers: str) -> Any:
    status, content_type, reply = ask(service, {"body": body}, **headers)
    assert (status, content_type) == (200, "application/json")
    return json.loads(reply)


def test_the_description_is_valid_openapi_3_1() -> None:
    assert DESCRIPTION["openapi"].startswith("3.1.")
    OpenAPIV31SpecValidator(DESCRIPTION).validate()


def test_codes_and_statuses_are_those_of_the_handler() -> None:
    assert SCHEMAS["Problem"]["properties"]["code"]["enum"] == list(CODES)
    statuses = sorted({code.status for code in CODES.values()})
    assert SCHEMAS["Problem"]["properties"]["status"]["enum"] == statuses
    assert [name for name in SCHEMAS if name.startswith("Problem")] == ["Problem", *(f"Problem{s}" for s in statuses)]
    for status in statuses:
        described = SCHEMAS[f"Problem{status}"]
        fields = described["properties"]
        assert list(fields) == described["required"] == SCHEMAS["Problem"]["required"]
        here = {name: code for name, code in CODES.items() if code.status == status}
        assert fields["status"]["const"] == status
        assert fields["code"]["enum"] == list(here)
        assert {fields["retryable"]["const"]} == {code.retryable for code in here.values()}


def test_every_path_that_takes_films_has_every_status() -> None:
    for path, item in DESCRIPTION["paths"].items():
        if "post" in item:
            expected = {200, 403, 404, *(code.status for code in CODES.values())}
            assert {int(status) for status in item["post"]["responses"]} == expected, path


def test_option_values_are_those_of_the_handler() -> None:
    assert SCHEMAS["Cam"]["enum"] == list(CAM_FORMS)
    assert SCHEMAS["Target"]["enum"] == ["predicted", *STANDARD.targets]
    assert SCHEMAS["View"]["enum"] == list(VIEWS)
    assert SCHEMAS["FilmPicture"]["enum"] == list(FILM_FORMS)
    assert SCHEMAS["V1Request"]["properties"]["instances"]["maxItems"] == MAX_FILMS
    tensor = SCHEMAS["OpenInferenceRequest"]["properties"]["inputs"]["items"]["properties"]
    assert tensor["data"]["maxItems"] == MAX_FILMS


def test_no_option_has_a_default_which_a_generated_client_would_send() -> None:
    """As a header it would be what the client says of the film: every one declared PA, and the screen off."""
    for name in ("Cam", "Target", "View", "FilmPicture"):
        assert "default" not in SCHEMAS[name]
    for parameter in DESCRIPTION["components"]["parameters"].values():
        assert "default" not in parameter.get("schema", {})


def test_names_in_answers_are_those_of_the_handler() -> None:
    fields = SCHEMAS["Answer"]["properties"]
    of_two = SCHEMAS["Answer"]["else"]["properties"]
    assert of_two["label"]["enum"] == of_two["probabilities"]["required"] == of_two["logits"]["required"] == [*CLASSES]
    assert of_two["cam"]["properties"]["target"]["enum"] == list(STANDARD.targets)
    assert SCHEMAS["Label"]["pattern"] == f"^{NAME.pattern}$"
    assert fields["cam"]["properties"]["target"]["pattern"] == f"^({NAME.pattern}|contrast)$"
    assert fields["image"]["properties"]["flags"]["items"]["enum"] == list(films.FLAGS)
    assert fields["image"]["properties"]["width"]["minimum"] == films.MIN_SIDE
    assert fields["notice"]["const"] == NOTICE


def test_examples_are_what_they_are_examples_of() -> None:
    found = 0

    def check(where: str, content: Mapping[str, Any]) -> None:
        nonlocal found
        for media_type, said in content.items():
            examples = [one["value"] for one in said.get("examples", {}).values()]
            for example in [*examples, *([said["example"]] if "example" in said else [])]:
                schema = {"$id": "urn:openapi:example", **rooted(said["schema"])}
                errors = [e.message for e in Draft202012Validator(schema, registry=REGISTRY).iter_errors(example)]
                assert errors == [], (where, media_type)
                found += 1

    for kind in ("requestBodies", "responses"):
        for name, described in DESCRIPTION["components"][kind].items():
            check(name, described.get("content", {}))
    for path in ("/ping", "/metrics"):
        for status, described in DESCRIPTION["paths"][path]["get"]["responses"].items():
            check(f"{path} {status}", described["content"])
    assert found >= 20


def rooted(schema: Any) -> Any:
    """The schema with references that lead into the description."""
    if isinstance(schema, dict):
        return {k: f"urn:openapi{v}" if k == "$ref" else rooted(v) for k, v in schema.items()}
    return [rooted(item) for item in schema] if isinstance(schema, list) else schema


@pytest.mark.parametrize("cam", CAM_FORMS)
@pytest.mark.parametrize("target", ["predicted", *STANDARD.targets])
def test_an_answer_is_as_described_for_every_option(service: BatchService, cam: str, target: str) -> None:
    body = ask_json(service, FILM, **{"Cxr-Cam": cam, "Cxr-Target": target})
    validator("Answer").validate(body)
    assert ("cam" in body) == (cam != "none")
    assert "png" not in body["image"]
    with_film = ask_json(service, FILM, **{"Cxr-Cam": cam, "Cxr-Target": target, "Cxr-Film": "png"})
    validator("Answer").validate(with_film)
    assert with_film["image"].pop("png")
    assert with_film == body


@pytest.mark.parametrize("target", ["predicted", *STANDARD.targets])
def test_regions_are_as_described_and_change_nothing_else(service: BatchService, target: str) -> None:
    options = {"Cxr-Target": target, "Cxr-Film": "none"}
    body = ask_json(service, FILM, **options)
    with_regions = ask_json(service, FILM, **options, **{"Cxr-Regions": "0.5"})
    validator("Answer").validate(with_regions)
    regions = with_regions["cam"].pop("regions")
    assert with_regions == body
    expected = find_regions(body["cam"]["grid"], body["image"]["width"], body["image"]["height"])
    assert [one["share"] for one in regions] == pytest.approx([one.share for one in expected], abs=1e-5)


def test_a_level_that_is_described_is_one_that_is_taken() -> None:
    text, number = SCHEMAS["RegionsText"]["pattern"], SCHEMAS["Regions"]["anyOf"][1]
    assert [number["minimum"], number["maximum"]] == list(LEVELS)
    for hundredth in range(1, 100):
        level = f"{hundredth / 100:g}"
        assert bool(re.match(text, level)) == (LEVELS[0] <= float(level) <= LEVELS[1]), level


@pytest.mark.parametrize(
    "data",
    [
        FILM,
        encoded(film(), "JPEG"),
        encoded(film().astype(np.uint16) * 257),
        dicom(film(), bits=8),
        dicom(film().astype(np.uint16) * 16, PhotometricInterpretation="MONOCHROME1", ViewPosition="AP"),
        dicom(film(), bits=8, ViewPosition=None),
    ],
    ids=["png", "jpeg", "16 bit", "dicom", "monochrome1", "no view"],
)
def test_an_answer_is_as_described_for_every_kind_of_film(service: BatchService, data: bytes) -> None:
    validator("Answer").validate(ask_json(service, data))
    validator("Answer").validate(ask_json(service, data, **{"Cxr-View": "PA"}))


@pytest.mark.parametrize("target", ["predicted", "NORMAL", "VIRAL", "contrast"])
def test_an_answer_of_other_classes_is_as_described(tmp_path: Path, target: str) -> None:
    network = small_network(classes=3)
    fields = {"classes": ("NORMAL", "BACTERIAL", "VIRAL"), "positive": ("BACTERIAL", "VIRAL")}
    spec = save_model(tmp_path, network, preprocessing=Preprocessing(), cam_zero="decision", **fields)
    service = BatchService(Predictor.load(tmp_path, "cpu"), ModelIdentity.of(spec, "pneumonia", "1.0.0"))
    body = ask_json(service, FILM, **{"Cxr-Target": target, "Cxr-Cam": "overlay", "Cxr-Regions": "0.5"})
    validator("Answer").validate(body)
    decided = body["decision"].pop("positive")
    together = sum(body["probabilities"][name] for name in decided["classes"])
    assert decided["probability"] == pytest.approx(together, abs=2e-6)
    assert not validator("Answer").is_valid(body)  # without the group that decides it would be of NORMAL and PNEUMONIA


def test_flagged_films_have_flags_that_are_described(service: BatchService) -> None:
    clipped = np.where(film() > 100, 255, film()).astype(np.uint8)
    hot = film().astype(np.uint16)
    hot[0, 0] = 65535
    for data, flag in ((encoded(clipped), "clipped"), (encoded(hot), "bit_depth_unsure")):
        body = ask_json(service, data)
        assert flag in body["image"]["flags"]
        validator("Answer").validate(body)


def test_several_films_are_answered_as_described_each_for_itself(service: BatchService) -> None:
    texts = [base64_of(FILM), base64_of(b"no film"), "%"]
    body = ask_json(service, {"instances": [{"b64": text} for text in texts]})
    validator("V1Answer").validate(body)
    assert [entry.get("code") for entry in body["predictions"]] == [None, "UNKNOWN_FORMAT", "BAD_BASE64"]
    tensor = {"name": "image", "datatype": "BYTES", "shape": [3], "data": texts}
    request = {"id": "7", "inputs": [tensor]}
    validator("OpenInferenceRequest").validate(request | {"inputs": [tensor | {"data": texts[:2]}]})
    body = ask_json(service, request)
    validator("OpenInferenceAnswer").validate(body)
    answer, *problems = (json.loads(text) for text in body["outputs"][0]["data"])
    validator("Answer").validate(answer)
    for problem in problems:
        validator("Problem").validate(problem)


def test_the_overlay_is_described_as_png(service: BatchService) -> None:
    status, content_type, _ = ask(service, {"body": FILM}, Accept="image/png")
    assert content_type in RESPONSES["Answered"]["content"]
    assert status == 200


MULTI_FRAME = dicom(np.stack([film(), film(1)]), bits=8, NumberOfFrames=2)
PROVOKED: dict[str, tuple[Any, dict[str, str]]] = {
    "EMPTY_BODY": (b"", {}),
    "BAD_BASE64": ({"data": "%"}, {}),
    "BAD_JSON": (b"{", {}),
    "BAD_OPTION": (FILM, {"Cxr-Cam": "x"}),
    "UNSUPPORTED_ENCODING": (FILM, {"Content-Encoding": "gzip"}),
    "TOO_MANY_BYTES": (b"\0" * (films.MAX_BYTES + 1), {}),
    "TOO_MANY_PIXELS": (encoded(Image.new("1", (10_000, 5_001))), {}),
    "UNKNOWN_FORMAT": (b"GIF89a", {}),
    "UNSUPPORTED_TRANSFER_SYNTAX": (
        dicom(film(), bits=8).replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.9\0"),
        {},
    ),
    "DAMAGED_IMAGE": (FILM[:500], {}),
    "NOT_A_RADIOGRAPH": (dicom(film(), bits=8, Modality="CT"), {}),
    "NOT_FRONTAL": (FILM, {"Cxr-View": "LATERAL"}),
    "MULTI_FRAME": (MULTI_FRAME, {}),
    "TOO_SMALL": (encoded(film(0, 32, 32)), {}),
    "NO_CONTRAST": (encoded(np.zeros((80, 80), np.uint8)), {}),
}


@pytest.mark.parametrize("code", PROVOKED)
def test_a_refusal_is_as_described(service: BatchService, code: str) -> None:
    body, headers = PROVOKED[code]
    status, content_type, reply = ask(service, {"body": body}, **headers)
    problem = json.loads(reply)
    assert problem["code"] == code
    assert content_type == "application/problem+json"
    validator(f"Problem{status}").validate(problem)


def test_faults_of_the_server_are_as_described(
    service: BatchService, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    spec = save_model(tmp_path, preprocessing=Preprocessing())
    broken = BatchService(Predictor.load(tmp_path, "cpu"), ModelIdentity.of(spec, "pneumonia", "1.0.0"))
    with torch.no_grad():
        broken.predictor.network.fc.weight.fill_(float("nan"))
    status, _, reply = ask(broken, {"body": FILM})
    validator(f"Problem{status}").validate(json.loads(reply))
    assert json.loads(reply)["code"] == "NOT_FINITE"
    for fault, code in ((ValueError, "INTERNAL"), (MemoryError, "OUT_OF_MEMORY")):

        def fail(*_: Any, fault: type[Exception] = fault) -> None:
            raise fault

        monkeypatch.setattr("cxr.serving.service.decode", fail)
        status, _, reply = ask(service, {"body": FILM})
        validator(f"Problem{status}").validate(json.loads(reply))
        assert json.loads(reply)["code"] == code


def test_every_code_makes_a_problem_of_its_own_status_and_of_no_other() -> None:
    for name, code in CODES.items():
        problem = json.loads(error_reply(InputError(name, "as it is"), "id-0").body)
        for status in {one.status for one in CODES.values()}:
            assert validator(f"Problem{status}").is_valid(problem) == (status == code.status), name


def test_a_reply_with_a_field_too_few_or_too_many_is_not_as_described(service: BatchService) -> None:
    answer = ask_json(service, dicom(film(), bits=8), **{"Cxr-Cam": "overlay", "Cxr-Film": "png"})
    problem = json.loads(ask(service, {"body": b"GIF"})[2])
    may_be_absent = {"cam", "cam.png", "image.png", "decision.observed"}
    for schema, body, may_miss in (("Answer", answer, may_be_absent), ("Problem415", problem, set())):
        validator(schema).validate(body)
        missed = {name for name, changed in without_each_field(body) if validator(schema).is_valid(changed)}
        assert missed == may_miss
        assert not validator(schema).is_valid(body | {"patient": "x"})
    changed = copy.deepcopy(answer)
    changed["probabilities"]["NORMAL"] = 1.01
    assert not validator("Answer").is_valid(changed)
    changed = copy.deepcopy(answer)
    changed["image"]["flags"] = ["unheard_of"]
    assert not validator("Answer").is_valid(changed)
