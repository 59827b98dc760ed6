"""The figures of an evaluation as a page to read."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from cxr.spec import ModelSpec
from training.runs import write_text

_COLUMNS: Final = ("auroc", "sensitivity", "specificity", "accuracy", "brier", "ece")
_ORIGINS: Final = {
    "imagenet": "ImageNet (torchvision's default weights)",
    "random": "**random numbers**: no pretrained weights could be had. The figures show that everything works, not how "
    "well a model can do",
}


def write_report(path: Path, spec: ModelSpec, metrics: dict[str, Any]) -> None:
    """Write `report.md` beside the figures it shows.

    Parameters
    ----------
    metrics
        As `training.evaluate.evaluate` makes them.
    """
    overall = metrics["overall"]
    origin = _ORIGINS.get(spec.pretrained, f"the file {spec.pretrained.removeprefix('file:')}")
    lines = [
        f"# {spec.arch}, {metrics['split']} films",
        "",
        "Research use only. Not a diagnosis.",
        "",
        f"- Backbone, frozen, from {origin}.",
        f"- {overall['films']} films, {overall['positive']} of them PNEUMONIA.",
        f"- Called PNEUMONIA at a probability of {spec.threshold:.3f} and above ({spec.operating_point}, fitted on "
        "validation).",
        f"- Weights sha256 `{spec.weights_sha256}`, data sha256 `{spec.data_sha256}`.",
    ]
    if metrics["synthetic"]:
        lines += ["", "**Every film is synthetic.** These figures say nothing about patients."]
    lines += ["", f"| films | n | positive | {' | '.join(_COLUMNS)} |", f"|---|{'---:|' * (len(_COLUMNS) + 2)}"]
    for name, group in {"all": overall, **metrics["groups"]}.items():
        cells = [_figure(group[column]) for column in _COLUMNS]
        lines.append(f"| {name} | {group['films']} | {group['positive']} | {' | '.join(cells)} |")
    if screen := metrics["screen"]:
        lines += [
            "",
            f"Of these {screen['films']} frontal films, {screen['unlike_frontal']} do not look frontal to the model's "
            f"screen and {screen['inverted']} look inverted.",
        ]
    lines += [
        "",
        "A dash stands where a group lacks a class the figure needs. ECE: 15 bins of equal width.",
        "",
        "![ROC curve](roc.png) ![Reliability](reliability.png) ![Confusion matrix](confusion.png)",
        "",
    ]
    write_text(path, "\n".join(lines))


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
