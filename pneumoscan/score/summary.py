"""What came of a whole job: counts, and why films have no answer; read from the parts one after another."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import IO, Final

from cxr import NOTICE
from pneumoscan.score.rows import ANSWERED, FAILED, REFUSED, Scorer

_EXAMPLES: Final = 3


@dataclass(frozen=True, slots=True)
class Example:
    """A film without an answer."""

    file: str
    detail: str


@dataclass(frozen=True, slots=True)
class Reason:
    """One reason for which films have no answer."""

    outcome: str
    code: str
    films: int
    examples: tuple[Example, ...]


@dataclass(frozen=True)
class Summary:
    """What came of a job.

    Parameters
    ----------
    answered
        Films by label.
    reasons
        Of refused and failed films, the most frequent first.
    flags
        Films that were answered with a remark, by remark.
    scored, seconds, films_per_s
        Films that this start scored, the time from the first that went to a worker to the last row, their ratio; None
        where every part stood already.
    """

    films: int
    answered: dict[str, int]
    indeterminate: int
    refused: int
    failed: int
    reasons: tuple[Reason, ...]
    flags: dict[str, int]
    scored: int
    seconds: float | None
    films_per_s: float | None
    engine: str
    version: str
    weights_sha256: str
    notice: str = NOTICE


@dataclass(slots=True)
class _Counts:
    labels: Counter[str] = field(default_factory=Counter)
    outcomes: Counter[str] = field(default_factory=Counter)
    flags: Counter[str] = field(default_factory=Counter)
    reasons: Counter[tuple[str, str]] = field(default_factory=Counter)
    examples: dict[tuple[str, str], list[Example]] = field(default_factory=dict)
    indeterminate: int = 0


def summarise(parts: Sequence[Path], scored: int, seconds: float) -> Summary:
    """Count what whole parts hold.

    Parameters
    ----------
    scored, seconds
        Films scored by this start, and how long that took.
    """
    counts = _Counts()
    for part in parts:
        _count(part, counts)
    scorer = _scorer(parts[0])
    return Summary(
        films=counts.outcomes.total(),
        answered={name: counts.labels[name] for name in sorted(counts.labels)},
        indeterminate=counts.indeterminate,
        refused=counts.outcomes[REFUSED],
        failed=counts.outcomes[FAILED],
        reasons=tuple(
            Reason(outcome, code, films, tuple(counts.examples[outcome, code]))
            for (outcome, code), films in counts.reasons.most_common()
        ),
        flags=dict(counts.flags.most_common()),
        scored=scored,
        seconds=round(seconds, 3) if scored else None,
        films_per_s=round(scored / seconds, 3) if scored and seconds else None,
        engine=scorer.engine,
        version=scorer.version,
        weights_sha256=scorer.weights_sha256,
    )


def _scorer(part: Path) -> Scorer:
    import pyarrow.parquet as pq

    names = [one.name for one in fields(Scorer)]
    return Scorer(**pq.read_table(part, columns=names).slice(0, 1).to_pylist()[0])


def _count(part: Path, counts: _Counts) -> None:
    import pyarrow.parquet as pq

    wanted = ["file", "outcome", "code", "detail", "label", "indeterminate", "flags"]
    for row in pq.read_table(part, columns=wanted, memory_map=False).to_pylist():
        counts.outcomes[row["outcome"]] += 1
        if row["outcome"] == ANSWERED:
            counts.labels[row["label"]] += 1
            counts.indeterminate += row["indeterminate"]
            counts.flags.update(row["flags"])
            continue
        reason = row["outcome"], row["code"]
        counts.reasons[reason] += 1
        examples = counts.examples.setdefault(reason, [])
        if len(examples) < _EXAMPLES:
            examples.append(Example(row["file"], row["detail"]))


def write_table(summary: Summary, to: IO[str]) -> None:
    """Write it for people."""
    labels = [f"{name} {films:,}" for name, films in summary.answered.items()]
    answered = sum(summary.answered.values())
    if answered:
        labels.append(f"indeterminate {summary.indeterminate:,}")
    print(f"films     {summary.films:>9,}  version {summary.version}, {summary.engine}", file=to)
    print(f"answered  {answered:>9,}  {', '.join(labels)}".rstrip(), file=to)
    print(f"refused   {summary.refused:>9,}", file=to)
    print(f"failed    {summary.failed:>9,}", file=to)
    for reason in summary.reasons:
        print(f"  {reason.outcome}  {reason.code}  {reason.films:,}", file=to)
        for example in reason.examples:
            print(f"    {example.file}: {example.detail}", file=to)
    for name, films in summary.flags.items():
        print(f"  flagged  {name}  {films:,}", file=to)
    if summary.films_per_s is not None:
        rate = f"{summary.scored:,} scored now in {summary.seconds:,.1f} s, {summary.films_per_s:,.2f} films/s"
        print(f"rate      {rate}", file=to)
    print(summary.notice, file=to)
