"""The figures of a model card as rows of a table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _


@dataclass(frozen=True)
class Figure:
    """One figure: its name, what it says in words, its value and its 95 % interval as texts."""

    name: Promise
    meaning: Promise
    value: str
    interval: str


_NAMES = (
    ("auroc", _("AUROC"), _("How often a film with pneumonia is ranked above one without: 0.5 is chance, 1 always")),
    ("sensitivity", _("Sensitivity"), _("Share of the films with pneumonia that are called PNEUMONIA")),
    ("specificity", _("Specificity"), _("Share of the films without pneumonia that are called NORMAL")),
    ("accuracy", _("Accuracy"), _("Share of all films that are called rightly; it depends on the mix of films")),
    ("brier", _("Brier score"), _("Mean squared distance of the probability from the truth: 0 is best")),
    ("ece", _("Calibration error"), _("Mean distance between probability and observed share: 0 is best")),
)


def of_card(card: Mapping[str, Any]) -> list[Figure]:
    """The figures over all test films; none where nothing was measured."""
    overall = (card.get("evaluation") or {}).get("overall") or {}
    return [
        Figure(name, meaning, f"{overall[key]:.3f}", _interval(overall.get(f"{key}_ci")))
        for key, name, meaning in _NAMES
        if _is_number(overall.get(key))
    ]


def is_synthetic(card: Mapping[str, Any]) -> bool:
    """Whether the model was measured or trained on drawn films: its figures say nothing of people."""
    data = (card.get("training") or {}).get("data") or []
    drawn = isinstance(data, list) and any(isinstance(one, dict) and one.get("source") == "synthetic" for one in data)
    return bool((card.get("evaluation") or {}).get("synthetic")) or drawn


def _interval(pair: object) -> str:
    if isinstance(pair, list) and len(pair) == 2 and all(map(_is_number, pair)):
        return f"{pair[0]:.3f} – {pair[1]:.3f}"  # noqa: RUF001 - a range takes an en dash
    return ""


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
