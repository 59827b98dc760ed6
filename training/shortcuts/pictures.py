"""Pictures of an audit: what each reading sees of a film, and how well each does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from matplotlib.figure import Figure

from cxr.films.film import Pixels
from training.figures import save
from training.shortcuts.films import (
    COARSE,
    READINGS,
    SIDE,
    border_blanked,
    border_of,
    centre_blanked,
    coarse_values,
    squashed,
)
from training.shortcuts.measure import ABOVE, BELOW

VIEWS: Final = "audit-views.png"
AUROCS: Final = "audit-auroc.png"
MOST_SOURCES: Final = 6  # drawn beside all films, those with the most films
_TOLD: Final = (ABOVE, BELOW)
_UNSEEN: Final = (210, 225, 250)


def plot_seen(path: Path, film: Pixels) -> None:
    """One film as each reading sees it."""
    grid = squashed(film)
    cells = np.repeat(grid[..., None], 3, axis=2)
    cells[~border_of(SIDE, SIDE)] = _UNSEEN
    aspect = film.shape[0] / film.shape[1]
    panels = (
        ("whole film", film, 1.0),
        (READINGS["pixels"], coarse_values(grid[None]).reshape(COARSE, COARSE), aspect),
        (f"{READINGS['border']}, {SIDE} x {SIDE}", cells, aspect),
        ("centre blanked", centre_blanked(film), 1.0),
        ("border blanked", border_blanked(film), 1.0),
    )
    figure = Figure(figsize=(2.6 * len(panels), 2.6 * aspect + 0.35), layout="constrained")
    for (title, picture, stretched), place in zip(panels, figure.subplots(1, len(panels)), strict=True):
        place.imshow(picture, cmap="gray", vmin=0, vmax=255, aspect=stretched, interpolation="nearest")
        place.set_title(title, fontsize=10)
        place.set_xticks([])
        place.set_yticks([])
    save(figure, path)


def plot_aurocs(path: Path, readings: Mapping[str, Any], sources: Sequence[str]) -> None:
    """AUROC of each reading with its interval, over all films and within the sources that have both classes.

    A hollow point is one whose interval holds 0.5, or that has none to judge by.
    """
    names = [name for name in READINGS if name in readings]
    films = {source: readings["model"]["groups"].get(f"source={source}") for source in sources}
    shown = sorted(
        (s for s, one in films.items() if one and one["auroc"] is not None), key=lambda s: -films[s]["films"]
    )
    groups = ["all films", *sorted(shown[:MOST_SOURCES])]
    figure = Figure(figsize=(8.4, 1.1 + len(names) * (0.24 * len(groups) + 0.22)), layout="constrained")
    axes = figure.subplots()
    for g, group in enumerate(groups):
        color = "black" if g == 0 else f"C{g - 1}"
        axes.plot([], [], "o-", color=color, label=group)
        for row, name in enumerate(names):
            one = readings[name]["overall"] if g == 0 else readings[name]["groups"][f"source={group}"]
            if one["auroc"] is None:
                continue
            y = row + (g - (len(groups) - 1) / 2) * 0.8 / len(groups)
            if one["auroc_ci"]:
                axes.plot(one["auroc_ci"], [y, y], color=color, linewidth=1.6)
            hollow = one["verdict"] not in _TOLD
            axes.plot(one["auroc"], y, "o", color=color, markerfacecolor="white" if hollow else color)
    axes.axvline(0.5, color="grey", linestyle=":", linewidth=1.2, label="chance")
    for row in range(1, len(names)):
        axes.axhline(row - 0.5, color="0.9", linewidth=0.8, zorder=0)
    axes.set_yticks(range(len(names)), [READINGS[name] for name in names])
    axes.set_ylim(len(names) - 0.5, -0.65)
    axes.set_xlabel("AUROC, 95 % interval; hollow: not told from chance")
    figure.legend(loc="outside upper center", ncols=4, frameon=False, fontsize=9)
    save(figure, path)
