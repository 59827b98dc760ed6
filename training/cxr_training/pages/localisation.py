"""Where the model looked, to read: the figures on boxes in plain words, and films with their boxes and maps."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from cxr.films.film import Pixels
from cxr.predict import Prediction
from cxr_training.data.marked import Marked
from cxr_training.measure.localisation import Looks, peak, places
from cxr_training.measure.metrics import Floats
from cxr_training.pages.most_confident import GAP, save_picture, shown_size, side_by_side
from cxr_training.pages.page import Block, Code, Heading, Picture, Pictures, Table, text
from cxr_training.pages.report import Part, cell

FOLDER: Final = "localisation"
PAGE: Final = "localisation.md"
MOST: Final = 6  # pictures of each kind
NO_PROOF: Final = (
    "A map in the box is no proof that the opacity made the call, and a map beside it can follow another sign of the "
    "same illness. The map is coarse: its cells are far larger than the edge of a box."
)
_ROWS: Final = (
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


def localisation_part(
    out: Path,
    looks: Looks | None,
    figures: Mapping[str, Any] | None,
    cam_scale: float,
    films: Mapping[str, Pixels],
) -> list[Part]:
    """Draw films into ``out/localisation`` and give the part of the report, none where no film has a box.

    Pictures and page of an earlier evaluation are taken away, so that none of another model's are left.

    Parameters
    ----------
    films
        At least those that are shown, by name.
    """
    for kind in ("highest", "lowest"):
        for old in (out / FOLDER).glob(f"{kind}-*.jpg"):
            old.unlink()
    (out / PAGE).unlink(missing_ok=True)
    if looks is None or figures is None:
        return []
    return [Part("Does it look at the right place?", PAGE, _section(figures), _examples(out, looks, cam_scale, films))]


def localisation_table(figures: Mapping[str, Any]) -> Table:
    """The figures over all films with boxes, and over those called PNEUMONIA where there are any."""
    everything, called = figures["all"], figures["called"]
    header = ["figure", f"with boxes, n = {everything['films']}"]
    header += [f"of these called PNEUMONIA, n = {called['films']}"] if called else []
    groups = [everything, called] if called else [everything]
    counts = [
        (title, *(str(group[name]) for group in groups))
        for title, name in (
            ("patients", "patients"),
            ("boxes", "boxes"),
            ("films without evidence for PNEUMONIA", "without_evidence"),
        )
    ]
    rows = [(title, *(cell(group, name) for group in groups)) for title, name in _ROWS]
    return Table(tuple(header), (*rows, *counts))


def _section(figures: Mapping[str, Any]) -> tuple[Block, ...]:
    everything = figures["all"]
    blocks: list[Block] = [
        text(
            f"{everything['films']} of the {figures['positive']} films of PNEUMONIA have boxes around opacities (",
            Code(figures["boxes_from"]),
            "). Here the map of PNEUMONIA minus NORMAL is held against them. Pointing is the share of films whose map "
            "has its maximum in a box, with no tolerance around it. Energy is the share of the evidence for PNEUMONIA "
            "that lies in boxes, averaged over films; evidence is what a cell of the map says by itself, where that is "
            "for PNEUMONIA. A film without any counts as 0.",
        ),
        localisation_table(figures),
        text(
            "Three things that need no look at the film show what this is worth. Maps of other patients in the place "
            "of the film's own: the difference is what the model saw on the film itself, and only an interval above 0 "
            "says that it saw something. One map for all films, the mean of theirs: it knows where this model "
            "looks on average. And the area of the boxes: a map of one value everywhere has it as its energy, and "
            "pointing at random would hit as often. Brackets and † are explained under 'What the intervals are'; the "
            "mean map is held fixed."
        ),
        text(NO_PROOF),
    ]
    if figures["called"] is None:
        blocks.append(text("None of these films was called PNEUMONIA."))
    if count := figures["normal_with_boxes"]:
        blocks.append(text(f"{count} films labelled NORMAL have boxes and are left out: label or boxes are wrong."))
    return tuple(blocks)


def extremes(energy: Floats) -> tuple[list[int], list[int]]:
    """Places of the highest, the highest first, and of the lowest, the lowest first; none is in both."""
    order = np.argsort(energy, kind="stable")[::-1].tolist()
    highest = order[: min(MOST, (len(order) + 1) // 2)]
    return highest, order[len(highest) :][::-1][:MOST]


def _examples(out: Path, looks: Looks, cam_scale: float, films: Mapping[str, Pixels]) -> tuple[Block, ...]:
    constant = looks.predictions[0].explain("contrast").bias
    page: list[Block] = [
        text(
            "Left the film, right the same film under the map of the logit, PNEUMONIA minus NORMAL: red is evidence "
            "for PNEUMONIA, blue for NORMAL, on one scale for all films. White frames are the boxes, the cross is the "
            f"maximum of the map. Energy counts what is above 0 once the model's constant, {constant:+.2f}, is added "
            "to the map."
        ),
        text("This page shows films: keep it as carefully as them."),
    ]
    energy = np.diagonal(looks.energy)
    for kind, chosen in zip(("highest", "lowest"), extremes(energy), strict=True):
        pictures: list[Picture] = []
        for number, i in enumerate(chosen, 1):
            film, prediction = looks.films[i], looks.predictions[i]
            name = f"{FOLDER}/{kind}-{number:02}.jpg"
            save_picture(with_boxes(film, films[film.record.name], prediction, cam_scale), out / name)
            evidence = f"energy {energy[i]:.3f}" if looks.has_evidence[i] else "no evidence for PNEUMONIA"
            said = f"{number}. {evidence}, maximum in {'a' if looks.pointing[i, i] else 'no'} box"
            words = f"{said}, P(PNEUMONIA) {prediction.probabilities[1]:.3f}: "
            pictures.append(Picture(name, f"{kind} energy {number}: film and map", (words, Code(film.record.name))))
        page.append(Heading(f"The {kind} energy", 3))
        page.append(Pictures(tuple(pictures)) if pictures else text("There are none."))
    return tuple(page)


def with_boxes(film: Marked, pixels: Pixels, prediction: Prediction, cam_scale: float) -> npt.NDArray[np.uint8]:
    """Film and map side by side, (H, W, 3), with the boxes on both and a cross at the maximum of the map."""
    grid = prediction.explain("contrast").grid
    height, width = shown_size(pixels)
    picture = Image.fromarray(side_by_side(pixels, grid, cam_scale))
    draw = ImageDraw.Draw(picture)
    across, down = width / film.width, height / film.height
    for start in (0, width + GAP):
        for box in film.boxes:
            left, top = start + box.x * across, box.y * down
            right = max(left, start + (box.x + box.width) * across - 1)
            bottom = max(top, (box.y + box.height) * down - 1)
            draw.rectangle((left - 1, top - 1, right + 1, bottom + 1), outline=(0, 0, 0), width=4)
            draw.rectangle((left, top, right, bottom), outline=(255, 255, 255), width=2)
    row, column = peak(grid)
    x, y = width + GAP + places(grid.shape[1], width)[column], places(grid.shape[0], height)[row]
    for colour, line in (((0, 0, 0), 5), ((255, 255, 255), 2)):
        draw.line((x - 8, y, x + 8, y), fill=colour, width=line)
        draw.line((x, y - 8, x, y + 8), fill=colour, width=line)
    return np.asarray(picture)


_ASKED: Final = {
    "pointing": ("The map has its maximum in a box on a share of", "of these films"),
    "energy": ("Of the evidence for PNEUMONIA a share of", "lies in boxes"),
}


def localisation_words(figures: Mapping[str, Any]) -> list[str]:
    """What the figures say, one paragraph for each question.

    Parameters
    ----------
    figures
        As `cxr_training.measure.localisation.localisation_figures` makes them.
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
