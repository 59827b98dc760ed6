"""A batch: one reply for each request, and nothing of one request in another's."""

from __future__ import annotations

import base64
import io
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from cxr import NOTICE
from cxr.films.film import Pixels
from cxr.model.cam import upsample
from cxr.model.spec import Observed
from cxr.predict import Prediction
from cxr.serving.metrics import BatchMetrics
from cxr.serving.render import blend, evidence_map
from cxr.serving.reply import ModelIdentity
from cxr.serving.service import BatchService, FilmJob, IncomingRequest
from tests.cxr.networks import predictor, save_model, small_network
from tests.films import dicom, encoded, film


@pytest.fixture
def service(tmp_path: Path) -> BatchService:
    spec = save_model(tmp_path)
    return BatchService(predictor(tmp_path), ModelIdentity.of(spec, "pneumonia", "1.0.0"))


def ask(service: BatchService, *bodies: Any, **headers: str) -> list[tuple[int, str, Any]]:
    """Status, content type and parsed body of the reply to each body, all in one batch."""
    batch = [IncomingRequest({"body": body}, headers, f"id-{i}") for i, body in enumerate(bodies)]
    replies = service.answer(batch)
    assert len(replies) == len(bodies)
    return [
        (reply.status, reply.content_type, reply.body if reply.content_type == "image/png" else json.loads(reply.body))
        for reply in replies
    ]


def test_the_reply_has_the_shape_of_the_contract(service: BatchService) -> None:
    status, content_type, body = ask(service, dicom(film(), bits=8, PatientID="CANARY"))[0]
    assert (status, content_type) == (200, "application/json")
    assert list(body) == [
        "model",
        "request_id",
        "label",
        "probabilities",
        "logits",
        "decision",
        "cam",
        "image",
        "notice",
    ]
    assert body["model"] == {
        "name": "pneumonia",
        "version": "1.0.0",
        "arch": "resnet10",
        "weights_sha256": service.predictor.spec.weights_sha256,
        "pretrained": "random",
    }
    assert sum(body["probabilities"].values()) == pytest.approx(1)
    assert body["decision"] == {"operating_point": "youden", "threshold": 0.5, "indeterminate": False} | {
        "indeterminate": body["decision"]["indeterminate"]
    }
    assert body["image"] == {
        "format": "DICOM",
        "width": 80,
        "height": 96,
        "bits": 8,
        "photometric_interpretation": "MONOCHROME2",
        "view_position": "PA",
        "flags": [],
    }
    assert body["notice"] == NOTICE
    assert body["request_id"] == "id-0"


@pytest.mark.parametrize("tags", [{"BodyPartExamined": "ABDOMEN"}, {"ViewPosition": "LL"}])
def test_who_says_it_is_frontal_overrules_the_tags_of_the_file_with_a_flag(
    service: BatchService, tags: dict[str, str]
) -> None:
    data = dicom(film(), bits=8, **tags)
    assert ask(service, data)[0][0] == 422
    assert ask(service, data, **{"Cxr-View": "LATERAL"})[0][0] == 422
    status, _, body = ask(service, data, **{"Cxr-View": "AP"})[0]
    assert (status, body["image"]["flags"]) == (200, ["tag_overruled"])
    assert body["probabilities"] == ask(service, dicom(film(), bits=8))[0][2]["probabilities"]
    assert ask(service, dicom(film(), bits=8, Modality="CT"), **{"Cxr-View": "PA"})[0][0] == 422


@pytest.mark.parametrize("target", ["predicted", "NORMAL", "PNEUMONIA", "contrast"])
def test_mean_of_the_grid_plus_bias_is_the_logit_in_the_reply_itself(service: BatchService, target: str) -> None:
    body = ask(service, encoded(film()), **{"Cxr-Target": target})[0][2]
    logits = body["logits"] | {"contrast": body["logits"]["PNEUMONIA"] - body["logits"]["NORMAL"]}
    cam = body["cam"]
    assert np.mean(cam["grid"]) + cam["bias"] == pytest.approx(logits[cam["target"]], abs=1e-4)


