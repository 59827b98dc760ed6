"""Two versions on the same films: which labels flip, by how much the scores shift, what only one of them answers."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from cxr_client import ClientError, Decision, InferenceClient, PredictionFailed, ServerUnreachable
from pneumoscan.files import sha256_of
from pneumoscan.progress import films_done
from pneumoscan.versions.declared import Verified, now
from pneumoscan.versions.limits import Figures, Limits, as_json

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
    def figures(self) -> Figures:
        """What the pairs come to."""
        sizes = np.abs(self.shifts)
        return Figures(
            len(sizes), len(self.flipped), len(self.errors), float(sizes.sum()), float(np.square(sizes).sum())
        )

    @property
    def failures(self) -> list[str]:
        """Why the new version is not good enough; empty if nothing speaks against it."""
        return self.figures.failures(self.limits)

    @property
    def doubts(self) -> list[str]:
        """What the films are too few to show; empty if they failed, or show that it is good enough."""
        return [] if self.failures else self.figures.doubts(self.limits)

    @property
    def is_passed(self) -> bool:
        """Whether the films show that the new version is good enough."""
        return not self.failures and not self.doubts

    def verified(self, old_sha256: str) -> Verified:
        """What is kept of it: no file names."""
        sizes, figures = np.abs(self.shifts or [0.0]), self.figures
        return Verified(
            against=self.old,
            against_sha256=old_sha256,
            films=len(self.shifts),
            flips=len(self.flipped),
            mean_shift=round(figures.mean_shift.value, 6),
            max_shift=round(float(sizes.max()), 6),
            errors=len(self.errors),
            passed=self.is_passed,
            at=now(),
            decided=not self.doubts,
            flips_high=round(figures.flip_share.high, 6),
            shift_high=round(figures.mean_shift.high, 6),
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
            **as_json(self.figures),
            "passed": self.is_passed,
            "failures": self.failures,
            "doubts": self.doubts,
            "pairs": [pair.to_dict() for pair in self.pairs],
        }


def compare(url: str, old: str, new: str, films: Sequence[Path], limits: Limits, jobs: int = 2) -> Comparison:
    """Ask both versions about each film, through REST as everyone does.

    Parameters
    ----------
    films
        A film that lies there twice counts once: copies show nothing more.
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
        different = list({sha256_of(film): film for film in reversed(films)}.values())[::-1]
        answers = pool.map(ask_both, different)
        pairs = tuple(films_done(answers, len(different)))
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
            return Answer(str(reply["label"]), Decision.of(reply).probability)
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
