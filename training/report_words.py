"""What the pages about a model say in the same words: where it comes from, how intervals were made."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from cxr.model.spec import ModelSpec
from training.intervals import FEWEST_PATIENTS, LEVEL, MOST_UNDEFINED
from training.page import Block, Strong, Words, text

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