def test_bad_films_get_their_error_and_good_ones_their_answer(service: BatchService) -> None:
    good = [encoded(film(seed)) for seed in range(3)]
    alone = [ask(service, data)[0][2] for data in good]
    mixed = ask(service, good[0], b"not a film", good[1], encoded(film())[:500], {"data": "%"}, good[2], b"")
    assert [status for status, _, _ in mixed] == [200, 415, 200, 422, 400, 200, 400]
    assert [mixed[i][2]["code"] for i in (1, 3, 4, 6)] == [
        "UNKNOWN_FORMAT",
        "DAMAGED_IMAGE",
        "BAD_BASE64",
        "EMPTY_BODY",
    ]
    for place, body in zip((0, 2, 5), alone, strict=True):
        served = mixed[place][2]
        assert served["probabilities"]["PNEUMONIA"] == pytest.approx(body["probabilities"]["PNEUMONIA"], abs=1e-5)
        np.testing.assert_allclose(served["cam"]["grid"], body["cam"]["grid"], atol=1e-4)


def test_an_error_is_a_problem_document(service: BatchService) -> None:
    status, content_type, body = ask(service, b"GIF89a")[0]
    assert content_type == "application/problem+json"
    assert body["status"] == status == 415
    assert set(body) == {"type", "title", "status", "code", "detail", "request_id", "retryable"}


def test_the_reply_says_what_such_a_probability_meant_where_the_model_knows(tmp_path: Path) -> None:
    kinds = (Observed(0.0, 0.5, 40, 4, 0.1, (0.03, 0.24)), Observed(0.5, 1.0, 30, 25, 25 / 30, (0.65, 0.94)))
    spec = save_model(tmp_path, observed=kinds)
    counted = BatchService(predictor(tmp_path), ModelIdentity.of(spec, "pneumonia", "1.0.0"))
    body = ask(counted, encoded(film()))[0][2]
    at = kinds[body["probabilities"]["PNEUMONIA"] >= 0.5]
    assert body["decision"]["observed"] == {
        "low": at.low,
        "high": at.high,
        "films": at.films,
        "positive": at.positive,
        "per_100": round(100 * at.positive / at.films),
        "interval": list(at.interval),
    }
    assert spec.observed_at(0.5) == spec.observed_at(1.0) == kinds[1]
    assert spec.observed_at(0.0) == kinds[0]


def test_cam_none_leaves_the_map_out(service: BatchService) -> None:
    assert "cam" not in ask(service, encoded(film()), **{"Cxr-Cam": "none"})[0][2]


def test_regions_are_in_the_films_own_pixels_whatever_the_network_sees(service: BatchService) -> None:
    """A large film is read reduced, and its regions lie on it as it is in its file."""
    small, large = film(), np.kron(film(), np.ones((4, 4), np.uint8))
    options = {"Cxr-Target": "contrast", "Cxr-Regions": "0.5"}
    one, other = (ask(service, encoded(pixels), **options)[0][2] for pixels in (small, large))
    assert one["cam"]["regions"]
    for near, far in zip(one["cam"]["regions"], other["cam"]["regions"], strict=True):
        near_box, far_box = ([part["box"][side] for side in ("x", "y", "width", "height")] for part in (near, far))
        assert np.allclose(np.multiply(near_box, 4), far_box, atol=12)
        x, y = np.transpose(far["points"])
        assert far_box == [x.min(), y.min(), np.ptp(x), np.ptp(y)]
        assert (x.max() <= large.shape[1], y.max() <= large.shape[0]) == (True, True)


def test_the_heat_map_picture_shows_the_grid(service: BatchService) -> None:
    cam = ask(service, encoded(film()), **{"Cxr-Cam": "heatmap", "Cxr-Target": "contrast"})[0][2]["cam"]
    picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(cam["png"]))))
    evidence = np.clip(upsample(np.asarray(cam["grid"], np.float32), 96, 80) / 2.0, -1, 1)
    assert np.abs(picture - (evidence * 127 + 128)).max() <= 0.6


def test_accept_image_png_answers_with_the_overlay_itself(service: BatchService) -> None:
    status, content_type, body = ask(service, encoded(film()), Accept="image/png")[0]
    assert (status, content_type) == (200, "image/png")
    assert Image.open(io.BytesIO(body)).size == (80 + 96, 96)


def test_the_overlay_in_json_is_the_same_picture(service: BatchService) -> None:
    as_png = ask(service, encoded(film()), Accept="image/png")[0][2]
    in_json = ask(service, encoded(film()), **{"Cxr-Cam": "overlay"})[0][2]["cam"]["png"]
    assert base64.b64decode(in_json) == as_png


@pytest.mark.parametrize("cam", ["none", "grid", "heatmap", "overlay"])
def test_the_reply_has_the_films_own_picture_where_it_is_asked_for(service: BatchService, cam: str) -> None:
    body = ask(service, dicom(film(), bits=8), **{"Cxr-Cam": cam, "Cxr-Film": "png"})[0][2]
    with Image.open(io.BytesIO(base64.b64decode(body["image"]["png"]))) as picture:
        assert picture.mode == "L"
        np.testing.assert_array_equal(np.asarray(picture), film())


