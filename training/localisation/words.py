"""The figures of a model on boxes as sentences, by rules that are written down here.

What the film's own map does beyond the maps of other patients is judged by the interval of the difference alone: wholly
above 0, wholly below 0, or neither, which is never taken for a proof that nothing is there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from training.report import cell

_ASKED: Final = {
    "pointing": ("The map has its maximum in a box on a share of", "of these films"),
    "energy": ("Of the evidence for PNEUMONIA a share of", "lies in boxes"),
}


def localisation_words(figures: Mapping[str, Any]) -> list[str]:
    """What the figures say, one paragraph for each question.

    Parameters
    ----------
    figures
        As `training.localisation.figures.localisation_figures` makes them.
    """
    group = figures["all"]
    words = [
        f"{group['films']} of the {figures['positive']} films of PNEUMONIA that were measured have boxes around "
        f"opacities, {group['boxes']} boxes on films of {group['patients']} patients. They take a share of "
        f"{cell(group, 'area')} of the film: a map of one value everywhere would have that much of its evidence in "
        "them, and pointing at random would hit as often."
    ]
    words += [
        f"{start} {cell(group, name)} {end}; with maps of other patients in the place of the film's own it is "
        f"{cell(group, f'{name}_swapped')}. {_judged(group, f'{name}_over_swapped')} One map for all films, the mean "
        f"of theirs, comes to {cell(group, f'{name}_mean_map')}."
        for name, (start, end) in _ASKED.items()
    ]
    if group["without_evidence"]:
        words.append(f"On {group['without_evidence']} of these films the map has no evidence for PNEUMONIA anywhere.")
    return words


def _judged(group: Mapping[str, Any], name: str) -> str:
    ci = group[f"{name}_ci"]
    if group[name] is None or ci is None:
        return "There is no interval of the difference to judge by."
    difference = f"The difference is {group[name]:+.3f} ({ci[0]:+.3f} to {ci[1]:+.3f})"
    if ci[0] > 0:
        return f"{difference}: on the film itself the model saw something of where its opacities are."
    if ci[1] < 0:
        return f"{difference}: maps of other patients fit the boxes better than the film's own."
    return f"{difference}, which cannot be told from 0: it may look there on every film."
