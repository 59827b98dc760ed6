"""Two versions on the same films: which labels flip, by how much the scores shift, what only one of them answers."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from cxr_client import ClientError, InferenceClient, PredictionFailed, ServerUnreachable
from pneumoscan.progress import films_done
from pneumoscan.versions.declared import Verified, now

QUANTILES: Final = (0.5, 0.9, 0.99)
_PATIENCE_S: Final = 60.0  # with a server that is busy with its users
_PAUSE_S: Final = 0.2


@dataclass(frozen=True)
class Answer:
    """What one version says about a film; without a probability, the code of why not."""

    label: str = ""
    probability: float | None = None
    code: str = ""


@dataclass(frozen=True)
class Pair:
    """What both versions say about one film."""

    film: Path
    old: Answer
    new: Answer

    @property
    def shift(self) -> float | None:
        """By how much the probability of PNEUMONIA grew from the old to the new version; None unless both answered."""
        if self.old.probability is None or self.new.probability is None:
            return None
        return self.new.probability - self.old.probability

    @property
    def flips(self) -> bool:
        """Whether both answered, with different labels."""
        return self.shift is not None and self.old.label != self.new.label

    @property
    def is_error(self) -> bool:
        """Whether only one of them answered, or they refused the film for different reasons."""
        return self.shift is None and self.old.code != self.new.code

    def to_dict(self) -> dict[str, Any]:
        """The pair for JSON."""
        return {
            "file": str(self.film),
            "old": _as_dict(self.old),
            "new": _as_dict(self.new),
            "shift": self.shift,
            "flips": self.flips,
        }


@dataclass(frozen=True)
class Limits:
    """How different a new version may be.

    Parameters
    ----------
    flips
        Share of the films whose label may flip.
    shift
        Mean of the shifts without their signs.
    """

    flips: float = 0.05
    shift: float = 0.1


@dataclass(frozen=True)
class Comparison:
    """All pairs of two versions, and what they come to."""

    old: str
    new: str
    pairs: tuple[Pair, ...]
    limits: Limits

    @property
    def shifts(self) -> list[float]:
        """The shifts of the films that both answered."""
        return [pair.shift for pair in self.pairs if pair.shift is not None]

    @property
    def flipped(self) -> list[Pair]:
        """The films whose label flipped."""
        return [pair for pair in self.pairs if pair.flips]

    @property
    def errors(self) -> list[Pair]:
        """The films that only one version answered, or that they refused differently."""
        return [pair for pair in self.pairs if pair.is_error]

    @property
    def failures(self) -> list[str]:
        """Why the new version is not good enough; empty if it is."""
        found: list[str] = []
        if not (compared := len(self.shifts)):
            return ["no film was answered by both versions"]
        if (share := len(self.flipped) / compared) > self.limits.flips:
            found.append(f"{share:.1%} of the labels flipped, {self.limits.flips:.1%} are allowed")
        if (mean := self.mean_shift) > self.limits.shift:
            found.append(f"the mean shift is {mean:.3g}, {self.limits.shift:g} is allowed")
        if self.errors:
            found.append(f"{len(self.errors)} films were not answered alike")
        return found

    @property
    def mean_shift(self) -> float:
        """Mean of the shifts without their signs; 0 where there is none."""
        return float(np.mean(np.abs(self.shifts))) if self.shifts else 0.0

    def verified(self, old_sha256: str) -> Verified:
        """What is kept of it: no file names."""
        sizes = np.abs(self.shifts or [0.0])
        return Verified(
            against=self.old,
            against_sha256=old_sha256,
            films=len(self.shifts),
            flips=len(self.flipped),
            mean_shift=round(self.mean_shift, 6),
            max_shift=round(float(sizes.max()), 6),
            errors=len(self.errors),
            passed=not self.failures,
            at=now(),
        )

    def to_dict(self) -> dict[str, Any]:
        """The comparison for JSON."""
        shifts = np.array(self.shifts)
        size = np.abs(shifts)
        figures: dict[str, Any] = {"films": len(self.pairs), "compared": len(shifts), "flips": len(self.flipped)}
        figures |= {"errors": len(self.errors), "refused_by_both": len(self.pairs) - len(shifts) - len(self.errors)}
        if len(shifts):
            figures["mean_signed_shift"] = float(shifts.mean())
            figures |= {"mean_shift": float(size.mean()), "max_shift": float(size.max())}
            figures |= {f"p{100 * q:g}_shift": float(np.quantile(size, q)) for q in QUANTILES}
        return {
            "old": self.old,
            "new": self.new,
            **figures,
            "passed": not self.failures,
            "failures": self.failures,
            "pairs": [pair.to_dict() for pair in self.pairs],
        }


def compare(url: str, old: str, new: str, films: Sequence[Path], limits: Limits, jobs: int = 2) -> Comparison:
    """Ask both versions about each film, through REST as everyone does.

    Parameters
    ----------
    jobs
        Films asked about at once; few, because the server has users.

    Raises
    ------
    ServerUnreachable
        Nobody answers.
    OSError
        A film cannot be read.
    """

    def ask_both(film: Path) -> Pair:
        data = film.read_bytes()
        return Pair(film, ask(client, data, old), ask(client, data, new))

    with InferenceClient(url, connections=jobs) as client, ThreadPoolExecutor(jobs) as pool:
        answers = pool.map(ask_both, films)
        pairs = tuple(films_done(answers, len(films)))
    return Comparison(old, new, pairs, limits)


def ask(client: InferenceClient, film: bytes, version: str, patience_s: float = _PATIENCE_S) -> Answer:
    """What a version says about a film; a server that is too busy is asked again for a while.

    Raises
    ------
    ServerUnreachable
        Nobody answers.
    """
    deadline = time.monotonic() + patience_s
    while True:
        try:
            reply = client.predict(film, cam="none", version=version)
            return Answer(str(reply["label"]), float(reply["probabilities"]["PNEUMONIA"]))
        except PredictionFailed as error:
            if not error.retryable or time.monotonic() > deadline:
                return Answer(code=error.code)
        except ServerUnreachable:
            raise
        except (ClientError, KeyError, TypeError, ValueError):
            return Answer(code="BAD_REPLY")
        time.sleep(_PAUSE_S)


def _as_dict(answer: Answer) -> dict[str, Any]:
    if answer.probability is None:
        return {"error": answer.code}
    return {"label": answer.label, "probability_PNEUMONIA": answer.probability}
