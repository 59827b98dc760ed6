"""The model card of a server: the use of a model, the data it was made from and its figures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from cxr import NOTICE
from cxr.films.film import FLAGS, MAX_BYTES, MAX_PIXELS, MIN_SIDE
from cxr.json_records import parse, read_file
from cxr.model.brightness import UNUSUAL
from cxr.model.cam import CAM_CELLS
from cxr.model.spec import ModelSpec

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


@dataclass(frozen=True, slots=True)
class Measured:
    """The model whose figures a `metrics.json` holds."""

    weights_sha256: str
    operating_point: str
    threshold: float


@dataclass(frozen=True, slots=True)
class AuditSummary:
    """What the card tells of an `audit.json`, and the model it is of."""

    weights_sha256: str
    plain_words: tuple[str, ...]


def read_metrics(folder: Path, spec: ModelSpec) -> dict[str, object] | None:
    """What `pneumoscan evaluate` found for this model: the values of a folder's `metrics.json`, as they stand there.

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
    measured = read_file(path, Measured, "pneumoscan evaluate")
    if measured != Measured(spec.weights_sha256, spec.operating_point, spec.threshold):
        return None
    values = parse(path.read_bytes())
    assert isinstance(values, dict)
    return values


def read_audit(folder: Path, spec: ModelSpec) -> AuditSummary | None:
    """What `pneumoscan audit` found for this model, from a folder's `audit.json`.

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
    summary = read_file(path, AuditSummary, "pneumoscan audit")
    return summary if summary.weights_sha256 == spec.weights_sha256 else None


def model_card(
    spec: ModelSpec,
    identity: Mapping[str, str],
    metrics: Mapping[str, object] | None,
    audit: AuditSummary | None = None,
) -> dict[str, object]:
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
    observed = {"observed": [asdict(one) for one in spec.observed]} if spec.observed else {}
    positive = {} if spec.scheme.is_standard else {"positive": list(spec.positive)}
    return {
        "model": dict(identity),
        "notice": NOTICE,
        "intended_use": INTENDED_USE,
        "out_of_scope": list(OUT_OF_SCOPE),
        "limits": list(LIMITS),
        "classes": list(spec.classes),
        **positive,
        "input": {"max_bytes": MAX_BYTES, "max_pixels": MAX_PIXELS, "min_side": MIN_SIDE},
        "preprocessing": asdict(spec.preprocessing),
        "calibration": {
            "temperature": spec.temperature,
            "operating_point": spec.operating_point,
            "operating_points": dict(spec.operating_points),
            "indeterminate": spec.indeterminate and list(spec.indeterminate),
            **observed,
            "cam_scale": spec.cam_scale,
            "cam_zero": spec.cam_zero,
            "cam_cells": CAM_CELLS,
        },
        "views": views(spec),
        "flags": {name: words for name, words in FLAGS.items() if name != UNUSUAL or spec.brightness is not None},
        "training": dict(spec.training),
        "data_sha256": spec.data_sha256,
        "code_version": spec.code_version,
        "evaluation": dict(metrics or {}),
        "shortcuts": list(audit.plain_words) if audit else [],
    }


def views(spec: ModelSpec) -> str:
    """The fate of films that are not frontal."""
    if spec.screen is None:
        return "views that are not frontal are refused by their tags alone"
    if spec.screen.refuses:
        return "films without a view tag that do not look frontal are refused"
    return "films that do not look frontal are flagged"