def test_film_and_overlay_in_one_reply_lie_on_each_other(service: BatchService) -> None:
    """Where there is no evidence either way, the overlay's pixels are the film's; the colour bar is what is beside."""
    options = {"Cxr-Cam": "overlay", "Cxr-Film": "png", "Cxr-Target": "contrast"}
    body = ask(service, encoded(film(height=1500, width=1300), "JPEG"), **options)[0][2]
    pictures = [Image.open(io.BytesIO(base64.b64decode(text))) for text in (body["image"]["png"], body["cam"]["png"])]
    own, overlaid = (np.asarray(picture) for picture in pictures)
    height, width = own.shape
    assert (height, width) == (1024, round(1300 * 1024 / 1500))
    assert overlaid.shape == (height, width + 192, 3)
    evidence = evidence_map(np.asarray(body["cam"]["grid"], np.float32), "contrast", 2.0, height, width)
    np.testing.assert_allclose(overlaid[:, :width], blend(own, evidence), atol=1)


def test_an_answer_that_is_not_finite_is_an_error_and_valid_json(tmp_path: Path) -> None:
    network = small_network()
    with torch.no_grad():
        network.fc.weight.fill_(float("nan"))
    spec = save_model(tmp_path, network)
    service = BatchService(predictor(tmp_path), ModelIdentity.of(spec, "pneumonia", "1.0.0"))
    status, _, body = ask(service, encoded(film()))[0]
    assert (status, body["code"]) == (500, "NOT_FINITE")


