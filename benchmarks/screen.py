"""The fate of films under a screen of views, as they are and as they reach a reader: refused, called a negative, or let
through."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Final

import numpy as np

from benchmarks.host import Host
from benchmarks.result import Column, Figure, Figures, Result, Row, Table
from benchmarks.screen_films import KINDS, Kind
from benchmarks.servers import BenchmarkError
from benchmarks.settings import ScreenSettings
from cxr.films.frontal import Screen, Verdict
from cxr.model.spec import ModelSpec, Preprocessing
from cxr_training.calibrate import of_training_films
from cxr_training.data.progress import progress_bar
from cxr_training.data.records import Record, load_films
from cxr_training.measure.intervals import exact_interval

_SHARE: Final = "{:7.2%} ({:.2%} to {:.2%})"
_COLUMNS: Final = (
    Column("films", "{:6,.0f}", "films"),
    Column("refused", _SHARE, "refused"),
    Column("inverted", _SHARE, "flagged inverted"),
)


def benchmark_screen(settings: ScreenSettings) -> Result:
    """The screen's judgement of every film of the validation and test splits, as it is and under each change."""
    films = load_films(settings.data)
    unseen = [record for record in (*films.records, *films.others) if record.split != "train"]
    unseen = unseen[:: settings.every]
    if len(unseen) < 2:
        raise BenchmarkError(f"{settings.data} has fewer than two films for validation and testing")
    if settings.run is None:
        trained = [record for record in films.records if record.split == "train"]
        screen, _ = of_training_films(trained, Preprocessing())
    else:
        screen = ModelSpec.load(settings.run).screen
    if screen is None:
        raise BenchmarkError("no screen: too few training films, or the run has none")
    rows = rows_of(screen, unseen)
    title = (
        f"films of validation and test by the screen: share of them (exact 95 % interval over patients); "
        f"changes are drawn on whole films that the screen has not seen, wanted in brackets, {settings.data.name}"
    )
    return Result("screen", settings.conditions(), Host.here(), title, [Table("screen", _COLUMNS, rows, width=52)])


def rows_of(screen: Screen, records: Sequence[Record]) -> list[Row]:
    """A row for each kind of film, and for the films as they are one for each source and view."""
    verdicts: dict[str, list[Verdict]] = {kind.name: [] for kind in KINDS}
    around = [*records, records[0]]
    for number, (record, following) in enumerate(progress_bar([*pairwise(around)], "screen", "film")):
        film, other = record.read(), following.read()
        for kind in KINDS:
            verdicts[kind.name].append(screen.judge(kind.draw(film, other, number)))
    rows = [Row(_label(kind), _figures(verdicts[kind.name], records)) for kind in KINDS]
    groups = [" ".join((record.extra.get(key) or "-") for key in ("source", "view")) for record in records]
    for group in sorted(set(groups)):
        chosen = [index for index, name in enumerate(groups) if name == group]
        of_group = [verdicts[KINDS[0].name][index] for index in chosen]
        rows.append(Row(f"{KINDS[0].name}: {group}", _figures(of_group, [records[index] for index in chosen])))
    return rows


def _label(kind: Kind) -> str:
    return f"{kind.name} [{kind.wanted}]"


def _figures(verdicts: Sequence[Verdict], records: Sequence[Record]) -> Figures:
    patients = len({record.patient_id for record in records})
    shares = {
        "refused": float(np.mean([not verdict.is_frontal for verdict in verdicts])),
        "inverted": float(np.mean([verdict.inverted for verdict in verdicts])),
    }
    return {
        "films": Figure(len(verdicts)),
        **{name: Figure(share, "", *exact_interval(share, patients)) for name, share in shares.items()},
    }
