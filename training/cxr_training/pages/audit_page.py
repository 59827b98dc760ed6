"""The page of an audit: its tables and pictures, and what `templates/audit.md.j2` makes of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np
from matplotlib.figure import Figure

from cxr.films.film import Pixels
from cxr.model.classes import Scheme
from cxr_training.measure.intervals import LEVEL
from cxr_training.measure.records import (
    Audit,
    NoFigures,
    Reading,
    ReadingFigures,
    SourceFigures,
    SourceLeftOut,
    SourceNotLeftOut,
)
from cxr_training.measure.shortcut_readings import (
    COARSE,
    READINGS,
    SIDE,
    border_blanked,
    border_of,
    centre_blanked,
    coarse_values,
    squashed,
)
from cxr_training.measure.shortcut_sources import THRESHOLD
from cxr_training.measure.shortcuts import ABOVE, BELOW, FEWEST_OF_A_CLASS
from cxr_training.pages.figures import save
from cxr_training.pages.page import Table, between, figure, number, signed, write_page


def write_audit_page(out: Path, found: Audit, film: Pixels) -> None:
    """Draw the pictures and write `audit.md` and `audit.html`, which needs no other file.

    Parameters
    ----------
    film
        One of the films, shown as each reading sees it.
    """
    plot_seen(out / VIEWS, film)
    plot_aurocs(out / AUROCS, found.readings, found.sources)
    write_page(
        out / "audit.md",
        "audit.md.j2",
        audit=found,
        **dict(zip(("positive", "negative"), Scheme(found.classes, found.positive).words, strict=True)),
        views=VIEWS,
        aurocs=AUROCS,
        most_sources=MOST_SOURCES,
        coarse=COARSE,
        side=SIDE,
        threshold=f"{THRESHOLD:g}",
        fewest_of_a_class=FEWEST_OF_A_CLASS,
        strengths={name: f"{value:g}" for name, value in found.strengths.items()},
        readings=readings_table(found.readings),
        groups=_groups_table(found.readings),
        sources=_sources_table(found.source_from_features or {}),
        left_out=_left_out_table(found.leave_one_source_out or ()),
    )


def readings_table(readings: Mapping[str, Reading]) -> Table:
    """What each reading comes to over all films."""
    rows = []
    for name in READINGS:
        if name in readings:
            one = readings[name].overall
            rows.append((READINGS[name], figure(one.named("auroc")), one.verdict or "", _difference(one)))
    header = ("reading", f"AUROC ({100 * LEVEL:g} % interval)", "verdict", "against the model on whole films")
    return Table(header, tuple(rows))


def _groups_table(readings: Mapping[str, Reading]) -> Table:
    """The AUROC of each reading by source and label source."""
    names = [name for name in READINGS if name in readings]
    rows = [
        (
            *(group, str(one.films), str(one.patients), str(one.positive)),
            *(figure(readings[name].groups[group].named("auroc")) for name in names),
        )
        for group, one in readings["model"].groups.items()
    ]
    return Table(("films", "n", "patients", "positive", *(READINGS[name] for name in names)), tuple(rows))


def _sources_table(found: Mapping[str, SourceFigures | NoFigures]) -> Table:
    """How well the model's features tell the sources apart."""
    rows = []
    for name, one in found.items():
        if isinstance(one, NoFigures):
            rows.append((name, "-", "-", "-", "-", one.reason))
        else:
            known = (str(one.films), str(len(one.sources)), number(one.chance))
            rows.append((name, *known, figure(one.named("balanced_accuracy")), one.verdict or ""))
    return Table(("among", "films", "sources", "chance", "balanced accuracy", "verdict"), tuple(rows))


def _left_out_table(found: Sequence[SourceLeftOut | SourceNotLeftOut]) -> Table:
    """Heads with and without each source."""
    rows = []
    for one in found:
        counts = (one.source, str(one.films), str(one.patients), str(one.positive))
        if isinstance(one, SourceNotLeftOut):
            rows.append((*counts, "-", "-", "-", "-", one.reason))
            continue
        trained = f"{one.training_films_without} of {one.training_films_with}"
        heads = (figure(one.named("without")), figure(one.named("with_")))
        rows.append((*counts, trained, title_of(one), *heads, _difference(one)))
    header = ("source", "films", "patients", "positive", "trained on", "figure", "without it", "with it", "difference")
    return Table(header, tuple(rows))


