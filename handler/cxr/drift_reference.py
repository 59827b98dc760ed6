"""`drift.json`: how score and film properties are distributed over the films a model was validated on."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

from cxr.errors import ModelError
from cxr.measured import SIGNALS
from cxr.spec import ModelSpec, refuse_constant

DRIFT_FILE: Final = "drift.json"


@dataclass(frozen=True, slots=True)
class Histogram:
    """One signal.

    Parameters
    ----------
    edges
        Inner edges of the bins, rising; a value on an edge is in the upper bin.
    counts
        Films in each bin, one more than there are edges.
    chi_square
        Quantile of the chi-square distribution for these bins that chance may reach (`cxr.drift.psi_limit`).
    """

    edges: tuple[float, ...]
    counts: tuple[int, ...]
    chi_square: float

    def __post_init__(self) -> None:
        if not self.edges or not all(a < b for a, b in pairwise(self.edges)) or not all(map(math.isfinite, self.edges)):
            raise ModelError(f"edges are {self.edges}: at least one is needed, all finite and rising")
        if len(self.counts) != len(self.edges) + 1 or min(self.counts) < 0 or sum(self.counts) < 1:
            raise ModelError(f"{len(self.counts)} counts for {len(self.edges)} edges: one more is needed, none below 0")
        if not (math.isfinite(self.chi_square) and self.chi_square > 0):
            raise ModelError(f"chi_square is {self.chi_square}: a finite number above 0 is needed")


@dataclass(frozen=True, slots=True)
class Reference:
    """What recent films are compared with.

    Parameters
    ----------
    weights_sha256, temperature
        Of the exported model whose scores these are; of any other model they mean nothing.
    checkpoint_sha256
        Of the checkpoint it was exported from.
    films
        How many films it was made from.
    signals
        One histogram for each of `cxr.measured.SIGNALS`.
    """

    weights_sha256: str
    checkpoint_sha256: str
    temperature: float
    films: int
    signals: Mapping[str, Histogram]

    def __post_init__(self) -> None:
        if set(self.signals) != set(SIGNALS):
            raise ModelError(f"signals are {sorted(self.signals)}: needed are {sorted(SIGNALS)}")
        for name, histogram in self.signals.items():
            if sum(histogram.counts) != self.films:
                raise ModelError(f"{name} counts {sum(histogram.counts)} films, the reference has {self.films}")

    def to_json(self) -> str:
        """The reference as JSON, the same text for the same reference."""
        return json.dumps(asdict(self), indent=1, sort_keys=True, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Reference:
        """The reference in a `drift.json`.

        Raises
        ------
        ModelError
            If the text is not JSON, or a field is missing, unknown or out of range.
        """
        try:
            values: dict[str, Any] = json.loads(text, parse_constant=refuse_constant)
            values["signals"] = {
                name: Histogram(tuple(map(float, one["edges"])), tuple(map(int, one["counts"])), one["chi_square"])
                for name, one in values["signals"].items()
            }
            return cls(**values)
        except (ModelError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ModelError(f"{DRIFT_FILE} is no drift reference of this version: {error}") from error


def read_reference(folder: Path, spec: ModelSpec) -> Reference | None:
    """The reference for a model, from a folder's `drift.json`.

    Returns
    -------
    None where there is no such file, or it is of other weights or another temperature.

    Raises
    ------
    ModelError
        If the file is damaged.
    """
    path = folder / DRIFT_FILE
    if not path.is_file():
        return None
    try:
        reference = Reference.from_json(path.read_text(encoding="utf-8"))
    except (ModelError, OSError, ValueError) as error:
        raise ModelError(f"{path} is damaged ({error}): run training.calibrate again") from error
    is_its = reference.weights_sha256 == spec.weights_sha256 and reference.temperature == spec.temperature
    return reference if is_its else None
