"""The report of an evaluation: its tables, and the pages that `templates/report.md.j2` and its parts make of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from cxr.model.classes import STANDARD
from cxr.model.spec import ModelSpec
from cxr_training.measure.intervals import LEVEL
from cxr_training.measure.records import ClassFigures, GroupFigures, Localisation, Metrics
from cxr_training.pages.films import Errors, Extremes
from cxr_training.pages.page import Table, between, figure, number, percent, render, write_page
from cxr_training.runs import Training
from pneumoscan.files import write_text

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
_RANKING: Final = ("auroc", "auprc", "sensitivity", "specificity", "accuracy")
_PROBABILITIES: Final = ("brier", "log_loss", "ece")
_COUNTS: Final = ("films", "n", "patients", "positive")
_BOXES: Final = (
    ("pointing: maximum of the map in a box", "pointing"),
    ("pointing, maps of other patients", "pointing_swapped"),
    ("pointing, difference of the two", "pointing_over_swapped"),
    ("pointing, one map for all films", "pointing_mean_map"),
    ("energy: evidence that lies in boxes", "energy"),
    ("energy, maps of other patients", "energy_swapped"),
    ("energy, difference of the two", "energy_over_swapped"),
    ("energy, one map for all films", "energy_mean_map"),
    ("area of boxes", "area"),
)
_BOX_COUNTS: Final = (
    ("patients", "patients"),
    ("boxes", "boxes"),
    ("films without evidence", "without_evidence"),
)


def write_report(
    out: Path, spec: ModelSpec, metrics: Metrics, constant: float, errors: Errors, on_boxes: Extremes | None
) -> None:
    """Write `report.md`, `report.html`, `errors.md` and `localisation.md` beside the figures; the HTML has all in one.

    Parameters
    ----------
    constant
        Of the model's map of the positive group against the rest, in logits.
    on_boxes
        None where no film has a box; then a page of an earlier evaluation is taken away.
    """
    groups = {"all": metrics.overall, **metrics.groups}
    values = {
        "spec": spec,
        **dict(zip(("positive", "negative"), spec.scheme.words, strict=True)),
        "training": Training.of(spec),
        "metrics": metrics,
        "constant": constant,
        "errors": errors,
        "on_boxes": on_boxes,
        "all_films": figures_table(metrics.overall, spec.scheme.words[0]),
        "by_class": metrics.classes and classes_table(metrics.classes),
        "confusion": metrics.classes and confusion_table(metrics.classes),
        "ranking": groups_table(groups, _RANKING),
        "probabilities": groups_table(groups, _PROBABILITIES),
        "ppv": _predictive_table(groups, "ppv"),
        "npv": _predictive_table(groups, "npv"),
        "left_out": _left_out_table(groups),
        "everything_else": groups_table(metrics.everything_else, ("auroc", "sensitivity", "specificity", "ece")),
        "boxes": metrics.localisation and boxes_table(metrics.localisation, spec.scheme.words[0]),
    }
    write_text(out / "errors.md", render("errors.md.j2", **values))
    if on_boxes is None:
        (out / "localisation.md").unlink(missing_ok=True)
    else:
        write_text(out / "localisation.md", render("localisation.md.j2", **values))
    write_page(out / "report.md", "report.md.j2", **values)


def _counts(name: str, group: GroupFigures) -> tuple[str, ...]:
    return (name, str(group.films), str(group.patients), str(group.positive))


def groups_table(groups: Mapping[str, GroupFigures], names: Sequence[str]) -> Table:
    """A row for each group of films, with some of its figures."""
    rows = [(*_counts(name, group), *(figure(group.named(one)) for one in names)) for name, group in groups.items()]
    return Table((*_COUNTS, *(TITLES[name] for name in names)), tuple(rows))


def figures_table(overall: GroupFigures, positive: str = STANDARD.words[0]) -> Table:
    """Every figure over all films."""
    rows = []
    for name in (*_RANKING, *_PROBABILITIES):
        one = overall.named(name)
        rows.append((TITLES[name], number(one.value), between(one.interval) + ("†" if one.exact else "")))
    for values in overall.predictive_values:
        where = f"at {percent(values.prevalence)} {positive}{' (as here)' if values.own else ''}"
        for name in ("ppv", "npv"):
            one = values.named(name)
            rows.append((f"{TITLES[name]} {where}", number(one.value), between(one.interval)))
    return Table(("figure", "value", f"{100 * LEVEL:g} % interval"), tuple(rows))


def _predictive_table(groups: Mapping[str, GroupFigures], name: str) -> Table:
    """PPV or NPV at each prevalence, a row for each group of films."""
    columns = [
        f"{TITLES[name]}, {'prevalence here' if values.own else f'at {percent(values.prevalence)}'}"
        for values in groups["all"].predictive_values
    ]
    rows = [
        (
            *_counts(group, figures),
            percent(figures.predictive_values[0].prevalence),
            *(figure(values.named(name)) for values in figures.predictive_values),
        )
        for group, figures in groups.items()
    ]
    return Table((*_COUNTS, "prevalence", *columns), tuple(rows))


def classes_table(found: ClassFigures) -> Table:
    """How well each class is told from all others."""
    names = ("auroc", "sensitivity", "specificity")
    rows = [
        (name, str(one.films), str(one.patients), *(figure(one.named(key)) for key in names))
        for name, one in found.one_vs_rest.items()
    ]
    return Table(("class", "films", "patients", *(f"{TITLES[key]}, against the rest" for key in names)), tuple(rows))


def confusion_table(found: ClassFigures) -> Table:
    """Films by true and by called class."""
    rows = [
        (name, *map(str, counts), str(sum(counts))) for name, counts in zip(found.classes, found.confusion, strict=True)
    ]
    return Table(("true", *(f"called {name}" for name in found.classes), "films"), tuple(rows))


def _left_out_table(groups: Mapping[str, GroupFigures]) -> Table:
    """How many resamples were left out of each interval that is a bootstrap's."""
    rows = [
        (name, TITLES[one], str(count))
        for name, group in groups.items()
        for one, count in group.undefined_resamples.items()
        if group.named(one).interval and not group.named(one).exact
    ]
    rows += [
        (name, f"{TITLES[one]} at {percent(values.prevalence)}", str(count))
        for name, group in groups.items()
        for values in group.predictive_values
        for one, count in values.undefined_resamples.items()
        if values.named(one).interval
    ]
    return Table(("films", "figure", "left out"), tuple(rows))


def boxes_table(found: Localisation, positive: str = STANDARD.words[0]) -> Table:
    """Heat maps against boxes, over all films that have some and over those called positive where there are any."""
    groups = [found.all, found.called] if found.called else [found.all]
    titles = ("with boxes", f"of these called {positive}")
    header = [f"{title}, n = {group.films}" for title, group in zip(titles, groups, strict=False)]
    rows = [(title, *(figure(group.named(name)) for group in groups)) for title, name in _BOXES]
    counts = [(title, *(str(getattr(group, name)) for group in groups)) for title, name in _BOX_COUNTS]
    return Table(("figure", *header), (*rows, *counts))
