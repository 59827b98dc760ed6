"""The parts of a model card about how well the model did, on whom, and by what it may have gone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from cxr.serving.card import AUDIT_FILE, LIMITS, METRICS_FILE
from cxr_training.pages.audit_page import OTHER_DATA, readings_table
from cxr_training.pages.card_facts import COMMANDS, Facts, called, chose, not_measured
from cxr_training.pages.localisation import NO_PROOF, localisation_table, localisation_words
from cxr_training.pages.page import Block, Bullets, Code, Heading, Strong, Text, Words, text
from cxr_training.pages.report import figures_table, groups_table, intervals_explained

_CALLS: Final = ("auroc", "sensitivity", "specificity")
_PROBABILITIES: Final = ("brier", "ece")
_FACTORS: Final = {"source": "source", "label_source": "label source", "view": "view", "age": "age", "sex": "sex"}


def factors(facts: Facts) -> list[Block]:
    """What the films differ by, and by what of it the figures are told apart."""
    page: list[Block] = [
        text(
            "Films differ by hospital and collection (source), by who made the label (label source), by view, and by "
            "the age and sex of the patient. A model can do well on some and badly on others."
        )
    ]
    if facts.metrics is None:
        return [*page, Text(not_measured(facts, METRICS_FILE))]
    apart, together = _apart(facts.metrics)
    if apart:
        page.append(text(f"Figures are given apart by {_listed(apart)}."))
    if together:
        page.append(
            text(
                f"Not by {_listed(together, 'or')}: the manifest does not say it, says the same of every film "
                "measured, or training.evaluate makes no figures by it. How the model differs there is not known."
            )
        )
    return page


def _apart(metrics: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """By which factors there are figures, and by which there are none."""
    starts = tuple(metrics["groups"])
    apart = [name for column, name in _FACTORS.items() if any(one.startswith(f"{column}=") for one in starts)]
    return apart, [name for name in _FACTORS.values() if name not in apart]


def evaluation_data(facts: Facts) -> list[Block]:
    """Which films it was measured on."""
    metrics = facts.metrics
    if metrics is None:
        return [Text(not_measured(facts, METRICS_FILE))]
    overall, split = metrics["overall"], metrics["split"]
    items: list[tuple[Words, ...]] = [
        (
            f"{overall['films']} {called(split)} of {overall['patients']} patients; {overall['positive']} films show "
            "PNEUMONIA.",
        ),
        *chose(split),
    ]
    expected = facts.films_of(split)
    if expected is not None and expected != overall["films"]:
        items.append(
            (
                Strong("These are other films than those of the training's data folder."),
                f" That has {expected} {called(split)}. Films measured here may have been among its training films.",
            )
        )
    return [Bullets(tuple(items))]


def results(facts: Facts) -> list[Block]:
    """The figures over all films and for each group of films."""
    metrics = facts.metrics
    if metrics is None:
        return [Text(not_measured(facts, METRICS_FILE))]
    groups = {"all": metrics["overall"], **metrics["groups"]}
    page: list[Block] = [Heading("All films", 3), figures_table(metrics["overall"])]
    if metrics["groups"]:
        page += [Heading("By group", 3), groups_table(groups, _CALLS)]
    return [
        *page,
        Heading("Calibration", 3),
        text(
            "Brier score: the mean square of what the probability is off by, 0 at best. ECE: how far probabilities and "
            "shares of PNEUMONIA are apart, over bins of probability, 0 at best."
        ),
        groups_table(groups, _PROBABILITIES),
        Heading("What the intervals are", 3),
        *intervals_explained(metrics["bootstrap"]),
    ]


def right_place(facts: Facts) -> list[Block]:
    """Whether the map points at boxes around opacities."""
    if facts.metrics is None:
        return [Text(not_measured(facts, METRICS_FILE))]
    figures = facts.metrics.get("localisation")
    if figures is None:
        boxes = "no film of PNEUMONIA that was measured has a box around its opacities. Put boxes into the data folder"
        return [text(Strong("Not measured"), f": {boxes} and run ", Code(COMMANDS[METRICS_FILE]), ".")]
    return [
        Bullets(tuple((words,) for words in localisation_words(figures))),
        localisation_table(figures),
        text(NO_PROOF),
    ]


def at_the_lungs(facts: Facts) -> list[Block]:
    """What can be had without the lungs."""
    audit = facts.audit
    if audit is None:
        return [Text(not_measured(facts, AUDIT_FILE))]
    warnings = chose(audit["split"])
    if audit["trained_on_sha256"] != audit["data_sha256"]:
        warnings.append(OTHER_DATA)
    return [
        *([Bullets(tuple(warnings))] if warnings else []),
        Bullets(tuple((words,) for words in audit["plain_words"])),
        readings_table(audit),
        text("More is in ", Code("audit.html"), " of the run."),
    ]


def ethics(facts: Facts) -> list[Block]:
    """Whom a wrong answer harms and for whom it is likeliest."""
    together = _apart(facts.metrics)[1] if facts.metrics else list(_FACTORS.values())
    unknown = [name for name in ("source", "age", "sex") if name in together]
    said = (
        "Children and adults are X-rayed in other ways, and so are patients of one hospital and another: where one "
        "class comes mostly from one of them, a model can tell these apart and not the illness, and then fails those "
        "who do not fit."
    )
    if unknown:
        said += f" Whether it differs by {_listed(unknown, 'or')} was not measured."
    return [
        Bullets(
            (
                (said,),
                (
                    "A wrong NORMAL can keep a treatment from who needs it, a wrong PNEUMONIA can bring one that is of "
                    "no use. No answer of this model is to be acted on.",
                ),
                (
                    "The run's reports show films and are to be kept as carefully as the films are; this card shows "
                    "none. Whether patients agreed to such a use is for the source of the films to say.",
                ),
            )
        )
    ]


def caveats(facts: Facts) -> list[Block]:
    """The limits of any such model, and what is not known of this one."""
    items: list[tuple[Words, ...]] = [(one,) for one in LIMITS]
    items += [not_measured(facts, name) for name in facts.missing]
    items.append(
        (
            "Before use on films of another place: measure it there, with labels of its own, fit temperature and "
            "thresholds there, and audit it there.",
        )
    )
    return [Bullets(tuple(items))]


def _listed(names: Sequence[str], word: str = "and") -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} {word} {names[-1]}"