def title_of(one: SourceLeftOut) -> str:
    """The name of what was measured, as a reader knows it."""
    return "AUROC" if one.figure == "auroc" else one.figure


def _difference(one: ReadingFigures | SourceLeftOut) -> str:
    return "-" if one.difference is None else f"{signed(one.difference)} ({between(one.difference_ci)})"


VIEWS: Final = "audit-views.png"
AUROCS: Final = "audit-auroc.png"
MOST_SOURCES: Final = 6  # drawn beside all films, those with the most films
_UNSEEN: Final = (210, 225, 250)


def plot_seen(path: Path, film: Pixels) -> None:
    """One film as each reading sees it."""
    grid = squashed(film)
    cells = np.repeat(grid[..., None], 3, axis=2)
    cells[~border_of(SIDE, SIDE)] = _UNSEEN
    aspect = film.shape[0] / film.shape[1]
    panels = (
        ("whole film", film, 1.0),
        (READINGS["pixels"], coarse_values(grid[None]).reshape(COARSE, COARSE), aspect),
        (f"{READINGS['border']}, {SIDE} x {SIDE}", cells, aspect),
        ("centre blanked", centre_blanked(film), 1.0),
        ("border blanked", border_blanked(film), 1.0),
    )
    figure = Figure(figsize=(2.6 * len(panels), 2.6 * aspect + 0.35), layout="constrained")
    for (title, picture, stretched), place in zip(panels, figure.subplots(1, len(panels)), strict=True):
        place.imshow(picture, cmap="gray", vmin=0, vmax=255, aspect=stretched, interpolation="nearest")
        place.set_title(title, fontsize=10)
        place.set_xticks([])
        place.set_yticks([])
    save(figure, path)


def plot_aurocs(path: Path, readings: Mapping[str, Reading], sources: Sequence[str]) -> None:
    """AUROC of each reading with its interval, over all films and within the sources that have both classes.

    A hollow point is one whose interval holds 0.5, or that has none to judge by.
    """
    names = [name for name in READINGS if name in readings]
    films = {
        source: one.films
        for source in sources
        if (one := readings["model"].groups.get(f"source={source}")) and one.auroc is not None
    }
    shown = sorted(films, key=lambda source: -films[source])
    groups = ["all films", *sorted(shown[:MOST_SOURCES])]
    figure = Figure(figsize=(8.4, 1.1 + len(names) * (0.24 * len(groups) + 0.22)), layout="constrained")
    axes = figure.subplots()
    for g, group in enumerate(groups):
        color = "black" if g == 0 else f"C{g - 1}"
        axes.plot([], [], "o-", color=color, label=group)
        for row, name in enumerate(names):
            one = readings[name].overall if g == 0 else readings[name].groups[f"source={group}"]
            if one.auroc is None:
                continue
            y = row + (g - (len(groups) - 1) / 2) * 0.8 / len(groups)
            if one.auroc_ci:
                axes.plot(one.auroc_ci, [y, y], color=color, linewidth=1.6)
            hollow = one.verdict not in (ABOVE, BELOW)
            axes.plot(one.auroc, y, "o", color=color, markerfacecolor="white" if hollow else color)
    axes.axvline(0.5, color="grey", linestyle=":", linewidth=1.2, label="chance")
    for row in range(1, len(names)):
        axes.axhline(row - 0.5, color="0.9", linewidth=0.8, zorder=0)
    axes.set_yticks(range(len(names)), [READINGS[name] for name in names])
    axes.set_ylim(len(names) - 0.5, -0.65)
    axes.set_xlabel("AUROC, 95 % interval; hollow: not told from chance")
    figure.legend(loc="outside upper center", ncols=4, frameon=False, fontsize=9)
    save(figure, path)
