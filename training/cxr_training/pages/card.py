"""The model card of a run: what is known of its model, and what `templates/model-card.md.j2` makes of it.

References
----------
Mitchell et al. (2019): Model Cards for Model Reporting. FAT* 2019:220-229, whose sections these are.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from cxr.json_records import read_file
from cxr.model.spec import ModelSpec
from cxr.serving.card import (
    AUDIT_FILE,
    INTENDED_USE,
    LIMITS,
    METRICS_FILE,
    OUT_OF_SCOPE,
    read_audit,
    read_metrics,
    views,
)
from cxr_training.data.records import SPLITS, SYNTHETIC
from cxr_training.measure.calibration import POINTS
from cxr_training.measure.records import Audit, Metrics
from cxr_training.pages.audit_page import readings_table
from cxr_training.pages.page import Table, number, percent, render, render_html
from cxr_training.pages.report import boxes_table, classes_table, confusion_table, figures_table, groups_table
from cxr_training.runs import Collection, Training
from pneumoscan.files import write_text

# Paths are left out on purpose: a card travels with its model, and no path of the training machine goes along.
COMMANDS: Final = {
    METRICS_FILE: "pneumoscan evaluate --run RUN --data DATA",
    AUDIT_FILE: "pneumoscan audit --run RUN --data DATA",
}
_FACTORS: Final = {"source": "source", "label_source": "label source", "view": "view", "age": "age", "sex": "sex"}
_NOT_STATED: Final = "not stated"  # as cxr_training.data.prepare.output has it
_NON_COMMERCIAL: Final = re.compile(r"(?<![a-z0-9])nc(?![a-z0-9])|non-?\s?commercial", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Facts:
    """Everything a card is made from.

    Parameters
    ----------
    metrics, audit
        As `pneumoscan evaluate` and `pneumoscan audit` left them; None where they were not run or are of another model.
    of_others
        The files that are there, but of another model.
    """

    spec: ModelSpec
    training: Training
    metrics: Metrics | None
    audit: Audit | None
    of_others: frozenset[str] = frozenset()

    @classmethod
    def of(cls, run: Path) -> Facts:
        """The facts of a run folder that was exported.

        Raises
        ------
        ModelError, TrainingError
            If it was not exported, or a file is damaged or of another version.
        """
        spec = ModelSpec.load(run)
        metrics = audit = None
        if read_metrics(run, spec) is not None:
            metrics = read_file(run / METRICS_FILE, Metrics, "pneumoscan evaluate")
        if read_audit(run, spec) is not None:
            audit = read_file(run / AUDIT_FILE, Audit, "pneumoscan audit")
        found = {METRICS_FILE: metrics, AUDIT_FILE: audit}
        others = frozenset(name for name, one in found.items() if one is None and (run / name).is_file())
        return cls(spec, Training.of(spec), metrics, audit, others)

    @property
    def missing(self) -> tuple[str, ...]:
        """The files whose figures the card lacks."""
        found = {METRICS_FILE: self.metrics, AUDIT_FILE: self.audit}
        return tuple(name for name, one in found.items() if one is None)

    @property
    def factors(self) -> tuple[list[str], list[str]]:
        """What films differ by: what there are separate figures for, and what there are none for."""
        groups = tuple(self.metrics.groups) if self.metrics else ()
        known = [name for column, name in _FACTORS.items() if any(one.startswith(f"{column}=") for one in groups)]
        return known, [name for name in _FACTORS.values() if name not in known]

    @property
    def synthetic(self) -> tuple[bool, bool | None]:
        """Whether every film it was trained on is made up, and every one it was measured on, None without figures."""
        data = self.training.data
        trained = bool(data) and all(one.source == SYNTHETIC for one in data)
        return trained, self.metrics.synthetic if self.metrics else None

    def films_of(self, split: str) -> int | None:
        """How many films of a split the data folder of the training has; None where the run does not say."""
        data = self.training.data
        return sum(sum(one.films[split].values()) for one in data) if data else None


def write_card(run: Path, out: Path) -> Facts:
    """Write the card of a run to `out`, a ``.md`` file, and as HTML beside it.

    Raises
    ------
    ModelError, TrainingError
        If the run was not exported, or a file of it is damaged or of another version.
    """
    facts = Facts.of(run)
    values = card_values(facts)
    write_text(out.with_suffix(".html"), render_html("model-card.md.j2", run, **values))
    write_text(out, render("model-card.md.j2", **values))
    return facts


def card_values(facts: Facts) -> dict[str, Any]:
    """What the template of the card is given."""
    spec, metrics, audit = facts.spec, facts.metrics, facts.audit
    groups = {"all": metrics.overall, **metrics.groups} if metrics else {}
    preprocessing = spec.preprocessing
    return {
        "facts": facts,
        "spec": spec,
        "training": facts.training,
        "metrics": metrics,
        "audit": audit,
        "commands": COMMANDS,
        "intended_use": INTENDED_USE,
        "out_of_scope": OUT_OF_SCOPE,
        "limits": LIMITS,
        "views": views(spec),
        "classes": spec.classes,
        **dict(zip(("positive", "negative"), spec.scheme.words, strict=True)),
        "mean": ", ".join(f"{value:g}" for value in preprocessing.mean),
        "std": ", ".join(f"{value:g}" for value in preprocessing.std),
        "points": _points_table(spec),
        "observed": _observed_table(spec),
        "collections": _collections_table(facts.training.data, spec.classes),
        "not_commercial": [one for one in facts.training.data if _NON_COMMERCIAL.search(one.licence)],
        "fitted_on": functools.partial(_fitted_on, classes=spec.classes),
        "not_stated": _NOT_STATED if any(one.licence in ("", _NOT_STATED) for one in facts.training.data) else "",
        "all_films": metrics and figures_table(metrics.overall, spec.scheme.words[0]),
        "by_class": metrics and metrics.classes and classes_table(metrics.classes),
        "confusion": metrics and metrics.classes and confusion_table(metrics.classes),
        "calls": groups_table(groups, ("auroc", "sensitivity", "specificity")),
        "probabilities": groups_table(groups, ("brier", "ece")),
        "boxes": metrics and metrics.localisation and boxes_table(metrics.localisation, spec.scheme.words[0]),
        "readings": audit and readings_table(audit.readings),
    }


def _points_table(spec: ModelSpec) -> Table:
    positive, negative = spec.scheme.words
    fitted = {name: words.format(positive=positive, negative=negative) for name, words in POINTS.items()}
    rows = [
        (f"{name}, which decides" if name == spec.operating_point else name, number(value), fitted.get(name, "-"))
        for name, value in spec.operating_points.items()
    ]
    return Table(("operating point", "threshold", "how it was fitted"), tuple(rows))


def _observed_table(spec: ModelSpec) -> Table:
    """What probabilities meant on the validation films."""
    rows = [
        (
            f"{number(one.low)} to {number(one.high)}",
            *(str(one.films), str(one.positive), percent(one.share)),
            f"{percent(one.interval[0])} to {percent(one.interval[1])}",
        )
        for one in spec.observed
    ]
    return Table(("probability", "validation films", "with pneumonia", "of 100", "95 % interval"), tuple(rows))


def _collections_table(data: Sequence[Collection], classes: Sequence[str]) -> Table:
    """Films by source, split and label, with the licence they came under."""
    labels = [label for label in classes if any(label in one.films[split] for one in data for split in SPLITS)]
    header = ("source", "label source", "licence", *(f"{split} {label}" for split in SPLITS for label in labels))
    rows = [
        (
            *(words or _NOT_STATED for words in (one.source, one.label_source, one.licence)),
            *(str(one.films[split].get(label, 0)) for split in SPLITS for label in labels),
        )
        for one in data
    ]
    return Table(header, tuple(rows))


def _fitted_on(one: Collection, classes: Sequence[str]) -> bool:
    """Whether films of a collection had a part in making the model, rather than being measured on alone."""
    return any(one.films[split].get(label) for split in ("train", "val") for label in classes)
