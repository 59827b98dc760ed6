"""What was measured, as `metrics.json` and `audit.json` hold it: a field for each key, in the files' order.

`cxr.json_records` reads and writes them. A figure ``NAME`` has its 95 % interval beside it as ``NAME_ci``; it is None
where a class is missing, and the interval where the rules of `cxr_training.measure.intervals` give none.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from cxr.model.classes import CLASSES, POSITIVE

RESAMPLES: Final = 2000
PREVALENCES: Final = (0.05, 0.1, 0.3)  # for PPV and NPV beside the films' own

Interval = tuple[float, float]  # low, high


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure with its interval; `exact` where that is the exact binomial one."""

    value: float | None
    interval: Interval | None
    exact: bool = False


class _Figures:
    """Figures that can be had by name."""

    __slots__ = ()

    def named(self, name: str) -> Figure:
        """A figure with its interval, by the name of its field."""
        interval = getattr(self, f"{name.rstrip('_')}_ci")
        return Figure(getattr(self, name), interval, name in getattr(self, "exact_ci", ()))


@dataclass(frozen=True, slots=True)
class Resampling:
    """How the intervals were made."""

    unit: str
    level: float
    resamples: int
    seed: int


@dataclass(frozen=True, slots=True)
class PredictiveValues(_Figures):
    """PPV and NPV at one prevalence.

    Parameters
    ----------
    own
        Whether the prevalence is that of the films themselves; then it varies with the resamples.
    """

    prevalence: float
    own: bool
    ppv: float | None
    ppv_ci: Interval | None
    npv: float | None
    npv_ci: Interval | None
    undefined_resamples: dict[str, int]


@dataclass(frozen=True, slots=True)
class GroupFigures(_Figures):
    """The figures of one group of films.

    Parameters
    ----------
    exact_ci
        Figures whose interval is the exact binomial one.
    undefined_resamples
        By figure, how many resamples were left out because it is undefined in them; figures with none are not listed.
    predictive_values
        At the films' own prevalence first, then at those that were asked for.
    """

    patients: int
    films: int
    positive: int
    auroc: float | None
    auroc_ci: Interval | None
    auprc: float | None
    auprc_ci: Interval | None
    sensitivity: float | None
    sensitivity_ci: Interval | None
    specificity: float | None
    specificity_ci: Interval | None
    accuracy: float | None
    accuracy_ci: Interval | None
    brier: float | None
    brier_ci: Interval | None
    log_loss: float | None
    log_loss_ci: Interval | None
    ece: float | None
    ece_ci: Interval | None
    true_positive: int
    false_positive: int
    true_negative: int
    false_negative: int
    exact_ci: tuple[str, ...]
    undefined_resamples: dict[str, int]
    predictive_values: tuple[PredictiveValues, ...]


@dataclass(frozen=True, slots=True)
class Screened:
    """How many frontal films the model's screen takes for something else, or for negatives."""

    films: int
    unlike_frontal: int
    inverted: int


@dataclass(frozen=True, slots=True)
class BoxFigures(_Figures):
    """How the heat maps of some films do on their boxes; `cxr_training.measure.localisation` has the figures' meaning.

    Parameters
    ----------
    without_evidence
        Films whose map has no evidence for PNEUMONIA.
    """

    films: int
    patients: int
    boxes: int
    without_evidence: int
    pointing: float | None
    pointing_ci: Interval | None
    pointing_swapped: float | None
    pointing_swapped_ci: Interval | None
    pointing_over_swapped: float | None
    pointing_over_swapped_ci: Interval | None
    pointing_mean_map: float | None
    pointing_mean_map_ci: Interval | None
    energy: float | None
    energy_ci: Interval | None
    energy_swapped: float | None
    energy_swapped_ci: Interval | None
    energy_over_swapped: float | None
    energy_over_swapped_ci: Interval | None
    energy_mean_map: float | None
    energy_mean_map_ci: Interval | None
    area: float | None
    area_ci: Interval | None
    exact_ci: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Localisation:
    """Heat maps against boxes.

    Parameters
    ----------
    positive
        Films of PNEUMONIA, with boxes or without.
    normal_with_boxes
        Films that are left out because their label and their boxes disagree.
    all, called
        Over all films with boxes, and over those of them called PNEUMONIA; None where there are none.
    """

    boxes_from: str
    positive: int
    normal_with_boxes: int
    all: BoxFigures
    called: BoxFigures | None


@dataclass(frozen=True, slots=True)
class OneClass(_Figures):
    """How one class is told from all others: by its own probability, and by which films are called so."""

    films: int
    patients: int
    auroc: float | None
    auroc_ci: Interval | None
    sensitivity: float | None
    sensitivity_ci: Interval | None
    specificity: float | None
    specificity_ci: Interval | None
    exact_ci: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ClassFigures(_Figures):
    """How the classes are told apart.

    Parameters
    ----------
    confusion
        Films by true class, a row each, and by called class.
    accuracy
        Share of the films that are called what they are.
    """

    classes: tuple[str, ...]
    positive: tuple[str, ...]
    confusion: tuple[tuple[int, ...], ...]
    accuracy: float | None
    accuracy_ci: Interval | None
    exact_ci: tuple[str, ...]
    one_vs_rest: dict[str, OneClass]


