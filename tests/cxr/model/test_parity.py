"""Which engine may serve: the reference, or one whose measured parity passes."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest

from cxr.errors import ModelError
from cxr.model.parity import DEVICES, REFERENCE, Parity
from cxr.model.spec import ModelSpec
from tests.cxr.networks import predictor, save_model

GOOD = Parity(1000, 5, -0.002, 0.03, 0.99, 0.999, "a processor")
ON_CPU = {"cpu": "openvino-float32", "cuda": REFERENCE}


def test_figures_on_the_limits_pass() -> None:
    assert GOOD.misses == ()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"flips": 6}, "6 of 1000 labels change, at most 0.5% may"),
        ({"asked": 101}, "101 of 1000 films are left open and scored again in float32"),
        ({"auroc_difference": 0.0021}, r"AUROC differs by \+0.0021"),
        ({"auroc_difference": math.nan}, "AUROC differs by"),
        ({"cam_correlation": 0.9899}, "correlates with the reference's by 0.990"),
        ({"cam_correlation": math.nan}, "correlates"),
        ({"films": 0, "flips": 0}, "0 of 0 labels"),
    ],
)
def test_each_limit_is_kept_and_named(change: dict[str, Any], words: str, tmp_path: Path) -> None:
    bad = dataclasses.replace(GOOD, **change)
    assert len(bad.misses) == 1
    with pytest.raises(ModelError, match=words):
        save_model(tmp_path, engines=ON_CPU, parity={"openvino-float32": bad})


def test_an_engine_that_was_never_compared_does_not_serve(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"pneumoscan calibrate --engine openvino-float32"):
        save_model(tmp_path, engines=ON_CPU)


@pytest.mark.parametrize(
    ("engines", "words"),
    [
        ({"cpu": REFERENCE}, "one for each of cpu, cuda"),
        ({"cpu": "cuda-float32", "cuda": REFERENCE}, "does not run on cpu"),
        ({"cpu": "fast", "cuda": REFERENCE}, "known are"),
    ],
)
def test_a_choice_that_cannot_be_meant_is_refused(engines: dict[str, str], words: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=words):
        save_model(tmp_path, engines=engines, parity={"openvino-float32": GOOD})


def test_the_choice_and_its_figures_are_in_the_spec_and_the_predictor_follows(tmp_path: Path) -> None:
    save_model(tmp_path, engines=ON_CPU, parity={"openvino-float32": GOOD})
    assert ModelSpec.load(tmp_path).parity == {"openvino-float32": GOOD}
    assert predictor(tmp_path).engine.name == "openvino-float32"


def test_a_spec_without_a_choice_means_the_reference(tmp_path: Path) -> None:
    spec = save_model(tmp_path)
    assert spec.engines == dict.fromkeys(DEVICES, REFERENCE)
    assert predictor(tmp_path).engine.name == REFERENCE
