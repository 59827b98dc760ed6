"""Training beside the well-known tutorial's loop: what a hundred epochs cost, and how good the result is.

Costs are measured on the given films, in turns, each way in batches of its own size and both in exact float32, and
carried on to all films and to a hundred epochs. The results are compared on the same training and test films, at most
some of each source and label.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch

from benchmarks.raw import machine
from benchmarks.train_cost import cost
from benchmarks.train_result import FIGURES, result
from cxr_training.data.records import Films
from cxr_training.fit.processes import Processes
from cxr_training.fit.settings import TrainSettings
from cxr_training.fit.weights import NORMALISATIONS


def benchmark_training(
    films: Films, settings: TrainSettings, device: torch.device, *, rounds: int, epochs: int, per_group: int
) -> dict[str, Any]:
    """Both parts, as JSON values.

    Parameters
    ----------
    settings
        Of our training; the head alone is trained.
    rounds
        Of timing, each of one batch in every way.
    epochs
        Of the tutorial's loop in the comparison of results; 0 leaves that part out.
    per_group
        Films of each source and label in a split, at most, in the comparison of results.
    """
    preprocessing = dataclasses.replace(NORMALISATIONS[settings.normalisation], size=settings.size)
    processes = Processes(device)
    found: dict[str, Any] = {
        "machine": machine(device),
        "arch": settings.arch,
        "cost": cost(films, settings, preprocessing, processes, rounds),
    }
    if epochs:
        found["result"] = result(films, settings, preprocessing, processes, epochs, per_group)
    return found


def table_of(measured: dict[str, Any]) -> str:
    """Both parts as text."""
    costs = measured["cost"]
    lines = [
        f"{measured['arch']}, medians of {costs['rounds']} rounds in turn, ms for a film",
        *(f"  {name.replace('_', ' '):20s} {value:10.2f}" for name, value in costs["ms_per_film"].items()),
        f"  head, {costs['epochs']} epochs, once {costs['head_s']:8.2f} s",
        f"carried on to {costs['films']['train']} training films and {costs['epochs']} epochs:",
        f"  tutorial {costs['tutorial_s']} s, here {costs['ours_s']} s ({costs['views']} augmented views): "
        f"{costs['ratio']:.0f} times as fast ({costs['ratio_range'][0]:.0f} to {costs['ratio_range'][1]:.0f})",
    ]
    if "result" not in measured:
        return "\n".join(lines)
    found = measured["result"]
    films, theirs = found["films"], found["tutorial"]
    lines += [
        f"{films['train']} training and {films['test']} test films; the tutorial's loop for {theirs['epochs']} epochs",
        f"in steps of {theirs['batch_size']} films, its rate {theirs['last_rate']:.0e} in the last of them; it keeps "
        f"epoch {theirs['kept_epoch']}, the most accurate on the test films",
        f"  {'AUROC':44s} {'n':>5s} {'tutorial':>9s} {'here':>7s}  difference (95 %)",
    ]
    for name, row in found["groups"].items():
        figure = next(name for name in FIGURES if row["tutorial"][name] is not None)
        label = name if figure == "auroc" else f"{name} ({figure})"
        difference = row[figure]
        between = "-" if difference["ci"] is None else f"{difference['ci'][0]:+.3f} to {difference['ci'][1]:+.3f}"
        lines.append(
            f"  {label:44s} {row['films']:5d} {row['tutorial'][figure]:9.3f} {row['ours'][figure]:7.3f}  "
            f"{difference['difference']:+.3f} ({between})"
        )
    return "\n".join(lines)
