"""The same weights with thresholds, band, temperature and drift reference of a site, and what that changes there.

The films of the site's split val are what is fitted on, so figures on them would flatter what was fitted. Those of the
page are by cross-fitting: the patients are dealt into five parts, and each part is judged by what the other four give.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np

from cxr.json_records import to_json
from cxr.model.classes import STANDARD as STANDARD_CLASSES
from cxr.model.classes import Scheme
from cxr.model.parity import INT8_FILES, Vector
from cxr.model.spec import ModelSpec
from cxr.predict import softmax
from cxr_training.calibrate import Fitted, Fitting, calibrate_run
from cxr_training.data.records import Films, Record
from cxr_training.errors import TrainingError
from cxr_training.fit.head import film_weights
from cxr_training.measure.calibration import DECIDES, fit_band, fit_operating_points, fit_temperature
from cxr_training.measure.intervals import STANDARD, Bootstrap, group_figures
from cxr_training.measure.metrics import Floats, Targets
from cxr_training.measure.paired import Difference, paired_differences
from cxr_training.measure.records import Interval, Resampling
from cxr_training.pages.page import Table, between, number, signed, write_page
from cxr_training.runs import CHECKPOINT, RUN_FILE, spec_of
from pneumoscan.files import write_text, write_whole

SITE_FILES: Final = ("site.json", "site.md", "site.html")
_PARTS: Final = 5
_SEED: Final = 0


@dataclass(frozen=True, slots=True)
class Answers:
    """What a calibration makes of films, (N,) each: probabilities of the positive group, calls, and which are open."""

    probabilities: Floats
    called: Vector
    indeterminate: Vector

    @classmethod
    def of(cls, found: Floats, threshold: float, band: tuple[float, float] | None) -> Answers:
        """Of probabilities of the positive group, by one threshold and band."""
        inside = np.zeros(len(found)) if band is None else ((found >= band[0]) & (found <= band[1])).astype(np.float64)
        return cls(found, (found >= threshold).astype(np.float64), inside)


@dataclass(frozen=True, slots=True)
class SiteFigure:
    """A figure of the model as it was and as it is for the site, each with its 95 % interval."""

    before: float | None
    before_ci: Interval | None
    after: float | None
    after_ci: Interval | None


@dataclass(frozen=True, slots=True)
class Site:
    """`site.json`: what calibrating for a site changes there, its films being judged by what others of it gave."""

    films: int
    patients: int
    positive: int
    data_sha256: str
    weights_sha256: str
    bootstrap: Resampling
    temperature: tuple[float, float]
    thresholds: dict[str, tuple[float, float]]
    band: tuple[tuple[float, float] | None, tuple[float, float]]
    band_rates: tuple[float, float]
    figures: dict[str, SiteFigure]
    differences: dict[str, Difference]


def calibrate_site(
    run: Path,
    data: Callable[[Scheme], Films],
    out: Path,
    device: str,
    fitting: Fitting,
    bootstrap: Bootstrap = STANDARD,
) -> Site:
    """Leave a run with the weights of another and the calibration of a site, and the page that compares them there.

    Parameters
    ----------
    run
        Calibrated; it is left as it is.
    data
        Gives the films of the site, of the model's classes; those of its split val are fitted on.
    out
        The folder of the new run; `pneumoscan export`, `evaluate` and `pack` take it as any other.

    Raises
    ------
    TrainingError, ModelError
        If the run is not calibrated, `out` holds a run, or the films are of one class alone.
    """
    before = spec_of(run)
    if before.indeterminate is None:
        raise TrainingError(f"{run} is not calibrated: run pneumoscan calibrate --run {run} --data DIR first")
    if (out / RUN_FILE).exists():
        raise TrainingError(f"{out} already holds a run: choose another --out")
    films = data(before.scheme)
    films.of("val")  # fails before anything is written
    for name in (CHECKPOINT, *INT8_FILES, RUN_FILE):  # the record last: with it the folder is a run
        if (run / name).is_file():
            write_whole(out / name, partial(shutil.copyfile, run / name))
    fitted = calibrate_run(out, lambda _: films, device, fitting)
    found = compared(before, fitted, fitting, films.digest(), bootstrap)
    write_page(out / "site.md", "site.md.j2", **_values(found))
    write_text(out / "site.json", to_json(found))
    return found


def compared(before: ModelSpec, fitted: Fitted, fitting: Fitting, data_sha256: str, bootstrap: Bootstrap) -> Site:
    """What the calibration of a site changes on its films, each judged by a fit to other patients."""
    records, logits, after = fitted.records, fitted.logits, fitted.calibration
    scheme = before.scheme
    targets = scheme.is_positive(np.array([record.target for record in records], dtype=np.int64))
    patients = [record.patient_id for record in records]
    chances = scheme.probability(softmax(logits, before.temperature))
    one = Answers.of(chances, before.threshold, before.indeterminate)
    two = cross_fitted(logits, records, fitting, scheme)
    sides = [_figures(answers, targets, patients, bootstrap) for answers in (one, two)]
    calls = [(answers.probabilities, answers.called > 0) for answers in (one, two)]
    differences = paired_differences(targets, calls[0], calls[1], patients, bootstrap)
    thresholds = {
        name: (before.operating_points[name], value)
        for name, value in after.operating_points.items()
        if name in before.operating_points
    }
    return Site(
        films=len(records),
        patients=len(set(patients)),
        positive=int(targets.sum()),
        data_sha256=data_sha256,
        weights_sha256=before.weights_sha256,
        bootstrap=bootstrap.record,
        temperature=(before.temperature, after.temperature),
        thresholds=thresholds,
        band=(before.indeterminate, after.indeterminate),
        band_rates=after.band_rates,
        figures={name: SiteFigure(*value, *sides[1][name]) for name, value in sides[0].items()},
        differences={name: differences[name] for name in ("sensitivity", "specificity")},
    )


def cross_fitted(
    logits: Vector, records: Sequence[Record], fitting: Fitting, scheme: Scheme = STANDARD_CLASSES
) -> Answers:
    """Answers to each film by the temperature, threshold and band that the films of other patients give.

    Raises
    ------
    TrainingError
        If the patients are too few for every four parts to have both classes.
    """
    targets = np.array([record.target for record in records], dtype=np.int64)
    names = np.unique([record.patient_id for record in records])
    positives = scheme.is_positive(targets)
    # Patients with a positive film are dealt out first, so that every part gets some.
    ill = {record.patient_id for record, is_positive in zip(records, positives, strict=True) if is_positive}
    drawn = np.random.default_rng(_SEED).permutation(names)
    order = sorted(drawn.tolist(), key=lambda name: name not in ill)
    part_of = {name: place % _PARTS for place, name in enumerate(order)}
    parts = np.array([part_of[record.patient_id] for record in records])
    found = np.zeros((3, len(records)))
    for part in range(_PARTS):
        held, rest = parts == part, np.flatnonzero(parts != part).tolist()
        if not held.any():
            continue
        if not 0 < positives[rest].sum() < len(rest):
            raise TrainingError(f"{len(names)} patients are too few to judge a calibration by: add films to the site")
        others = [records[place] for place in rest]
        weights = None if fitting.balance == "none" else film_weights(others, fitting.balance).astype(np.float64)
        temperature = fit_temperature(logits[rest], targets[rest], weights)
        probabilities = scheme.probability(softmax(logits, temperature))
        points = fit_operating_points(probabilities[rest], positives[rest], weights)
        band = fit_band(probabilities[rest], positives[rest], points, fitting.band_rates)
        answers = Answers.of(probabilities[held], points[DECIDES], band)
        found[:, held] = answers.probabilities, answers.called, answers.indeterminate
    return Answers(*found)


Value = tuple[float | None, Interval | None]


def _figures(answers: Answers, targets: Targets, patients: Sequence[str], bootstrap: Bootstrap) -> dict[str, Value]:
    """Shares by the calls, calibration by the probabilities."""
    calls = group_figures(targets, answers.called, patients, 0.5, bootstrap, ())
    chances = group_figures(targets, answers.probabilities, patients, 0.5, bootstrap, ())
    unsure = group_figures(np.ones_like(targets), answers.indeterminate, patients, 0.5, bootstrap, ())
    return {
        "sensitivity": (calls.sensitivity, calls.sensitivity_ci),
        "specificity": (calls.specificity, calls.specificity_ci),
        "indeterminate": (unsure.sensitivity, unsure.sensitivity_ci),
        "brier": (chances.brier, chances.brier_ci),
        "ece": (chances.ece, chances.ece_ci),
    }


_NAMES: Final = {
    "sensitivity": "sensitivity",
    "specificity": "specificity",
    "indeterminate": "called indeterminate",
    "brier": "Brier score",
    "ece": "ECE",
}


def _values(found: Site) -> dict[str, object]:
    """What the template of the page is given."""
    rows = []
    for name, one in found.figures.items():
        change = found.differences.get(name)
        rows.append(
            (
                _NAMES[name],
                f"{number(one.before)} ({between(one.before_ci)})",
                f"{number(one.after)} ({between(one.after_ci)})",
                "-" if change is None else f"{signed(change.difference)} ({between(change.ci)})",
            )
        )
    band, wide = found.band
    set_to = [
        *((f"threshold {name}", number(one), number(two)) for name, (one, two) in found.thresholds.items()),
        ("temperature", number(found.temperature[0]), number(found.temperature[1])),
        ("indeterminate band", "-" if band is None else between(band), between(wide)),
    ]
    return {
        "found": found,
        "figures": Table(("figure", "before", "after", "after - before"), tuple(rows)),
        "set_to": Table(("set to", "before", "after"), tuple(set_to)),
        "parts": _PARTS,
    }
