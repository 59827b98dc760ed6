"""What came of each film, as a table, CSV or JSON."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from cxr_client import AnswerLost, ClientError, Decision, PredictionFailed, ServerUnreachable

CSV_COLUMNS = (
    "file",
    "label",
    "probability_NORMAL",
    "probability_PNEUMONIA",
    "indeterminate",
    "flags",
    "error_code",
    "error",
)


_STANDARD = ("NORMAL", "PNEUMONIA")


@dataclass(frozen=True)
class Outcome:
    """What came of one film: a reply, or an error."""

    film: Path
    reply: dict[str, Any] | None = None
    error: ClientError | OSError | None = None
    picture: Path | None = None

    @property
    def error_code(self) -> str:
        """Stable name of the error; empty if there is none."""
        if self.error is None:
            return ""
        if isinstance(self.error, PredictionFailed):
            return self.error.code
        if isinstance(self.error, AnswerLost):
            return "NO_ANSWER"
        if isinstance(self.error, ServerUnreachable):
            return "UNREACHABLE"
        return "UNREADABLE" if isinstance(self.error, OSError) else "BAD_REPLY"

    @property
    def error_text(self) -> str:
        """What is wrong, in one line; empty if nothing is."""
        if self.error is None:
            return ""
        text = self.error.detail or self.error.title if isinstance(self.error, PredictionFailed) else str(self.error)
        return " ".join(text.split())


def write_table(outcomes: Sequence[Outcome], to: IO[str]) -> None:
    """Write one line for each film, for people."""
    width = max((len(str(outcome.film)) for outcome in outcomes), default=0)
    for outcome in outcomes:
        if outcome.reply is None:
            text = f"{'-':<9}      -  {outcome.error_code}: {outcome.error_text}"
        else:
            probability = _positive(outcome.reply)
            shown = "-" if probability is None else f"{probability:.3f}"
            text = f"{outcome.reply.get('label', '-'):<9}  {shown:>5}"
            remarks = ["indeterminate"] if _indeterminate(outcome.reply) else []
            text += f"  {', '.join(remarks + _flags(outcome.reply))}"
        print(f"{outcome.film!s:<{width}}  {text}".rstrip(), file=to)


def write_csv(outcomes: Sequence[Outcome], to: IO[str]) -> None:
    """Write one row for each film, with the columns of `CSV_COLUMNS`; what is not known is empty.

    Where a model has other classes than NORMAL and PNEUMONIA there is a column for each, and one for the probability of
    the positive group.
    """
    writer = csv.writer(to, lineterminator="\n")
    classes = dict.fromkeys(name for one in outcomes for name in (one.reply or {}).get("probabilities") or ())
    is_standard = {*classes} <= {*_STANDARD}
    named = _STANDARD if is_standard else tuple(classes)
    stated = [f"probability_{name}" for name in named] + ([] if is_standard else ["probability_positive"])
    writer.writerow([CSV_COLUMNS[0], CSV_COLUMNS[1], *stated, *CSV_COLUMNS[4:]])
    for outcome in outcomes:
        reply = outcome.reply or {}
        cells = [
            str(outcome.film),
            reply.get("label"),
            *((reply.get("probabilities") or {}).get(name) for name in named),
            *([] if is_standard else [_positive(reply)]),
            _indeterminate(reply),
            " ".join(_flags(reply)),
            outcome.error_code,
            outcome.error_text,
        ]
        writer.writerow(
            ["" if cell is None else json.dumps(cell) if isinstance(cell, bool) else cell for cell in cells]
        )


def write_json(outcomes: Sequence[Outcome], to: IO[str]) -> None:
    """Write one array: for each film its file and the server's reply, or its file and the error."""
    json.dump([_as_json(outcome) for outcome in outcomes], to, indent=2, allow_nan=False)
    print(file=to)


def _as_json(outcome: Outcome) -> dict[str, Any]:
    if outcome.reply is not None:
        return {"file": str(outcome.film), **outcome.reply}
    error: dict[str, Any] = {"code": outcome.error_code, "detail": outcome.error_text}
    if isinstance(outcome.error, PredictionFailed):
        problem = outcome.error.problem
        error |= {
            "status": problem.status,
            "title": problem.title,
            "request_id": problem.request_id,
            "retryable": problem.retryable,
        }
    return {"file": str(outcome.film), "error": error}


def _positive(reply: dict[str, Any]) -> float | None:
    """The probability that decides; None where a reply has none."""
    try:
        return Decision.of(reply).probability
    except (KeyError, TypeError, ValueError):
        return None


def _indeterminate(reply: dict[str, Any]) -> bool | None:
    return (reply.get("decision") or {}).get("indeterminate")


def _flags(reply: dict[str, Any]) -> list[str]:
    return list((reply.get("image") or {}).get("flags") or ())
