"""The model card: what a model is for, what it was made from and how well it did, as the server tells it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from cxr.errors import ModelError
from cxr.film import FLAGS, MAX_BYTES, MAX_PIXELS, MIN_SIDE
from cxr.spec import ModelSpec, refuse_constant

METRICS_FILE: Final = "metrics.json"
NOTICE: Final = "Research use only. Not a diagnosis."
_USE: Final = "Ranking frontal chest films by how much they look like pneumonia, for research and teaching."
_LIMITS: Final = (
    "Not tested as a medical device. Pneumonia of any cause is one class; a film without it can show other disease.",
    "Figures hold for films like those they were measured on: other hospitals, machines and ages can differ widely.",
    "The map shows which cells the probability comes from. It is no outline of disease.",
)


def read_metrics(folder: Path, spec: ModelSpec) -> dict[str, Any] | None:
    """What `training.evaluate` found for this model, from a folder's `metrics.json`.

    Returns
    -------
    None where there is no such file, or it is of other weights or another threshold.

    Raises
    ------
    ModelError
        If the file is damaged.
    """
    path = folder / METRICS_FILE
    if not path.is_file():
        return None
    try:
        metrics = json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse_constant)
        measured = [metrics[name] for name in ("weights_sha256", "operating_point", "threshold")]
        return dict(metrics) if measured == [spec.weights_sha256, spec.operating_point, spec.threshold] else None
    except (ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{path} is damaged ({error}): run training.evaluate again") from error


def model_card(spec: ModelSpec, identity: Mapping[str, str], metrics: Mapping[str, Any] | None) -> dict[str, Any]:
    """The card as JSON values.

    Parameters
    ----------
    identity
        Name, version, architecture and weights, as every reply gives them.
    metrics
        Of `read_metrics`; the evaluation is empty where nothing was measured.
    """
    return {
        "model": dict(identity),
        "notice": NOTICE,
        "intended_use": _USE,
        "limits": list(_LIMITS),
        "classes": list(spec.classes),
        "input": {"max_bytes": MAX_BYTES, "max_pixels": MAX_PIXELS, "min_side": MIN_SIDE},
        "preprocessing": asdict(spec.preprocessing),
        "calibration": {
            "temperature": spec.temperature,
            "operating_point": spec.operating_point,
            "operating_points": dict(spec.operating_points),
            "indeterminate": spec.indeterminate and list(spec.indeterminate),
            "cam_scale": spec.cam_scale,
        },
        "views": _views(spec),
        "flags": dict(FLAGS),
        "training": dict(spec.training),
        "data_sha256": spec.data_sha256,
        "code_version": spec.code_version,
        "evaluation": dict(metrics or {}),
    }


def _views(spec: ModelSpec) -> str:
    if spec.screen is None:
        return "views that are not frontal are refused by their tags alone"
    if spec.screen.refuses:
        return "films without a view tag that do not look frontal are refused"
    return "films that do not look frontal are flagged"