@dataclass(frozen=True, slots=True)
class Metrics:
    """`metrics.json`: the model, how the intervals were made, and the figures over all films and by group.

    Parameters
    ----------
    screen
        None where the model has none.
    localisation
        None where no film of PNEUMONIA has a box.
    everything_else
        PNEUMONIA against all other films, those labelled OTHER (abnormal, no opacity) among the negative ones, over all
        films and by source and label source where there are such films; empty where there are none.
    predictions_sha256
        Of the `predictions.csv` beside it.
    classes
        Where there are others than NORMAL and PNEUMONIA; all other figures are of the positive group against the rest.
    """

    split: str
    arch: str
    pretrained: str
    weights_sha256: str
    threshold: float
    operating_point: str
    synthetic: bool
    bootstrap: Resampling
    overall: GroupFigures
    groups: dict[str, GroupFigures]
    screen: Screened | None = None
    localisation: Localisation | None = None
    everything_else: dict[str, GroupFigures] = field(default_factory=dict)
    predictions_sha256: str = ""
    classes: ClassFigures | None = None


@dataclass(frozen=True, slots=True)
class ReadingFigures(_Figures):
    """How well a reading puts PNEUMONIA above NORMAL among some films.

    Parameters
    ----------
    verdict
        By `cxr_training.measure.shortcuts.verdict`; None where a class is missing.
    difference
        This AUROC minus that of the reading it is compared with, in the same resamples; None for that one itself.
    undefined_resamples
        Left out because a class was not drawn.
    """

    films: int
    positive: int
    patients: int
    auroc: float | None
    auroc_ci: Interval | None
    verdict: str | None
    difference: float | None
    difference_ci: Interval | None
    undefined_resamples: int


@dataclass(frozen=True, slots=True)
class Reading:
    """A reading's figures over all films, and by source and label source."""

    groups: dict[str, ReadingFigures]
    overall: ReadingFigures


@dataclass(frozen=True, slots=True)
class SourceFigures(_Figures):
    """How well the sources of some films are told apart; `chance` is one over their number."""

    sources: tuple[str, ...]
    strength: float
    films: int
    patients: int
    balanced_accuracy: float
    balanced_accuracy_ci: Interval | None
    chance: float
    verdict: str | None
    undefined_resamples: int


@dataclass(frozen=True, slots=True)
class NoFigures:
    """Why something has no figures."""

    reason: str


@dataclass(frozen=True, slots=True)
class SourceLeftOut(_Figures):
    """How a head does on a source it was not trained on, beside one that was.

    Parameters
    ----------
    trained_on
        The other sources.
    figure
        What could be measured: ``auroc``, or ``sensitivity`` or ``specificity`` where the source has one class.
    difference
        Without minus with; it has an interval for AUROC alone.
    """

    source: str
    films: int
    positive: int
    patients: int
    reason: None
    trained_on: tuple[str, ...]
    training_films_without: int
    training_films_with: int
    figure: str
    without: float | None
    without_ci: Interval | None
    with_: float | None
    with_ci: Interval | None
    difference: float | None
    difference_ci: Interval | None


@dataclass(frozen=True, slots=True)
class SourceNotLeftOut:
    """A source that could not be left out of the training, and why."""

    source: str
    films: int
    positive: int
    patients: int
    reason: str


@dataclass(frozen=True, slots=True)
class Audit:
    """`audit.json`: what can be had without the lungs, and what becomes of the figures elsewhere.

    Parameters
    ----------
    data_sha256, trained_on_sha256
        Of the films that were measured, and of those the model was made from.
    strengths
        Of the linear models, by reading.
    readings
        By the names of `cxr_training.measure.shortcut_readings.READINGS`.
    source_from_features
        Among ``all`` films and within each class; None with the reason where there are no two sources.
    plain_words
        The figures as sentences, by `cxr_training.pages.audit_words`.
    """

    split: str
    arch: str
    pretrained: str
    weights_sha256: str
    data_sha256: str
    trained_on_sha256: str
    backbone_frozen: bool
    synthetic: bool
    bootstrap: Resampling
    sources: tuple[str, ...]
    strengths: dict[str, float]
    readings: dict[str, Reading]
    source_from_features: dict[str, SourceFigures | NoFigures] | None
    source_from_features_reason: str | None
    leave_one_source_out: tuple[SourceLeftOut | SourceNotLeftOut, ...] | None
    leave_one_source_out_reason: str | None
    plain_words: tuple[str, ...] = ()
    classes: tuple[str, ...] = CLASSES
    positive: tuple[str, ...] = POSITIVE
