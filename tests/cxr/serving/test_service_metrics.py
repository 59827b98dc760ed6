"""What a batch leaves behind beside its replies: counts, times and drift."""

from __future__ import annotations

import base64
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cxr.predict import Predictor
from cxr.serving.drift import FEWEST
from cxr.serving.metrics import OK, SIGNALS, BatchMetrics
from cxr.serving.reply import ModelIdentity
from cxr.serving.service import BatchService, IncomingRequest
from tests.cxr.networks import predictor, save_model, small_network
from tests.cxr.references import reference_for
from tests.films import dicom, encoded, film


@pytest.fixture
def service(tmp_path: Path) -> BatchService:
    spec = save_model(tmp_path)
    return BatchService(predictor(tmp_path), ModelIdentity.of(spec, "pneumonia", "1.0.0"))


def measure(service: BatchService, *bodies: Any, **headers: str) -> BatchMetrics:
    measured = BatchMetrics()
    service.answer([IncomingRequest({"body": body}, headers, f"CANARY-{i}") for i, body in enumerate(bodies)], measured)
    return measured


def requests_of(measured: BatchMetrics) -> dict[tuple[str, ...], int]:
    return {labels: count for (name, labels), count in measured.counts.items() if name == "cxr_requests_total"}


def count_of(measured: BatchMetrics, name: str) -> dict[tuple[str, ...], int]:
    return {labels: count for (found, labels), count in measured.counts.items() if found == name}


def observed(measured: BatchMetrics) -> Counter[str]:
    return Counter(name for (name, _), _ in measured.values)


def test_a_mixed_batch_is_counted_by_outcome_code_and_format(service: BatchService) -> None:
    bodies = [
        encoded(film(1)),
        encoded(film(2), "JPEG", quality=95),
        dicom(film(3), bits=8, PatientID="CANARY"),
        b"no film",
        encoded(film(4))[:500],
        dicom(film(5), bits=8, Modality="CT"),
        b"",
    ]
    measured = measure(service, *bodies)
    assert requests_of(measured) == {
        ("ok", OK): 3,
        ("refused", "UNKNOWN_FORMAT"): 1,
        ("refused", "DAMAGED_IMAGE"): 1,
        ("refused", "NOT_A_RADIOGRAPH"): 1,
        ("refused", "EMPTY_BODY"): 1,
    }
    assert count_of(measured, "cxr_images_total") == {("PNG",): 1, ("JPEG",): 1, ("DICOM",): 1}
    assert sum(count_of(measured, "cxr_predictions_total").values()) == 3
    times = observed(measured)
    assert times["cxr_decode_seconds"] == len(bodies)  # what is damaged took its time too
    assert times["cxr_preprocess_seconds"] == times["cxr_probability_pneumonia"] == 3
    assert times["cxr_forward_seconds"] == times["cxr_batch_size"] == times["cxr_batch_seconds"] == 1
    assert {name: value for (name, _), value in measured.values}["cxr_batch_size"] == 7
    assert "CANARY" not in repr(measured)


def test_flags_of_answered_films_and_views_that_requests_declare_are_counted(service: BatchService) -> None:
    clipped = film(1)
    clipped[:] = np.where(clipped > np.median(clipped), 255, 0)
    measured = measure(service, encoded(clipped), **{"Cxr-View": "PA"})
    assert count_of(measured, "cxr_flags_total")["clipped",] == 1
    assert count_of(measured, "cxr_views_total") == {("PA",): 1}
    assert count_of(measure(service, b"no film"), "cxr_views_total") == {("none",): 1}


def test_labels_indeterminate_answers_and_probabilities_are_those_of_the_replies(service: BatchService) -> None:
    films = [film(seed) for seed in range(12)]
    expected = service.predictor.predict(films)
    measured = measure(service, *(encoded(one) for one in films))
    labels = Counter((one.label,) for one in expected)
    assert count_of(measured, "cxr_predictions_total") == labels
    indeterminate = sum(one.indeterminate for one in expected)
    assert indeterminate > 0
    assert count_of(measured, "cxr_indeterminate_total") == {(): indeterminate}
    seen = [value for (name, _), value in measured.values if name == "cxr_probability_pneumonia"]
    np.testing.assert_allclose(seen, [one.probabilities[1] for one in expected], atol=1e-5)
    assert count_of(measured, "cxr_rescored_total") == {}


