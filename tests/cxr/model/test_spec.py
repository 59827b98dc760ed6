"""The spec goes through JSON unchanged, and nothing unsound gets in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cxr.errors import ModelError
from cxr.json_records import SEAL
from cxr.model.spec import ModelSpec, Observed, Preprocessing
from tests.cxr.networks import save_model

HALF = {"low": 0.0, "high": 1.0, "films": 8, "positive": 4, "share": 0.5, "interval": [0.2, 0.8]}


def test_a_spec_survives_json(tmp_path: Path) -> None:
    spec = save_model(tmp_path, training={"seed": 3}, observed=(Observed(0.0, 1.0, 8, 4, 0.5, (0.2, 0.8)),))
    assert ModelSpec.load(tmp_path) == spec
    assert ModelSpec.from_json(spec.to_json()).to_json() == spec.to_json()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"temperature": 0}, "temperature"),
        ({"temperature": "hot"}, "not a model spec"),
        ({"cam_scale": -1}, "cam_scale"),
        ({"operating_point": "lost"}, "operating_point"),
        ({"operating_points": {"youden": 1.5}}, "probability in 0-1"),
        ({"indeterminate": [0.9, 0.1]}, "rising"),
        ({"indeterminate": [0.9]}, "not a model spec"),
        ({"classes": ["PNEUMONIA", "NORMAL"]}, "in this order"),
        ({"observed": [{**HALF, "high": 0.5}]}, "has a gap"),
        ({"observed": [{**HALF, "low": 0.5}]}, "has a gap"),
        ({"observed": [{**HALF, "positive": 7}]}, "do not agree"),
        ({"observed": [{**HALF, "interval": [0.6, 0.7]}]}, "does not hold it"),
        ({"weights_file": "../../etc/passwd"}, "plain file name"),
        ({"surprise": 1}, "not a model spec"),
        ({"arch": None, "preprocessing": {"size": 224}}, "not a model spec"),
        ({"preprocessing": {"size": 8, "resize": "squash", "mean": [0, 0, 0], "std": [1, 1, 1]}}, "at least 32"),
        ({"preprocessing": {"size": 64, "resize": "crop", "mean": [0, 0, 0], "std": [1, 1, 1]}}, "resize"),
        ({"preprocessing": {"size": 64, "resize": "squash", "mean": [0, 0, 0], "std": [1, 0, 1]}}, "std"),
    ],
)
def test_a_spec_with_a_wrong_field_is_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    values = json.loads(save_model(tmp_path).to_json())
    del values[SEAL]
    with pytest.raises(ModelError, match=message):
        ModelSpec.from_json(json.dumps({**values, **change}))


def test_a_spec_that_was_edited_is_refused_whatever_its_values_are(tmp_path: Path) -> None:
    text = save_model(tmp_path).to_json()
    assert '"cam_scale": 2.0' in text
    with pytest.raises(ModelError, match="run pneumoscan export again: it was changed after it was written"):
        ModelSpec.from_json(text.replace('"cam_scale": 2.0', '"cam_scale": 3.0'))


def test_text_that_is_no_json_is_refused() -> None:
    with pytest.raises(ModelError, match="not a model spec"):
        ModelSpec.from_json("{")


def test_other_preprocessing_has_another_digest() -> None:
    assert Preprocessing().digest() == Preprocessing().digest()
    assert Preprocessing().digest() != Preprocessing(mean=(0, 0, 0)).digest()
