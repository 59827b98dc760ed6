"""The classes of a model, and the group of them whose probability decides.

A model tells K classes apart. Some of them are the positive group: a film is called positive where the sum of their
probabilities reaches the threshold, and its label is then the likeliest class of the group, else the likeliest class
outside it. With NORMAL and PNEUMONIA, of which PNEUMONIA is positive, that is the probability of PNEUMONIA.

The log-odds of a group are no linear map of the logits where it has several classes, and yet they are one of the very
film: the logarithm of a sum of exponentials is the mean of the exponents, weighted by their shares of the sum, plus the
entropy of the shares. So the contrast of the positive group against the rest, in logits, is the logits' sum with the
weights of `Scheme.contrast` plus a constant, both of this film, and nothing is approximated.

References
----------
Wainwright, Jordan (2008): Graphical Models, Exponential Families, and Variational Inference. Foundations and Trends in
Machine Learning 1, theorem 3.4: log-partition function and entropy.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from cxr.errors import ModelError

CLASSES: Final = ("NORMAL", "PNEUMONIA")
POSITIVE: Final = ("PNEUMONIA",)
NEVER_POSITIVE: Final = ("NORMAL", "OTHER")  # by themselves: they say that there is no pneumonia
NAME: Final = re.compile(r"[A-Z][A-Z0-9_]{1,15}")  # what JSON, CSV, a DICOM code and a metric's label can all hold
MOST: Final = 16
_LONGEST_WORD: Final = 20

Vector = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Scheme:
    """The classes of a model in the order of its logits, the positive group last.

    Parameters
    ----------
    classes
        Two or more names, those outside the positive group first.
    positive
        The names of the positive group, in the same order.

    Raises
    ------
    ModelError
        If a name is none, is there twice, or the positive group is not the end of the classes.
    """

    classes: tuple[str, ...] = CLASSES
    positive: tuple[str, ...] = POSITIVE

    def __post_init__(self) -> None:
        if not 2 <= len(self.classes) <= MOST or len({*self.classes}) < len(self.classes):
            raise ModelError(f"classes are {list(self.classes)}: 2 to {MOST} different ones are needed")
        for name in self.classes:
            if NAME.fullmatch(name) is None:
                raise ModelError(
                    f"a class is called {name!r}: a class has 2 to 16 capital letters, digits and underscores"
                )
        if not 0 < len(self.positive) < len(self.classes) or self.classes[-len(self.positive) :] != self.positive:
            raise ModelError(
                f"classes are {list(self.classes)} and the positive ones {list(self.positive)}: the positive group has "
                "to be the last of them, in this order, and not all"
            )

    @classmethod
    def of(cls, names: Iterable[str], positive: Sequence[str] = ()) -> Scheme:
        """The scheme of some class names: NORMAL first, then what is not positive, then the positive group, by name.

        Parameters
        ----------
        positive
            The positive group; by default every class but NORMAL and OTHER.

        Raises
        ------
        ModelError
            If that is no scheme, or no class is left outside the group.
        """
        given = {*names}
        if unknown := sorted({*positive} - given):
            raise ModelError(f"positive are {', '.join(unknown)}, which no film is: the classes are {sorted(given)}")
        group = {*positive} or given - {*NEVER_POSITIVE}
        if group == given:
            raise ModelError(f"every class of {sorted(given)} would be positive: name those that are")
        ordered = sorted(given, key=lambda name: (name in group, name != "NORMAL", name))
        return cls(tuple(ordered), tuple(name for name in ordered if name in group))

    @property
    def is_standard(self) -> bool:
        """True for NORMAL and PNEUMONIA."""
        return self.classes == CLASSES

    @property
    def negative(self) -> tuple[str, ...]:
        """The classes outside the positive group."""
        return self.classes[: -len(self.positive)]

    @property
    def targets(self) -> tuple[str, ...]:
        """What a map can explain: each class, and the contrast."""
        return (*self.classes, "contrast")

    @property
    def words(self) -> tuple[str, str]:
        """The positive group and the rest as texts: ``BACTERIAL or VIRAL``, ``NORMAL``."""
        return " or ".join(self.positive), " or ".join(self.negative)

    def ends(self, target: str) -> tuple[str, str]:
        """The words at the positive and at the negative end of the scale of a target's map."""
        high, low = ("/".join(names) for names in (self.positive, self.negative))
        if len(self.classes) > 2 and target in self.positive:
            high, low = target, "OTHERS"
        elif len(self.classes) > 2 and target in self.negative:
            high, low = "OTHERS", target
        return high if len(high) <= _LONGEST_WORD else "POSITIVE", low if len(low) <= _LONGEST_WORD else "NEGATIVE"

    def sign(self, target: str) -> float:
        """How evidence for a target counts: below 0 for a class outside the positive group."""
        return -1.0 if target in self.negative else 1.0

    def probability(self, probabilities: Vector) -> Vector:
        """The probability of the positive group: (..., K) → (...)."""
        group = probabilities[..., self._rest :]
        return np.asarray(group[..., 0] if len(self.positive) == 1 else np.minimum(group.sum(axis=-1), 1.0))

    def is_positive(self, targets: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Which class indices are of the positive group: 1 for those, of the same shape."""
        return (targets >= self._rest).astype(np.int64)

    def log_odds(self, logits: Vector, temperature: float) -> Vector:
        """Log-odds of the positive group by the calibrated model: (..., K) → (...)."""
        groups = logits[..., self._rest :], logits[..., : self._rest]
        positive, rest = (_together(group, temperature) for group in groups)
        return np.asarray((positive - rest) / temperature)

    def label(self, probabilities: Vector, threshold: float) -> str:
        """The label of a film: the likeliest class of the side that the threshold puts it on."""
        is_positive = bool(self.probability(probabilities) >= threshold)
        first, side = (self._rest, self.positive) if is_positive else (0, self.negative)
        return side[int(np.argmax(probabilities[first : first + len(side)]))]

    def lead(self, logits: Vector, temperature: float, threshold_odds: float) -> Vector:
        """How far, in log-odds, the label's class is ahead of the next of its side: (N, K) → (N,).

        Infinite where the side has one class.
        """
        is_positive = self.log_odds(logits, temperature) >= threshold_odds
        leads = []
        for group in (logits[:, self._rest :], logits[:, : self._rest]):
            best = np.sort(group, axis=1)[:, -2:]
            leads.append((best[:, 1] - best[:, 0]) / temperature if best.shape[1] == 2 else np.full(len(best), np.inf))
        return np.where(is_positive, *leads)

    def contrast(self, logits: Vector, temperature: float) -> tuple[Vector, float]:
        """The weights of the logits, (K,), and the constant that give the contrast of one film.

        The sum of weights times logits plus the constant is the temperature times the log-odds of the positive group.
        Within the group the weights are the classes' shares of it, within the rest the same with a minus; a class that
        is alone has 1 or -1, and where both are alone the constant is 0.
        """
        weights = np.zeros(len(self.classes))
        constant = 0.0
        for sign, place in ((1.0, slice(self._rest, None)), (-1.0, slice(0, self._rest))):
            scaled = logits[place] / temperature
            powers = np.exp(scaled - scaled.max())
            shares = powers / powers.sum()
            weights[place] = sign * shares
            logarithms = np.log(shares, out=np.zeros_like(shares), where=shares > 0.0)
            constant -= sign * temperature * float(shares @ logarithms)
        return weights, constant

    def needed(self, logits: Vector, temperature: float, neutral: float) -> Vector:
        """The logit each class would need to be the label of one film, the other logits as they are: (K,).

        Parameters
        ----------
        neutral
            Temperature times the log-odds of the positive group from which on a film is called positive.
        """
        needs = np.empty(len(self.classes))
        for index in range(len(self.classes)):
            is_positive = index >= self._rest
            group = slice(self._rest, None) if is_positive else slice(0, self._rest)
            others = np.delete(logits[group], index - (self._rest if is_positive else 0))
            across = logits[: self._rest] if is_positive else logits[self._rest :]
            wanted = float(_together(across, temperature)) + (neutral if is_positive else -neutral)
            needs[index] = max(_short_of(wanted, others, temperature), *others) if len(others) else wanted
        return needs

    @property
    def _rest(self) -> int:
        """How many classes are outside the positive group: the place of its first."""
        return len(self.classes) - len(self.positive)


STANDARD: Final = Scheme()


def _together(logits: Vector, temperature: float) -> Vector:
    """The logit of a group as if it were one class: (..., n) → (...)."""
    if logits.shape[-1] == 1:
        return np.asarray(logits[..., 0])
    highest = logits.max(axis=-1, keepdims=True)
    powers = np.exp((logits - highest) / temperature).sum(axis=-1)
    return np.asarray(highest[..., 0] + temperature * np.log(powers))


def _short_of(wanted: float, others: Vector, temperature: float) -> float:
    """The logit that brings a group up to a wanted one; minus infinity where its other classes do that alone."""
    missing = -np.expm1((float(_together(others, temperature)) - wanted) / temperature)
    return wanted + temperature * float(np.log(missing)) if missing > 0.0 else -np.inf