def test_films_that_the_second_engine_answered_are_counted(service: BatchService) -> None:
    model = service.predictor
    everything = Predictor(model.network, model.spec, model.device, model.engine, second=model.engine, margin=100.0)
    measured = measure(BatchService(everything, service.identity), *(encoded(film(seed)) for seed in range(3)))
    assert count_of(measured, "cxr_rescored_total") == {(): 3}


def test_a_request_of_several_films_is_one_request_and_several_films(service: BatchService) -> None:

    texts = [base64.b64encode(one).decode() for one in (encoded(film(1)), b"no film", encoded(film(2)))]
    measured = measure(service, {"instances": [{"b64": text} for text in texts]})
    assert requests_of(measured) == {("partial", "UNKNOWN_FORMAT"): 1}
    assert sum(count_of(measured, "cxr_predictions_total").values()) == 2
    assert observed(measured)["cxr_render_seconds"] == 1


def test_an_answer_that_is_not_finite_is_a_failure_and_no_prediction(tmp_path: Path) -> None:
    network = small_network()
    with torch.no_grad():
        network.fc.weight.fill_(float("nan"))
    spec = save_model(tmp_path, network)
    service = BatchService(predictor(tmp_path), ModelIdentity.of(spec, "pneumonia", "1.0.0"))
    measured = measure(service, encoded(film()))
    assert requests_of(measured) == {("failed", "NOT_FINITE"): 1}
    assert count_of(measured, "cxr_predictions_total") == {}
    assert "cxr_probability_pneumonia" not in observed(measured)


def test_a_fault_of_ours_is_counted_as_one(service: BatchService, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(films: list[Any]) -> list[Any]:
        raise ValueError(f"{len(films)} films")

    monkeypatch.setattr(service.predictor, "predict", fail)
    measured = measure(service, encoded(film()), b"GIF")
    assert requests_of(measured) == {("failed", "INTERNAL"): 1, ("refused", "UNKNOWN_FORMAT"): 1}


def test_who_asks_for_the_model_card_is_not_counted(service: BatchService) -> None:
    measured = BatchMetrics()
    replies = service.answer([IncomingRequest({}, {"describe": "True"}, "id")], measured)
    assert b"notice" in replies[0].body
    assert not measured.counts
    assert not measured.values


def test_without_a_reference_no_drift_is_published(service: BatchService) -> None:
    for start in range(0, FEWEST + 10, 10):
        measured = measure(service, *(encoded(film(seed)) for seed in range(start, start + 10)))
        assert not [name for name in observed(measured) if name.startswith("cxr_drift")]


def test_films_like_the_references_have_not_drifted_and_darkened_ones_have(tmp_path: Path) -> None:
    spec = save_model(tmp_path)
    loaded = predictor(tmp_path)
    reference = reference_for(loaded, [film(1000 + seed) for seed in range(100)])
    shifted: dict[str, set[str]] = {}
    for kind in ("like", "darker"):
        service = BatchService(loaded, ModelIdentity.of(spec, "pneumonia", "1.0.0"), reference=reference)
        measured = BatchMetrics()
        for start in range(0, 100, 10):
            films = [film(seed) for seed in range(start, start + 10)]
            films = films if kind == "like" else [(one // 3).astype(np.uint8) for one in films]
            measured = measure(service, *(encoded(one) for one in films))
        seen = {key: value for key, value in measured.values if key[0].startswith("cxr_drift")}
        assert {labels[0] for name, labels in seen if name == "cxr_drift_psi"} == set(SIGNALS)
        shifted[kind] = {
            labels[0]
            for (name, labels), value in seen.items()
            if name == "cxr_drift_psi" and value > seen["cxr_drift_psi_limit", labels]
        }
    assert shifted["like"] == set()
    assert {"mean_grey", "contrast"} <= shifted["darker"]
