"""A version on trial at an edge: which share of the requests is in it, what its pairs come to, and when it ends.

A canary answers its share of the requests; of a shadow the answers are only compared. Either way each request of the
share is asked of both versions, the one that answers its client and the other one, and the two make a pair.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal

from pneumoscan.errors import VersionError
from pneumoscan.files import write_text
from pneumoscan.versions.limits import Estimate, Figures, Limits, as_json, interval

Kind = Literal["canary", "shadow"]
FILE_NAME: Final = "trial.json"
TALLY_NAME: Final = "trial-tally.json"
_LONGEST: Final = 50.0  # of a logarithm: JSON has no infinity
ROLLED_BACK: Final = "rolled back"  # what the end of such a trial begins with
LEAST_PAIRS: Final = 20  # before which a trial is neither good nor bad


@dataclass(frozen=True)
class TrialLimits(Limits):
    """How different a version on trial may be.

    Parameters
    ----------
    errors
        Share of the pairs that the version on trial alone does not answer, or refuses differently.
    slower
        How many times as long as the other version it may take, as a geometric mean.
    """

    errors: float = 0.02
    slower: float = 2.0


@dataclass(frozen=True)
class Trial:
    """What an edge does with a version.

    Parameters
    ----------
    share
        Of the requests that name no version.
    at
        When it was begun; with the version its name.
    ended
        Why no request is in it any more; empty while it goes on.
    """

    version: str
    kind: Kind
    share: float
    at: str
    limits: TrialLimits = TrialLimits()
    ended: str = ""

    @property
    def was_rolled_back(self) -> bool:
        """Whether it ended by itself because a limit was passed."""
        return self.ended.startswith(ROLLED_BACK)

    def takes(self, request_id: str) -> bool:
        """Whether a request is in it; the same one always is, or never."""
        digest = hashlib.sha256(f"{self.at} {request_id}".encode()).digest()
        return not self.ended and int.from_bytes(digest[:8], "big") < self.share * 2**64


@dataclass(frozen=True)
class Said:
    """What one version said about a request.

    Parameters
    ----------
    code
        Of an error; empty where it answered.
    seconds
        How long it took.
    """

    version: str
    label: str
    probability: float | None
    code: str
    seconds: float

    @classmethod
    def parse(cls, header: str, seconds: float) -> Said | None:
        """What stands in the header ``Cxr-Answer``; None where it has none, as with several films or older archives."""
        fields = dict(part.strip().partition("=")[::2] for part in header.split(";"))
        try:
            probability = float(fields["p"]) if "p" in fields else None
        except ValueError:
            return None
        if "version" not in fields or (probability is None and not fields.get("code")):
            return None
        return cls(fields["version"], fields.get("label", ""), probability, fields.get("code", ""), seconds)


@dataclass(frozen=True)
class Tally:
    """What the pairs of a trial come to so far.

    Parameters
    ----------
    trial
        When the trial was begun.
    stable
        The version that it is compared with.
    unpaired
        Requests of the share of which one answer is missing through no fault of the version on trial.
    stable_seconds, trial_seconds
        Sums over the pairs that both answered.
    ratio_sum, ratio_squares
        Of the logarithms of how many times as long the version on trial took.
    """

    trial: str
    stable: str = ""
    compared: int = 0
    flips: int = 0
    errors: int = 0
    refused_by_both: int = 0
    unpaired: int = 0
    shift_sum: float = 0.0
    shift_squares: float = 0.0
    stable_seconds: float = 0.0
    trial_seconds: float = 0.0
    ratio_sum: float = 0.0
    ratio_squares: float = 0.0

    @property
    def figures(self) -> Figures:
        """As a comparison has them."""
        return Figures(self.compared, self.flips, self.errors, self.shift_sum, self.shift_squares)

    @property
    def slower(self) -> Estimate:
        """How many times as long the version on trial takes."""
        value, low, high = interval(self.compared, self.ratio_sum, self.ratio_squares)
        return Estimate(*(math.exp(min(each, _LONGEST)) for each in (value, low, high)))

    def lost(self) -> Tally:
        """With one more request of which no pair can be made."""
        return replace(self, unpaired=self.unpaired + 1)

    def added(self, stable: Said, trial: Said) -> Tally:
        """With one more pair. Another stable version than before begins from nothing: that one was compared with it."""
        now = self if self.stable in ("", stable.version) else Tally(self.trial)
        now = replace(now, stable=stable.version)
        if stable.probability is None or trial.probability is None:
            if stable.code == trial.code:
                return replace(now, refused_by_both=now.refused_by_both + 1)
            return replace(now, errors=now.errors + 1)
        shift = abs(trial.probability - stable.probability)
        ratio = math.log(max(trial.seconds, 1e-4) / max(stable.seconds, 1e-4))
        return replace(
            now,
            compared=now.compared + 1,
            flips=now.flips + (stable.label != trial.label),
            shift_sum=now.shift_sum + shift,
            shift_squares=now.shift_squares + shift**2,
            stable_seconds=now.stable_seconds + stable.seconds,
            trial_seconds=now.trial_seconds + trial.seconds,
            ratio_sum=now.ratio_sum + ratio,
            ratio_squares=now.ratio_squares + ratio**2,
        )

    def failures(self, limits: TrialLimits) -> list[str]:
        """What is beyond its limit by the whole interval, so that no luck explains it; empty where nothing is."""
        if self.compared + self.errors < LEAST_PAIRS:
            return []
        found: list[str] = []
        figures = self.figures
        for estimate, limit, noun in (
            (figures.flip_share, limits.flips, "label flips"),
            (figures.error_share, limits.errors, "requests not answered alike"),
        ):
            if estimate.low > limit:
                found.append(f"{noun}: {estimate.value:.1%}, at least {estimate.low:.1%}; {limit:.1%} are allowed")
        if self.compared >= LEAST_PAIRS:
            if (shift := figures.mean_shift).low > limits.shift:
                found.append(f"mean shift: {shift.value:.3g}, at least {shift.low:.3g}; {limits.shift:g} is allowed")
            if (slower := self.slower).low > limits.slower:
                found.append(f"takes {slower.value:.2f} times as long, at least {slower.low:.2f}; {limits.slower:g}")
        return found

    def is_passed(self, limits: TrialLimits) -> bool:
        """Whether the pairs show that every limit is kept."""
        figures = self.figures
        return (
            self.compared >= LEAST_PAIRS
            and figures.flip_share.high <= limits.flips
            and figures.error_share.high <= limits.errors
            and figures.mean_shift.high <= limits.shift
            and self.slower.high <= limits.slower
        )


def verdict(trial: Trial, tally: Tally) -> dict[str, Any]:
    """A trial and what its pairs come to, for JSON."""
    failures = tally.failures(trial.limits)
    state = ROLLED_BACK if trial.was_rolled_back else "ended" if trial.ended else "goes on"
    return {
        **asdict(trial),
        "state": state,
        **{name: value for name, value in asdict(tally).items() if name not in ("trial", "ratio_sum", "ratio_squares")},
        **as_json(tally.figures),
        "times_as_long": tally.slower.to_dict() if tally.compared > 1 else None,
        "failures": failures,
        "passed": not failures and tally.is_passed(trial.limits),
    }


def read_trial(folder: Path) -> Trial | None:
    """The trial of an edge's run folder; None where there was none.

    Raises
    ------
    VersionError
        The file is not one of ours.
    """
    path = folder / FILE_NAME
    try:
        read = json.loads(path.read_text(encoding="utf-8"))
        return Trial(**read | {"limits": TrialLimits(**read["limits"])})
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise VersionError(f"{path} cannot be read ({error}): begin the trial again, or move it away") from error


def write_trial(folder: Path, trial: Trial) -> None:
    """Put a trial into an edge's run folder, where the edge takes it up at the next request."""
    write_text(folder / FILE_NAME, json.dumps(asdict(trial), indent=2) + "\n", durable=True)


def read_tally(folder: Path, trial: Trial) -> Tally:
    """What the pairs of a trial came to; nothing yet where the file is of another trial, or none."""
    try:
        tally = Tally(**json.loads((folder / TALLY_NAME).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return Tally(trial.at)
    return tally if tally.trial == trial.at else Tally(trial.at)


def write_tally(folder: Path, tally: Tally) -> None:
    """Keep what the pairs come to over a restart of the edge."""
    write_text(folder / TALLY_NAME, json.dumps(asdict(tally)) + "\n")
