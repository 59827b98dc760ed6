"""The figures of an evaluation as a page to read, in Markdown and in one HTML file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from cxr import NOTICE
from cxr.model.spec import ModelSpec
from cxr_training.measure.intervals import FEWEST_PATIENTS, LEVEL, MOST_UNDEFINED, Interval
from cxr_training.pages.page import (
    Block,
    Bullets,
    Code,
    Heading,
    Picture,
    Pictures,
    Strong,
    Table,
    Text,
    Words,
    text,
    to_html,
    to_markdown,
)
from pneumoscan.files import write_text

SYNTHETIC: Final = (Strong("Every film is synthetic."), " These figures say nothing about patients.")
TITLES: Final = {
    "auroc": "AUROC",
    "auprc": "AUPRC",
    "sensitivity": "sensitivity",
    "specificity": "specificity",
    "accuracy": "accuracy",
    "brier": "Brier",
    "log_loss": "log loss",
    "ece": "ECE",
    "ppv": "PPV",
    "npv": "NPV",
}
_TABLES: Final = {
    "Ranking and calls": ("auroc", "auprc", "sensitivity", "specificity", "accuracy"),
    "Probabilities": ("brier", "log_loss", "ece"),
}
_PICTURES: Final = (
    Picture("roc.png", "ROC curve"),
    Picture("pr.png", "Precision over recall"),
    Picture("reliability.png", "Reliability and histogram of probabilities"),
    Picture("confusion.png", "Confusion matrix"),
)


@dataclass(frozen=True, slots=True)
class Part:
    """A part of the report with films on it, which Markdown shows on a page of their own.

    Parameters
    ----------
    page
        The name of that page's file.
    words
        What both forms of the report say.
    films
        The page of films, without a title.
    """

    title: str
    page: str
    words: tuple[Block, ...]
    films: tuple[Block, ...]


def write_report(out: Path, spec: ModelSpec, metrics: Mapping[str, Any], parts: Sequence[Part]) -> None:
    """Write `report.md`, `report.html` and the pages of `parts` beside the figures; the HTML needs no other file.

    Parameters
    ----------
    metrics
        As `cxr_training.evaluate.evaluate` makes them.
    """
    page = _page(spec, metrics)
    markdown, html = [*page], [*page]
    for part in parts:
        top: list[Block] = [Heading(part.title, 1), text(NOTICE), *_synthetic(metrics)]
        write_text(out / part.page, to_markdown([*top, *part.films]))
        said: list[Block] = [Heading(part.title), *part.words]
        markdown += [*said, text("Film and map of each are in ", Code(part.page), ".")]
        html += [*said, *part.films]
    write_text(out / "report.md", to_markdown(markdown))
    write_text(out / "report.html", to_html(html, out))


def _synthetic(metrics: Mapping[str, Any]) -> list[Block]:
    return [Text(SYNTHETIC)] if metrics["synthetic"] else []


def _page(spec: ModelSpec, metrics: Mapping[str, Any]) -> list[Block]:
    overall = metrics["overall"]
    groups = {"all": overall, **metrics["groups"]}
    about: tuple[tuple[Words, ...], ...] = (
        origin_of(spec),
        (f"{overall['films']} films of {overall['patients']} patients; {overall['positive']} films show PNEUMONIA.",),
        (
            f"Called PNEUMONIA at a probability of {spec.threshold:.3f} and above ({spec.operating_point}, fitted on "
            "validation).",
        ),
        ("Weights sha256 ", Code(spec.weights_sha256), ", data sha256 ", Code(spec.data_sha256), "."),
    )
    page: list[Block] = [
        Heading(f"{spec.arch}, {metrics['split']} films", 1),
        text(NOTICE),
        Bullets(about),
        *_synthetic(metrics),
        Heading("All films"),
        figures_table(overall),
        Pictures(_PICTURES),
    ]
    for title, names in _TABLES.items():
        page += [Heading(title), groups_table(groups, names)]
    page += _predictive(groups)
    if screen := metrics["screen"]:
        page.append(
            text(
                f"Of these {screen['films']} frontal films, {screen['unlike_frontal']} do not look frontal to the "
                f"model's screen and {screen['inverted']} look inverted."
            )
        )
    return [*page, *_method(metrics, groups)]


_WHO: Final = ("films", "n", "patients", "positive")


def _who(name: str, group: Mapping[str, Any]) -> tuple[str, ...]:
    return (name, str(group["films"]), str(group["patients"]), str(group["positive"]))


def groups_table(groups: Mapping[str, Any], names: Sequence[str]) -> Table:
    """A row for each group of films, with some of its figures."""
    rows = [(*_who(name, group), *(cell(group, figure) for figure in names)) for name, group in groups.items()]
    return Table((*_WHO, *(TITLES[figure] for figure in names)), tuple(rows))


def figures_table(overall: Mapping[str, Any]) -> Table:
    """Every figure over all films."""
    rows = [
        (TITLES[name], number(overall[name]), between(overall[f"{name}_ci"]) + _mark(overall, name))
        for names in _TABLES.values()
        for name in names
    ]
    for values in overall["predictive_values"]:
        where = f"at {_percent(values)} PNEUMONIA{' (as here)' if values['own'] else ''}"
        rows += [
            (f"{TITLES[name]} {where}", number(values[name]), between(values[f"{name}_ci"])) for name in ("ppv", "npv")
        ]
    return Table(("figure", "value", f"{100 * LEVEL:g} % interval"), tuple(rows))


def _predictive(groups: Mapping[str, Any]) -> list[Block]:
    page: list[Block] = []
    for name in ("ppv", "npv"):
        first = groups["all"]["predictive_values"]
        columns = ["prevalence here" if values["own"] else f"at {_percent(values)}" for values in first]
        rows: list[tuple[str, ...]] = []
        for group, figures in groups.items():
            values = figures["predictive_values"]
            rows.append((*_who(group, figures), _percent(values[0]), *(cell(one, name) for one in values)))
        header = (*_WHO, "prevalence", *(f"{TITLES[name]}, {column}" for column in columns))
        page += [Heading(f"{'Positive' if name == 'ppv' else 'Negative'} predictive value"), Table(header, tuple(rows))]
    return page


def _method(metrics: Mapping[str, Any], groups: Mapping[str, Any]) -> list[Block]:
    bootstrap = metrics["bootstrap"]
    page: list[Block] = [Heading("What the intervals are"), *intervals_explained(bootstrap)]
    left_out = [
        (name, TITLES[figure], str(count))
        for name, group in groups.items()
        for figure, count in group["undefined_resamples"].items()
        if group[f"{figure}_ci"] and figure not in group["exact_ci"]
    ]
    left_out += [
        (name, f"{TITLES[figure]} at {_percent(values)}", str(count))
        for name, group in groups.items()
        for values in group["predictive_values"]
        for figure, count in values["undefined_resamples"].items()
        if values[f"{figure}_ci"]
    ]
    if left_out:
        page += [
            text(f"Resamples left out of {bootstrap['resamples']} because the figure is undefined in them:"),
            Table(("films", "figure", "left out"), tuple(left_out)),
        ]
    return page


def cell(figures: Mapping[str, Any], name: str) -> str:
    """A figure with its interval behind it, as a table shows it."""
    if figures[name] is None:
        return "-"
    return f"{number(figures[name])} ({between(figures[f'{name}_ci'])}){_mark(figures, name)}"


def number(value: float | None) -> str:
    """Three decimals, or a dash."""
    return "-" if value is None else f"{value:.3f}"


def between(interval: Interval | None) -> str:
    """The ends of an interval, or a dash."""
    return "-" if interval is None else f"{number(interval[0])} to {number(interval[1])}"


def _mark(figures: Mapping[str, Any], name: str) -> str:
    return "†" if name in figures.get("exact_ci", ()) else ""


def _percent(values: Mapping[str, Any]) -> str:
    return f"{100 * values['prevalence']:.3g} %"


_ORIGINS: Final[dict[str, tuple[Words, ...]]] = {
    "imagenet": ("ImageNet (torchvision's default weights)",),
    "random": (
        Strong("random numbers"),
        ": no pretrained weights could be had. The figures show that everything works, not how well a model can do",
    ),
}


def origin_of(spec: ModelSpec) -> tuple[Words, ...]:
    """What the backbone started from and whether it was trained, a sentence."""
    frozen = "frozen" if spec.training.get("trainable", "head") == "head" else "trained further"
    origin = _ORIGINS.get(spec.pretrained, (f"the file {spec.pretrained.removeprefix('file:')}",))
    return (f"Backbone, {frozen}, from ", *origin, ".")


def intervals_explained(bootstrap: Mapping[str, Any]) -> list[Block]:
    """How the intervals were made and what the marks in the tables mean."""
    return [
        text(
            f"Brackets hold {100 * LEVEL:g} % intervals by a bootstrap over patients: patients were drawn with "
            f"replacement {bootstrap['resamples']} times (seed {bootstrap['seed']}), each with all films, and the "
            "interval is the middle of what the figure came to. A group is resampled within itself. The threshold is "
            "held fixed, and so is the model: how another training would differ is not in the intervals. They hold for "
            "one figure at a time; among many groups some will stand out by chance."
        ),
        text(
            f"† marks shares that are exactly 0 or 1, or of fewer than {FEWEST_PATIENTS} patients. Resamples say too "
            "little of those; theirs is the exact binomial interval (Clopper and Pearson), each patient counting as "
            "one observation (Korn and Graubard). A dash stands where a group lacks a class the figure needs, and in "
            f"the place of an interval where there are fewer than {FEWEST_PATIENTS} patients, where the figure is "
            f"undefined in more than {100 * MOST_UNDEFINED:g} % of the resamples, or where all resamples agree."
        ),
        text(
            "PPV and NPV follow from sensitivity and specificity by Bayes' theorem, at prevalences held fixed except "
            "for the films' own. ECE: 15 bins of equal width; it is never below 0, so chance alone makes it larger the "
            "fewer the films, in resamples more than in the films themselves, and its interval lies high."
        ),
    ]
