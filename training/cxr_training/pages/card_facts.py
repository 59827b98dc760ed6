"""What is known of a run's model: its spec, and what was measured of the same weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from cxr.model.spec import ModelSpec
from cxr.serving.card import AUDIT_FILE, METRICS_FILE, read_audit, read_metrics
from cxr_training.pages.page import Code, Strong, Words

# Paths are left out on purpose: a card travels with its model, and no path of the training machine goes along.
COMMANDS: Final = {
    METRICS_FILE: "python -m training.evaluate --run RUN --data DATA",
    AUDIT_FILE: "python -m training.audit --run RUN --data DATA",
}
_OTHERS: Final = {METRICS_FILE: "of other weights or of another threshold", AUDIT_FILE: "of other weights"}


@dataclass(frozen=True, slots=True)
class Facts:
    """Everything a card is made from.

    Parameters
    ----------
    metrics, audit
        As `training.evaluate` and `training.audit` left them; None where they were not run or are of another model.
    of_others
        The files that are there, but of another model.
    """

    spec: ModelSpec
    metrics: Mapping[str, Any] | None
    audit: Mapping[str, Any] | None
    of_others: frozenset[str] = frozenset()

    @classmethod
    def of(cls, run: Path) -> Facts:
        """The facts of a run folder that was exported.

        Raises
        ------
        ModelError
            If it was not exported, or a file is damaged.
        """
        spec = ModelSpec.load(run)
        audit = read_audit(run, spec) and json.loads((run / AUDIT_FILE).read_bytes())
        found: dict[str, Any] = {METRICS_FILE: read_metrics(run, spec), AUDIT_FILE: audit}
        others = frozenset(name for name, one in found.items() if one is None and (run / name).is_file())
        return cls(spec, found[METRICS_FILE], found[AUDIT_FILE], others)

    @property
    def missing(self) -> tuple[str, ...]:
        """The files whose figures the card lacks."""
        found = {METRICS_FILE: self.metrics, AUDIT_FILE: self.audit}
        return tuple(name for name, one in found.items() if one is None)

    def films_of(self, split: str) -> int | None:
        """How many films of a split the data folder of the training has; None where the run does not say."""
        data = self.spec.training.get("data")
        return sum(sum(one["films"][split].values()) for one in data) if data else None


def not_measured(facts: Facts, name: str) -> tuple[Words, ...]:
    """Why figures are missing, and how to get them."""
    why = f" ({name} in the run is {_OTHERS[name]}, so its figures are not shown)" if name in facts.of_others else ""
    return (Strong("Not measured"), f"{why}: run ", Code(COMMANDS[name]), ".")


def called(split: str) -> str:
    """What a split's films are, in words."""
    return {"train": "training", "val": "validation"}.get(split, split) + " films"


def chose(split: str) -> list[tuple[Words, ...]]:
    """A warning where figures are of films that had a part in making the model."""
    if split == "test":
        return []
    return [(Strong(f"Measured on the {called(split)}, which had a part in making the model: it looks too good."),)]
