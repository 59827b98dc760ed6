"""The parts of a model card about the model itself: what it is and is for, how it decides, what it was trained on."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from cxr.model.spec import CLASSES, ModelSpec
from cxr.serving.card import INTENDED_USE, OUT_OF_SCOPE, views
from cxr_training.data.records import SPLITS
from cxr_training.measure.calibration import POINTS
from cxr_training.pages.card_facts import Facts, called
from cxr_training.pages.page import Block, Bullets, Code, Heading, Strong, Table, Words, text
from cxr_training.pages.report import number, origin_of

_NOT_STATED: Final = "not stated"  # as cxr_training.data.prepare.output has it
_NON_COMMERCIAL: Final = re.compile(r"(?<![a-z0-9])nc(?![a-z0-9])|non-?\s?commercial", re.IGNORECASE)
_RESIZE: Final = {"squash": "the whole film is resized to a square, its aspect is not kept and nothing is cut off"}
_TRAINED: Final = {
    "head": "The head alone was trained, on features of the frozen backbone",
    "layer4": "The head was trained, then layer4 and the head",
    "all": "The head was trained, then all layers",
}
_BALANCE: Final = {
    "none": "each film counts the same",
    "class": "both classes weigh the same",
    "source": "both classes weigh the same, and so do the sources within a class",
}


def details(facts: Facts) -> list[Block]:
    """What the model is and what made it."""
    spec = facts.spec
    preprocessing = spec.preprocessing
    mean, std = (", ".join(f"{value:g}" for value in values) for values in (preprocessing.mean, preprocessing.std))
    items: list[tuple[Words, ...]] = [
        (f"{spec.arch}, a convolutional network with an output for each of {CLASSES[0]} and {CLASSES[1]}.",),
        origin_of(spec),
        *_training(spec.training),
        (
            f"It sees {preprocessing.size} x {preprocessing.size} pixels: {_RESIZE[preprocessing.resize]}. Grey values "
            f"in 0-1, in three equal channels, less {mean} and divided by {std}.",
        ),
        ("The map that explains an answer is exact: the mean of its cells and a constant make the logit.",),
        ("Code version PneumoScan ", Code(spec.code_version), *_versions(spec.training), "."),
        ("Weights sha256 ", Code(spec.weights_sha256), ", data sha256 ", Code(spec.data_sha256), "."),
    ]
    return [Bullets(tuple(items))]


def _training(made: Mapping[str, Any]) -> list[tuple[Words, ...]]:
    if "best_epoch" not in made:
        return []
    trainable = made.get("trainable", "head")
    epochs = made.get("head" if trainable == "head" else "tuning", {}).get("epochs")
    upto = "" if epochs is None else f", for up to {epochs} epochs"
    loss = f", {number(made['val_loss'])}" if "val_loss" in made else ""
    what = _TRAINED.get(trainable, f"{trainable} was trained")
    said = f"{what}{upto}; epoch {made['best_epoch']} is kept, with the lowest loss on the validation films{loss}."
    more: list[tuple[Words, ...]] = [(said,)]
    if turned := made.get("augmentation"):
        mirrored = "every second one was mirrored" if turned["flip"] else "none was mirrored"
        balance = _BALANCE.get(made.get("balance", "none"), made.get("balance"))
        more.append(
            (
                f"Stored augmented views of each training film: {made.get('views', 0)}, turned by at most "
                f"{turned['max_degrees']:g} degrees; {mirrored}. In training {balance}. Seed {made.get('seed', '-')}.",
            )
        )
    return more


def _versions(made: Mapping[str, Any]) -> list[Words]:
    versions: list[Words] = []
    for name, version in sorted(made.get("versions", {}).items()):
        versions += [f", {name} ", Code(str(version))]
    return versions


def use(facts: Facts) -> list[Block]:
    """What the model is for and what it is not for, in the words of the server's card."""
    return [
        text(INTENDED_USE),
        text(f"It is for frontal films alone: {views(facts.spec)}."),
        text(Strong("What it is not for:")),
        Bullets(tuple((one,) for one in OUT_OF_SCOPE)),
    ]


def decisions(facts: Facts) -> list[Block]:
    """How probabilities are made, and where they are cut."""
    spec = facts.spec
    if spec.indeterminate is None:
        command = Code("python -m training.calibrate --run RUN --data DATA")
        return [text(Strong("Not calibrated"), ": run ", command, " and export again.")]
    low, high = spec.indeterminate
    return [
        text(
            f"The logits are divided by a temperature of {number(spec.temperature)} before they become probabilities; "
            "it is the one with the lowest log loss on the validation films. Thresholds were fitted there too, none on "
            "a test film. They hold for films like those and for the share of PNEUMONIA among them: fit them anew for "
            "other films."
        ),
        _points(spec),
        text(
            f"A probability of PNEUMONIA at and above {number(spec.threshold)} ({spec.operating_point}) is called "
            f"{CLASSES[1]}, any other {CLASSES[0]}. From {number(low)} to {number(high)} the answer is marked as "
            f"indeterminate{_band(spec)}."
        ),
    ]


def _band(spec: ModelSpec) -> str:
    """Which thresholds the indeterminate band lies between, where they are its ends."""
    ends = ("sensitivity_95", "specificity_95")
    known = sorted(spec.operating_points[name] for name in ends if name in spec.operating_points)
    return f": the band between {' and '.join(ends)}" if tuple(known) == spec.indeterminate else ""


def _points(spec: ModelSpec) -> Table:
    rows = [
        (f"{name}, which decides" if name == spec.operating_point else name, number(value), POINTS.get(name, "-"))
        for name, value in spec.operating_points.items()
    ]
    return Table(("operating point", "threshold", "how it was fitted"), tuple(rows))


def training_data(facts: Facts) -> list[Block]:
    """Where the films come from and what their licences ask for."""
    data: Sequence[Mapping[str, Any]] | None = facts.spec.training.get("data")
    if not data:
        return [text("The run does not say where its films come from: train again, and it will.")]
    labels = [label for label in CLASSES if any(label in one["films"][split] for one in data for split in SPLITS)]
    header = ("source", "label source", "licence", *(f"{split} {label}" for split in SPLITS for label in labels))
    rows = [
        (
            *(one[column] or _NOT_STATED for column in ("source", "label_source", "licence")),
            *(str(one["films"][split].get(label, 0)) for split in SPLITS for label in labels),
        )
        for one in data
    ]
    return [
        text(
            f"Films by split and label. The model was fitted on the {called('train')}; the {called('val')} chose the "
            "epoch, temperature and thresholds. All films of a patient are in one split."
        ),
        Table(header, tuple(rows)),
        Heading("Licences", 3),
        Bullets(tuple(_licences(data))),
    ]


def _licences(data: Sequence[Mapping[str, Any]]) -> list[tuple[Words, ...]]:
    items: list[tuple[Words, ...]] = []
    for one in data:
        if not _NON_COMMERCIAL.search(one["licence"]):
            continue
        fitted = any(one["films"][split].get(label) for split in ("train", "val") for label in CLASSES)
        into = "went into this model" if fitted else "were only measured on"
        items.append(
            (
                Strong("Not for commercial use"),
                f": so says the licence of {one['source'] or 'a source that is not named'} ({one['licence']}), whose "
                f"films {into}.",
            )
        )
    if any(one["licence"] in ("", _NOT_STATED) for one in data):
        items.append(
            (
                f"'{_NOT_STATED}': the manifest does not say. Nothing here then says what may be done with these films "
                "or with a model made from them; ask who holds them.",
            )
        )
    items.append(("The attribution that a licence asks for is the job of who hands the model or its films on.",))
    return items
