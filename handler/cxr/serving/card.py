"""The model card of a server: the use of a model, the data it was made from and its figures."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from cxr import NOTICE
from cxr.errors import ModelError
from cxr.films.film import FLAGS, MAX_BYTES, MAX_PIXELS, MIN_SIDE
from cxr.model.spec import ModelSpec, refuse_constant

METRICS_FILE: Final = "metrics.json"
AUDIT_FILE: Final = "audit.json"
INTENDED_USE: Final = "Ranking frontal chest films by how much they look like pneumonia, for research and teaching."
OUT_OF_SCOPE: Final = (
    "Diagnosis, triage, or any other decision about a patient, alone or as a second reader.",
    "Telling what caused a pneumonia, how severe it is or how it changes, or that a chest is healthy.",
    "Lateral films, CT, pictures of other parts of the body, photographs of films or screens.",
)
LIMITS: Final = (
    "Not tested as a medical device. Pneumonia of any cause is one class; a film without it can show other disease.",
    "Figures hold for films like those they were measured on: other hospitals, machines and ages can differ widely.",
    "The map shows which cells the probability comes from. It is no outline of disease.",
)


def read_metrics(folder: Path, spec: ModelSpec) -> dict[str, Any] | None:
    """The figures of `training.evaluate` for this model, from a folder's `metrics.json`.

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


def read_audit(folder: Path, spec: ModelSpec) -> dict[str, Any] | None:
    """The findings of `training.audit` for this model, from a folder's `audit.json`.

    Returns
    -------
    None where there is no such file, or it is of other weights. The threshold plays no part in an audit.

    Raises
    ------
    ModelError
        If the file is damaged.
    """
    path = folder / AUDIT_FILE
    if not path.is_file():
        return None
    try:
        audit = json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse_constant)
        sentences = audit["plain_words"]
        if not (isinstance(sentences, list) and all(isinstance(sentence, str) for sentence in sentences)):
            raise TypeError("plain_words is not a list of sentences")
        return dict(audit) if audit["weights_sha256"] == spec.weights_sha256 else None
    except (ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{path} is damaged ({error}): run training.audit again") from error


def model_card(
    spec: ModelSpec,
    identity: Mapping[str, str],
    metrics: Mapping[str, Any] | None,
    audit: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The card as JSON values.

    Parameters
    ----------
    identity
        Name, version, architecture and weights, as every reply gives them.
    metrics
        Of `read_metrics`; the evaluation is empty where nothing was measured.
    audit
        Of `read_audit`; of it the card tells the plain words, and none where there was no audit.
    """
    return {
        "model": dict(identity),
        "notice": NOTICE,
        "intended_use": INTENDED_USE,
        "out_of_scope": list(OUT_OF_SCOPE),
        "limits": list(LIMITS),
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
        "views": views(spec),
        "flags": dict(FLAGS),
        "training": dict(spec.training),
        "data_sha256": spec.data_sha256,
        "code_version": spec.code_version,
        "evaluation": dict(metrics or {}),
        "shortcuts": list(audit["plain_words"]) if audit else [],
    }


def views(spec: ModelSpec) -> str:
    """The fate of films that are not frontal."""
    if spec.screen is None:
        return "views that are not frontal are refused by their tags alone"
    if spec.screen.refuses:
        return "films without a view tag that do not look frontal are refused"
    return "films that do not look frontal are flagged"
