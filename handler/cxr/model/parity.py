"""The engines, and the parity with the reference that one has to show before it may answer.

An engine computes the feature map of the network in some way of its own; the head and the heat map are the same code in
float32 for all. The reference is the definition: the network as it was trained, by torch, in float32.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from cxr.errors import ModelError

REFERENCE: Final = "torch-float32"
DEVICES: Final = ("cpu", "cuda")
INT8_FILES: Final = ("int8.xml", "int8.bin")  # beside `model.json`, where an engine in int8 was made

MOST_FLIPS: Final = 0.005  # share of the films whose label changes
MOST_AGAIN: Final = 0.1  # share of the films that the engine leaves open
MOST_AUROC: Final = 0.002  # difference of the AUROC, either way
LEAST_CORRELATION: Final = 0.99  # of the heat map with the reference's, on the film where it is lowest


@dataclass(frozen=True, slots=True)
class EngineKind:
    """One way to compute the feature map.

    Parameters
    ----------
    devices
        Where it runs, of `DEVICES`.
    precision
        ``float32``, ``bfloat16``, ``float16`` or ``int8``: of the numbers that are multiplied.
    tolerance
        Of a golden film's probability, on another machine than the one that packed the archive.
    cam_tolerance
        Likewise of its map, as a share of the scale of the heat map.
    second
        The engine that scores again the films this one leaves open (`cxr.model.parity.left_open`); None: it leaves
        none.
    """

    devices: tuple[str, ...]
    precision: str
    tolerance: float
    cam_tolerance: float
    second: str | None = None


# Float32 on another processor, or on a GPU, adds up in another order; fewer bits are rounded at other places too.
ENGINES: Final[Mapping[str, EngineKind]] = {
    REFERENCE: EngineKind(DEVICES, "float32", 1e-3, 1e-2),
    "openvino-float32": EngineKind(("cpu",), "float32", 1e-3, 1e-2),
    "openvino-bfloat16": EngineKind(("cpu",), "bfloat16", 2e-2, 1e-1),
    "openvino-int8": EngineKind(("cpu",), "int8", 5e-2, 2e-1, second="openvino-float32"),
    "cuda-float32": EngineKind(("cuda",), "float32", 1e-3, 1e-2),
    "cuda-float16": EngineKind(("cuda",), "float16", 5e-3, 2e-2),
    "cuda-bfloat16": EngineKind(("cuda",), "bfloat16", 2e-2, 1e-1),
}


@dataclass(frozen=True, slots=True)
class Parity:
    """How far an engine's answers are from the reference's, on the validation films, as they would be served.

    Parameters
    ----------
    films
        How many were scored by both.
    flips
        Films that get another label.
    auroc_difference
        The engine's AUROC minus the reference's.
    probability_difference
        The largest difference of a probability of the positive group, without its sign.
    cam_correlation, cam_correlation_median
        Pearson correlation of the contrast maps' cells: of the film where it is lowest, and the median film.
    processor
        Where it was measured.
    files_sha256
        Of the files the engine has of its own: of others the figures say nothing. Empty where it has none.
    margin
        Films whose log-odds come as near as this to a decision get the second engine's answer; 0 where the engine has
        none. It is the largest difference of the log-odds on any of the films.
    asked
        How many of the films got it, those included for which the engine gives no number.
    """

    films: int
    flips: int
    auroc_difference: float
    probability_difference: float
    cam_correlation: float
    cam_correlation_median: float
    processor: str
    files_sha256: str = ""
    margin: float = 0.0
    asked: int = 0

    @property
    def misses(self) -> tuple[str, ...]:
        """The demands that these figures do not meet; empty where the engine may serve."""
        # Each written so that a NaN, which is in no order with anything, misses.
        missed = []
        if not (self.films > 0 and self.flips <= MOST_FLIPS * self.films):
            missed.append(f"{self.flips} of {self.films} labels change, at most {MOST_FLIPS:.1%} may")
        if not self.asked <= MOST_AGAIN * self.films:
            missed.append(
                f"{self.asked} of {self.films} films are left open and scored again in float32, at most "
                f"{MOST_AGAIN:.0%} may be"
            )
        if not abs(self.auroc_difference) <= MOST_AUROC:
            missed.append(f"the AUROC differs by {self.auroc_difference:+.4f}, at most {MOST_AUROC} may")
        if not self.cam_correlation >= LEAST_CORRELATION:
            missed.append(
                f"a heat map correlates with the reference's by {self.cam_correlation:.3f}, at least "
                f"{LEAST_CORRELATION} is needed"
            )
        return tuple(missed)


def kind_of(name: str) -> EngineKind:
    """The engine of a name.

    Raises
    ------
    ModelError
        If there is none.
    """
    if name not in ENGINES:
        raise ModelError(f"engine is {name!r}: known are {', '.join(ENGINES)}")
    return ENGINES[name]


def check_choice(engines: Mapping[str, str], parity: Mapping[str, Parity]) -> None:
    """Let only engines serve that are the reference or have shown their parity.

    Parameters
    ----------
    engines
        Name of the engine for each of `DEVICES`.
    parity
        What was measured, by name of the engine.

    Raises
    ------
    ModelError
        Naming the engine, and what it lacks.
    """
    if set(engines) != set(DEVICES):
        raise ModelError(f"engines are given for {sorted(engines)}: one for each of {', '.join(DEVICES)} is needed")
    for device, name in engines.items():
        if device not in kind_of(name).devices:
            raise ModelError(f"engine {name!r} does not run on {device}: choose another")
        if name == REFERENCE:
            continue
        if name not in parity:
            raise ModelError(
                f"engine {name!r} was never compared with {REFERENCE}: run pneumoscan calibrate --engine {name}, which "
                "scores the validation films with both"
            )
        if missed := parity[name].misses:
            raise ModelError(f"engine {name!r} does not pass the gate ({'; '.join(missed)}): choose another")


def files_digest(name: str, folder: Path) -> str:
    """SHA-256 of the files an engine has of its own beside `model.json`; empty where it has none.

    Raises
    ------
    ModelError
        If one of them is missing.
    """
    if kind_of(name).precision != "int8":
        return ""
    missing = [file for file in INT8_FILES if not (folder / file).is_file()]
    if missing:
        raise ModelError(f"{folder} has no {' and '.join(missing)}: run pneumoscan quantise, which makes them")
    return hashlib.sha256(b"".join((folder / file).read_bytes() for file in INT8_FILES)).hexdigest()


def check_files(name: str, parity: Mapping[str, Parity], folder: Path) -> None:
    """Let an engine serve with no other files than those it showed its parity with.

    Raises
    ------
    ModelError
        If they are missing, or others.
    """
    if name in parity and parity[name].files_sha256 != files_digest(name, folder):
        raise ModelError(
            f"{folder}: {' and '.join(INT8_FILES)} are not those that were compared with {REFERENCE}: run "
            f"pneumoscan calibrate --engine {name}, then pneumoscan export again"
        )


Vector = npt.NDArray[np.float64]


def left_open(
    odds: Vector, decisions: Sequence[float], margin: float, leads: Vector | None = None
) -> npt.NDArray[np.bool_]:
    """Whether log-odds are within a margin of a decision's, the margin included, or no number at all.

    Parameters
    ----------
    odds
        (N,) log-odds of the positive group.
    decisions
        Probabilities of the positive group where the answer to a film changes.
    margin
        In log-odds; 0 where nothing counts as near.
    leads
        (N,) how far the label's class is ahead of the next one of its side (`cxr.model.classes.Scheme.lead`).

    Returns
    -------
    (N,)
    """
    worthless = ~np.isfinite(odds)
    if margin <= 0:
        return worthless
    with np.errstate(divide="ignore", invalid="ignore"):
        borders = np.log(decisions) - np.log1p(-np.asarray(decisions))
        near = (np.abs(odds[:, None] - borders) <= margin).any(axis=1)
        return np.asarray(near | worthless if leads is None else near | worthless | (leads <= margin))
