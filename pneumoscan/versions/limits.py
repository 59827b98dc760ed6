"""How different a new version may be, and what a number of films shows about it: intervals, never a point alone.

Bounds are one-sided at 95 %: of a share by Clopper and Pearson (Biometrika 26, 1934), of a mean by Student's t.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final

CONFIDENCE: Final = 0.95


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
class Estimate:
    """A figure of the films that were compared, and between which bounds it lies for all films."""

    value: float
    low: float
    high: float

    def to_dict(self) -> dict[str, float]:
        """The figure for JSON."""
        return {"value": self.value, "low": self.low, "high": self.high}


@dataclass(frozen=True)
class Figures:
    """What a number of pairs come to; sums, so that pairs can be added to it one by one.

    Parameters
    ----------
    compared
        Films that both versions answered.
    errors
        Films that were not answered alike.
    shift_sum, shift_squares
        Of the sizes of the shifts of the films that both answered.
    """

    compared: int
    flips: int
    errors: int
    shift_sum: float
    shift_squares: float

    @property
    def flip_share(self) -> Estimate:
        """Share of the films whose label flips."""
        return share(self.flips, self.compared)

    @property
    def error_share(self) -> Estimate:
        """Share of all films that are not answered alike."""
        return share(self.errors, self.compared + self.errors)

    @property
    def mean_shift(self) -> Estimate:
        """Mean size of a shift."""
        return mean(self.compared, self.shift_sum, self.shift_squares)

    def failures(self, limits: Limits) -> list[str]:
        """What is beyond its limit on the films themselves; empty where nothing is."""
        if not self.compared:
            return ["no film was answered by both versions"]
        found: list[str] = []
        if (flips := self.flip_share.value) > limits.flips:
            found.append(f"{flips:.1%} of the labels flipped, {limits.flips:.1%} are allowed")
        if (shift := self.mean_shift.value) > limits.shift:
            found.append(f"the mean shift is {shift:.3g}, {limits.shift:g} is allowed")
        if self.errors:
            found.append(f"{self.errors} films were not answered alike")
        return found

    def doubts(self, limits: Limits) -> list[str]:
        """What these films are too few to show; empty where they show that every limit is kept."""
        found: list[str] = []
        if (flips := self.flip_share).high > limits.flips:
            found.append(
                f"after {self.flips} of {self.compared} labels up to {flips.high:.1%} of all may flip, "
                f"{limits.flips:.1%} are allowed{_needed(limits.flips)}"
            )
        if (shift := self.mean_shift).high > limits.shift:
            found.append(
                f"after {self.compared} films the mean shift may be up to {shift.high:.3g}, {limits.shift:g} is allowed"
            )
        return found


def share(count: int, of: int) -> Estimate:
    """A share of films; without a film it may be anything.

    References
    ----------
    Clopper and Pearson, Biometrika 26 (1934), 404-413.
    """
    if not of:
        return Estimate(0.0, 0.0, 1.0)
    from scipy.stats import beta  # a second to import, and only a comparison needs it

    low = float(beta.ppf(1 - CONFIDENCE, count, of - count + 1)) if count else 0.0
    high = float(beta.ppf(CONFIDENCE, count + 1, of - count)) if count < of else 1.0
    return Estimate(count / of, low, high)


def mean(count: int, total: float, squares: float) -> Estimate:
    """A mean of sizes between 0 and 1 from their sums; of fewer than two it may be anything."""
    value, low, high = interval(count, total, squares)
    return Estimate(value, max(0.0, low), min(1.0, high))


def interval(count: int, total: float, squares: float) -> tuple[float, float, float]:
    """A mean and its bounds by Student's t, from the sums of values and of their squares."""
    if count < 2:
        return total, -math.inf, math.inf
    from scipy.stats import t

    value = total / count
    variance = max(0.0, squares - count * value**2) / (count - 1)
    spread = float(t.ppf(CONFIDENCE, count - 1)) * math.sqrt(variance / count)
    return value, value - spread, value + spread


def films_needed(limit: float) -> int | None:
    """How many films without a flip show that fewer than a share of them flip; None where none can."""
    return math.ceil(math.log(1 - CONFIDENCE) / math.log1p(-limit)) if 0 < limit < 1 else None


def _needed(limit: float) -> str:
    needed = films_needed(limit)
    return (
        ": no number of films shows that none flips" if needed is None else f": {needed} films without a flip show it"
    )


def as_json(figures: Figures) -> dict[str, Any]:
    """The intervals of what was compared, for JSON."""
    return {
        "flip_share": figures.flip_share.to_dict(),
        "error_share": figures.error_share.to_dict(),
        "mean_shift_interval": figures.mean_shift.to_dict(),
        "confidence": CONFIDENCE,
    }