def test_a_fault_of_ours_is_a_500_without_a_word_of_the_upload(
    service: BatchService, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(films: list[Any]) -> list[Any]:
        raise ValueError(f"CANARY {films}")

    monkeypatch.setattr(service.predictor, "predict", fail)
    with caplog.at_level(logging.DEBUG):
        replies = ask(service, encoded(film()), b"GIF")
    assert [body["code"] for _, _, body in replies] == ["INTERNAL", "UNKNOWN_FORMAT"]
    assert "ValueError" in caplog.text
    assert "CANARY" not in caplog.text


def several(*films: bytes) -> list[str]:
    return [base64.b64encode(one).decode() for one in films]


def test_a_kserve_v1_request_gets_one_entry_for_each_film(service: BatchService) -> None:
    good, other = encoded(film(1)), encoded(film(2))
    texts = several(good, b"no film", other)
    mixed = ask(service, other, {"instances": [{"b64": text} for text in texts]}, b"GIF", good)
    assert [status for status, _, _ in mixed] == [200, 200, 415, 200]
    entries = mixed[1][2]["predictions"]
    assert entries[1]["code"] == "UNKNOWN_FORMAT"
    for entry, alone in ((entries[0], mixed[3][2]), (entries[2], mixed[0][2])):
        assert entry["probabilities"]["PNEUMONIA"] == pytest.approx(alone["probabilities"]["PNEUMONIA"], abs=1e-5)
        np.testing.assert_allclose(entry["cam"]["grid"], alone["cam"]["grid"], atol=1e-4)


def test_an_open_inference_request_gets_a_tensor_of_json_texts(service: BatchService) -> None:
    texts = several(encoded(film(1)), encoded(film(2)))
    body = {"id": "7", "inputs": [{"name": "image", "datatype": "BYTES", "shape": [2], "data": texts}]}
    status, content_type, reply = ask(service, body)[0]
    assert (status, content_type) == (200, "application/json")
    assert (reply["model_name"], reply["model_version"], reply["id"]) == ("pneumonia", "1.0.0", "7")
    (tensor,) = reply["outputs"]
    assert (tensor["name"], tensor["datatype"], tensor["shape"]) == ("prediction", "BYTES", [2])
    alone = ask(service, encoded(film(2)))[0][2]
    assert json.loads(tensor["data"][1])["probabilities"] == pytest.approx(alone["probabilities"], abs=1e-5)


def test_where_no_film_of_several_can_be_answered_the_reply_is_the_first_error(service: BatchService) -> None:
    status, content_type, body = ask(service, {"instances": [{"b64": "%"}, {"b64": ""}]})[0]
    assert (status, content_type, body["code"]) == (400, "application/problem+json", "BAD_BASE64")


def test_what_is_said_about_one_film_is_a_line_beside_the_reply_whatever_its_form(service: BatchService) -> None:
    png = base64.b64encode(encoded(film())).decode()
    asked: list[tuple[Any, dict[str, str]]] = [
        (encoded(film()), {}),
        (encoded(film()), {"Accept": "image/png"}),
        ({"instances": [{"b64": png}]}, {}),
        (b"no film", {}),
        ({"instances": [{"b64": png}, {"b64": png}]}, {}),
    ]
    rows = [IncomingRequest({"body": body}, headers, "id") for body, headers in asked]
    replies = service.answer(rows)
    said = json.loads(replies[0].body)
    line = f"label={said['label']}; p={said['probabilities']['PNEUMONIA']:.6f}; version={said['model']['version']}"
    code = json.loads(replies[3].body)["code"]
    assert [reply.answer for reply in replies] == [
        *[line] * 3,
        f"code={code}; version={said['model']['version']}",
        "",
    ]


def test_an_empty_batch_has_no_replies(service: BatchService) -> None:
    assert service.answer([]) == []


@pytest.mark.parametrize("threads", [1, 4])
def test_a_large_batch_gives_each_film_its_own_answer_however_many_threads_prepare_it(
    threads: int, tmp_path: Path
) -> None:
    spec = save_model(tmp_path)
    usual = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        service = BatchService(predictor(tmp_path), ModelIdentity.of(spec, "pneumonia", "1.0.0"))
    finally:
        torch.set_num_threads(usual)
    bodies = [b"no film" if index % 7 == 3 else encoded(film(index)) for index in range(70)]
    measured = BatchMetrics()
    batch = [IncomingRequest({"body": body}, {}, f"id-{i}") for i, body in enumerate(bodies)]
    for index, reply in enumerate(service.answer(batch, measured)):
        alone = ask(service, bodies[index])[0]
        assert reply.status == alone[0]
        if reply.status == 200:
            assert json.loads(reply.body)["logits"] == pytest.approx(alone[2]["logits"], abs=1e-5)
    assert measured.counts["cxr_images_total", ("PNG",)] == 60
    assert sum(key[0] == "cxr_forward_seconds" for key, _ in measured.values) == 2


@pytest.mark.parametrize(("cam", "height"), [("grid", 64), ("overlay", 1024)])
def test_of_a_film_that_waits_for_its_batch_only_what_is_needed_is_kept(
    service: BatchService, monkeypatch: pytest.MonkeyPatch, cam: str, height: int
) -> None:
    kept: list[FilmJob] = []
    real = service._score

    def score(jobs: Sequence[FilmJob], metrics: BatchMetrics) -> None:
        kept.extend(jobs)
        assert all(job.data is None for job in jobs)
        real(jobs, metrics)

    monkeypatch.setattr(service, "_score", score)
    large = film(height=2000, width=1800)
    bodies = [encoded(large), encoded(large, "JPEG"), dicom(large.astype(np.uint16) * 16)]
    assert [status for status, _, _ in ask(service, *bodies, **{"Cxr-Cam": cam})] == [200] * 3
    for job in kept:
        assert job.tensor_film is not None
        assert job.tensor_film.shape == (64, 64)
        assert job.film is not None
        assert job.film.pixels.shape[0] == height
        assert (job.film.info.width, job.film.info.height) == (1800, 2000)


def test_the_time_a_network_takes_is_not_counted_against_films_that_wait_behind_it(
    service: BatchService, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr("cxr.serving.service.time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(service, "_pool", None)
    real = service.predictor.predict

    def slow(films: Sequence[Pixels]) -> list[Prediction]:
        now[0] += 60.0
        return real(films)

    monkeypatch.setattr(service.predictor, "predict", slow)
    bodies = [encoded(film(index)) for index in range(40)]
    assert {status for status, _, _ in ask(service, *bodies)} == {200}
    assert now[0] == 120.0


def test_tiff_is_answered_with_its_picture_where_the_operator_admits_it(tmp_path: Path) -> None:
    spec = save_model(tmp_path)
    scorer, identity = predictor(tmp_path), ModelIdentity.of(spec, "pneumonia", "1.0.0")
    scan = encoded(film(), "TIFF", compression="tiff_lzw")
    ((status, _, refused),) = ask(BatchService(scorer, identity), scan)
    assert (status, refused["code"]) == (415, "UNKNOWN_FORMAT")
    headers = {"Cxr-Film": "png"}
    ((_, _, answer), (_, _, same)) = ask(
        BatchService(scorer, identity, formats=["tiff"]), scan, encoded(film()), **headers
    )
    assert answer["image"].pop("format") == "TIFF"
    assert same["image"].pop("format") == "PNG"
    del answer["request_id"], same["request_id"]
    assert answer == same
