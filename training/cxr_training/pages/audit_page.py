"""The figures of an audit as a page to read: plain words first, then tables, then how each was made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from matplotlib.figure import Figure

from cxr import NOTICE
from cxr.films.film import Pixels
from cxr_training.measure.intervals import LEVEL
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
from cxr_training.pages.page import Block, Bullets, Code, Heading, Picture, Pictures, Strong, Table, Text, Words, text
from cxr_training.pages.report import SYNTHETIC, between, cell, number

_REFERENCES: Final = (
    "Geirhos et al. (2020): Shortcut learning in deep neural networks. Nature Machine Intelligence 2:665-673.",
    "Zech et al. (2018): Variable generalization performance of a deep learning model to detect pneumonia in chest "
    "radiographs. PLoS Medicine 15(11):e1002683.",
    "DeGrave, Janizek, Lee (2021): AI for radiographic COVID-19 detection selects shortcuts over signal. Nature "
    "Machine Intelligence 3:610-619.",
    "Maguolo, Nanni (2021): A critic evaluation of methods for COVID-19 automatic detection from X-ray images. "
    "Information Fusion 76:1-7.",
)


OTHER_DATA: Final[tuple[Words, ...]] = (
    Strong("The model was trained on other data than these."),
    " Films measured here may have been among its training films.",
)


def audit_page(found: Mapping[str, Any]) -> list[Block]:
    """The page of an audit, as `cxr_training.audit.audit` makes it."""
    return [
        Heading(f"Does it look at the lungs at all? {found['arch']}, {found['split']} films", 1),
        text(NOTICE),
        *([Text(SYNTHETIC)] if found["synthetic"] else []),
        _about(found),
        Heading("In plain words"),
        Bullets(tuple((sentence,) for sentence in found["plain_words"])),
        Heading("What each reading sees, and how well it does"),
        text("This page shows a film: keep it as carefully as that."),
        Pictures(
            (
                Picture(VIEWS, "One film as each reading sees it", ("One film as each reading sees it.",)),
                Picture(AUROCS, "AUROC of each reading with its interval", _caption(found)),
            )
        ),
        *_readings(found),
        *_features(found),
        *_left_out(found),
        *_method(found),
    ]


def _about(found: Mapping[str, Any]) -> Bullets:
    overall = found["readings"]["model"]["overall"]
    items: list[tuple[Words, ...]] = [
        (f"{overall['films']} films of {overall['patients']} patients; {overall['positive']} films show PNEUMONIA.",),
        ("Weights sha256 ", Code(found["weights_sha256"]), ", data sha256 ", Code(found["data_sha256"]), "."),
    ]
    if found["trained_on_sha256"] != found["data_sha256"]:
        items.append(OTHER_DATA)
    return Bullets(tuple(items))


def _caption(found: Mapping[str, Any]) -> tuple[Words, ...]:
    more = (
        f" Of more than {MOST_SOURCES} sources, those with the most films."
        if len(found["sources"]) > MOST_SOURCES
        else ""
    )
    return (f"Over all films, and within each source that has films of both classes.{more}",)


def readings_table(found: Mapping[str, Any]) -> Table:
    """What each reading comes to over all films."""
    readings = found["readings"]
    rows = [
        (
            READINGS[name],
            cell(readings[name]["overall"], "auroc"),
            readings[name]["overall"]["verdict"],
            _signed(readings[name]["overall"], "difference"),
        )
        for name in READINGS
        if name in readings
    ]
    header = ("reading", f"AUROC ({100 * LEVEL:g} % interval)", "verdict", "against the model on whole films")
    return Table(header, tuple(rows))


def _readings(found: Mapping[str, Any]) -> list[Block]:
    readings = found["readings"]
    names = [name for name in READINGS if name in readings]
    page: list[Block] = [Heading("AUROC over all films", 3), readings_table(found)]
    groups = readings["model"]["groups"]
    if groups:
        header = ("films", "n", "patients", "positive", *(READINGS[name] for name in names))
        by_group = []
        for group, one in groups.items():
            counts = (str(one["films"]), str(one["patients"]), str(one["positive"]))
            by_group.append((group, *counts, *(cell(readings[name]["groups"][group], "auroc") for name in names)))
        page += [Heading("AUROC by source and label source", 3), Table(header, tuple(by_group))]
    return page


def _features(found: Mapping[str, Any]) -> list[Block]:
    page: list[Block] = [Heading("Which source is it from? By the model's features")]
    told = found["source_from_features"]
    if told is None:
        return [*page, text(f"Not asked: {found['source_from_features_reason']}.")]
    rows = []
    for name, one in told.items():
        if "reason" in one:
            rows.append((name, "-", "-", "-", "-", one["reason"]))
            continue
        known = (str(one["films"]), str(len(one["sources"])), number(one["chance"]))
        rows.append((name, *known, cell(one, "balanced_accuracy"), one["verdict"]))
    return [*page, Table(("among", "films", "sources", "chance", "balanced accuracy", "verdict"), tuple(rows))]


def _left_out(found: Mapping[str, Any]) -> list[Block]:
    page: list[Block] = [Heading("One source left out of the training")]
    left_out = found["leave_one_source_out"]
    if left_out is None:
        return [*page, text(f"Not asked: {found['leave_one_source_out_reason']}.")]
    rows = []
    for row in left_out:
        counts = (row["source"], str(row["films"]), str(row["patients"]), str(row["positive"]))
        if row["reason"]:
            rows.append((*counts, "-", "-", "-", "-", row["reason"]))
            continue
        figure = "AUROC" if row["figure"] == "auroc" else row["figure"]
        trained = f"{row['training_films_without']} of {row['training_films_with']}"
        rows.append((*counts, trained, figure, cell(row, "without"), cell(row, "with"), _signed(row, "difference")))
    header = ("source", "films", "patients", "positive", "trained on", "figure", "without it", "with it", "difference")
    return [*page, Table(header, tuple(rows))]


def _method(found: Mapping[str, Any]) -> list[Block]:
    bootstrap = found["bootstrap"]
    strengths = found["strengths"]
    return [
        Heading("How it was done"),
        Bullets(
            (
                (
                    f"Border: the outer eighth of the film on each side. Grey values in {COARSE} x {COARSE} cells for "
                    f"the whole film and {SIDE} x {SIDE} for the border, each cell the mean of its own pixels. On "
                    "tightly collimated films the edge of a lung can reach into the border.",
                ),
                (
                    "The linear models are logistic regressions on standardised values, fitted on the training films; "
                    f"the strength C was chosen on the validation films by log loss ({strengths['pixels']:g} for the "
                    f"grey values, {strengths['border']:g} for the border).",
                ),
                (
                    "What is blanked takes the median grey of what stays. A model meets no such films in training: "
                    "that it fails on them proves little, that it does not fail says more.",
                ),
                (
                    "Source alone: each film is given the share of PNEUMONIA among the training films of its source; "
                    "there where two sources or more are known.",
                ),
                (
                    "Source from features: a logistic regression in which each source counts the same, fitted and "
                    "measured among the same kind of films. Chance is one over the number of sources.",
                ),
                (
                    "One source left out: a head with the model's own settings, trained on the plain view of the other "
                    "sources' films, each counting the same, the best epoch picked on theirs too, beside one trained "
                    f"in the same way on all. A source with one class has sensitivity or specificity at {THRESHOLD:g}, "
                    "with the exact binomial interval by patients.",
                ),
                (
                    f"Intervals: {100 * LEVEL:g} % by a bootstrap over patients, {bootstrap['resamples']} resamples "
                    f"(seed {bootstrap['seed']}), the same for all readings; the fitted models are held fixed. A "
                    "verdict follows from the interval alone; where all films are in order there is none, and it takes "
                    f"{FEWEST_OF_A_CLASS} patients of each class. Among many groups some will stand out by chance.",
                ),
            )
        ),
        Heading("References", 3),
        Bullets(tuple((reference,) for reference in _REFERENCES)),
    ]


def _signed(figures: Mapping[str, Any], name: str) -> str:
    value, ci = figures[name], figures[f"{name}_ci"]
    return "-" if value is None else f"{value:+.3f} ({between(ci)})"


VIEWS: Final = "audit-views.png"
AUROCS: Final = "audit-auroc.png"
MOST_SOURCES: Final = 6  # drawn beside all films, those with the most films
_TOLD: Final = (ABOVE, BELOW)
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


def plot_aurocs(path: Path, readings: Mapping[str, Any], sources: Sequence[str]) -> None:
    """AUROC of each reading with its interval, over all films and within the sources that have both classes.

    A hollow point is one whose interval holds 0.5, or that has none to judge by.
    """
    names = [name for name in READINGS if name in readings]
    films = {source: readings["model"]["groups"].get(f"source={source}") for source in sources}
    shown = sorted(
        (s for s, one in films.items() if one and one["auroc"] is not None), key=lambda s: -films[s]["films"]
    )
    groups = ["all films", *sorted(shown[:MOST_SOURCES])]
    figure = Figure(figsize=(8.4, 1.1 + len(names) * (0.24 * len(groups) + 0.22)), layout="constrained")
    axes = figure.subplots()
    for g, group in enumerate(groups):
        color = "black" if g == 0 else f"C{g - 1}"
        axes.plot([], [], "o-", color=color, label=group)
        for row, name in enumerate(names):
            one = readings[name]["overall"] if g == 0 else readings[name]["groups"][f"source={group}"]
            if one["auroc"] is None:
                continue
            y = row + (g - (len(groups) - 1) / 2) * 0.8 / len(groups)
            if one["auroc_ci"]:
                axes.plot(one["auroc_ci"], [y, y], color=color, linewidth=1.6)
            hollow = one["verdict"] not in _TOLD
            axes.plot(one["auroc"], y, "o", color=color, markerfacecolor="white" if hollow else color)
    axes.axvline(0.5, color="grey", linestyle=":", linewidth=1.2, label="chance")
    for row in range(1, len(names)):
        axes.axhline(row - 0.5, color="0.9", linewidth=0.8, zorder=0)
    axes.set_yticks(range(len(names)), [READINGS[name] for name in names])
    axes.set_ylim(len(names) - 0.5, -0.65)
    axes.set_xlabel("AUROC, 95 % interval; hollow: not told from chance")
    figure.legend(loc="outside upper center", ncols=4, frameon=False, fontsize=9)
    save(figure, path)
