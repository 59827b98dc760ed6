"""The figures of an audit as a page to read: plain words first, then tables, then how each was made."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from training.intervals import LEVEL
from training.page import Block, Bullets, Code, Heading, Picture, Pictures, Strong, Table, Text, Words, text
from training.report import NOTICE, SYNTHETIC, between, cell, number
from training.shortcuts.films import COARSE, READINGS, SIDE
from training.shortcuts.measure import FEWEST_OF_A_CLASS
from training.shortcuts.pictures import AUROCS, MOST_SOURCES, VIEWS
from training.shortcuts.sources import THRESHOLD

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
    """The page of an audit, as `training.audit.audit` makes it."""
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
