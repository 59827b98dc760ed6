"""The model card: what a spec and its measurements say, as strict JSON, to who asks and to nobody else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cxr.errors import ModelError
from cxr.serving.card import AuditSummary, read_audit, read_metrics
from cxr.serving.reply import ModelIdentity
from cxr.serving.service import BatchService, IncomingRequest
from tests.cxr.networks import predictor, save_model
from tests.films import encoded, film


@pytest.fixture
def service(tmp_path: Path) -> BatchService:
    spec = save_model(tmp_path)
    metrics = {"weights_sha256": spec.weights_sha256, "overall": {"auroc": 0.9}}
    audit = AuditSummary(spec.weights_sha256, ("It goes by the border.",))
    return BatchService(predictor(tmp_path), ModelIdentity.of(spec, "pneumonia", "2.0.0"), metrics, audit)


def test_who_asks_in_a_batch_gets_the_card_and_the_others_their_answers(service: BatchService) -> None:
    rows = [{"body": encoded(film())}, {}, {"body": b"GIF89a"}]
    headers = [{}, {"describe": "True"}, {}]
    replies = service.answer([IncomingRequest(*one, "id") for one in zip(rows, headers, strict=True)])
    assert [reply.status for reply in replies] == [200, 200, 415]
    card = json.loads(replies[1].body)
    assert card["model"]["version"] == "2.0.0"
    assert card["evaluation"]["overall"] == {"auroc": 0.9}
    assert card["shortcuts"] == ["It goes by the border."]
    assert card["calibration"]["operating_points"] == {"youden": 0.5}
    assert "label" in json.loads(replies[0].body)


def test_a_film_with_the_header_is_still_a_film(service: BatchService) -> None:
    (reply,) = service.answer([IncomingRequest({"body": encoded(film())}, {"describe": "True"}, "id")])
    assert "label" in json.loads(reply.body)


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"weights_sha256": NaN}'])
def test_damaged_measurements_are_told_before_a_model_serves(tmp_path: Path, text: str) -> None:
    spec = save_model(tmp_path)
    (tmp_path / "metrics.json").write_text(text)
    with pytest.raises(ModelError, match=r"pneumoscan evaluate"):
        read_metrics(tmp_path, spec)


def test_measurements_of_other_weights_are_not_told(tmp_path: Path) -> None:
    spec = save_model(tmp_path)
    assert read_metrics(tmp_path, spec) is None
    own = {"weights_sha256": spec.weights_sha256, "operating_point": spec.operating_point, "threshold": spec.threshold}
    for other, known in (({}, True), ({"weights_sha256": "another"}, False), ({"threshold": 0.93}, False)):
        (tmp_path / "metrics.json").write_text(json.dumps(own | other))
        assert (read_metrics(tmp_path, spec) is not None) is known


def test_a_card_without_an_audit_tells_no_shortcuts(tmp_path: Path) -> None:
    spec = save_model(tmp_path)
    service = BatchService(predictor(tmp_path), ModelIdentity.of(spec, "pneumonia", "2.0.0"))
    assert json.loads(service.card.body)["shortcuts"] == []
    assert json.loads(service.card.body)["evaluation"] == {}


@pytest.mark.parametrize(
    "text",
    ["{", "[]", "{}", '{"plain_words": []}', '{"weights_sha256": "x", "plain_words": [1]}', '{"plain_words": NaN}'],
)
def test_a_damaged_audit_is_told_before_a_model_serves(tmp_path: Path, text: str) -> None:
    spec = save_model(tmp_path)
    (tmp_path / "audit.json").write_text(text)
    with pytest.raises(ModelError, match=r"pneumoscan audit"):
        read_audit(tmp_path, spec)


def test_an_audit_of_other_weights_is_not_told_and_one_at_another_threshold_is(tmp_path: Path) -> None:
    spec = save_model(tmp_path)
    assert read_audit(tmp_path, spec) is None
    for weights, known in ((spec.weights_sha256, True), ("another", False)):
        (tmp_path / "audit.json").write_text(json.dumps({"weights_sha256": weights, "plain_words": ["said"]}))
        assert (read_audit(tmp_path, spec) is not None) is known
