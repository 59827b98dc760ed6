"""Latency over load, drawn."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from matplotlib.figure import Figure

_PERCENTILES: Final = (("p50", "#1b6ca8", "o"), ("p95", "#d98324", "s"), ("p99", "#b33a3a", "^"))


def plot_load(result: Mapping[str, Any], path: Path) -> None:
    """Draw a result of `benchmark_serve`: latency over the offered rate, and what was answered and refused.

    The upper part has the latency of the answered films on a logarithmic axis, the lower part the rates.
    """
    rows = sorted(result["open"], key=lambda row: float(row["offered_per_s"]))
    capacity = max(float(row["films_per_s"]) for row in result["closed"])
    offered = [float(row["offered_per_s"]) for row in rows]
    figure = Figure(figsize=(7.2, 6.4), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    for name, colour, marker in _PERCENTILES:
        points = [(x, row["latency_ms"][name]) for x, row in zip(offered, rows, strict=True) if row["latency_ms"]]
        if points:
            upper.plot(*zip(*points, strict=True), color=colour, marker=marker, label=f"answered, {name}")
    refusals = [(x, row["refused"]["latency_ms"]) for x, row in zip(offered, rows, strict=True)]
    points = [(x, found["p99"]) for x, found in refusals if found]
    if points:
        upper.plot(*zip(*points, strict=True), color="#555555", marker="x", linestyle=":", label="refused, p99")
    upper.set_yscale("log")
    upper.set_ylabel("latency from when it was due, ms")
    upper.set_title(f"Latency over load, {result['machine']['processor']}, {result['machine']['cores']} cores")
    lower.plot(offered, [float(row["films_per_s"]) for row in rows], color="#1b6ca8", marker="o", label="answered")
    refused = [row["refused"]["count"] / max(row["sent"], 1) * x for x, row in zip(offered, rows, strict=True)]
    lower.plot(offered, refused, color="#555555", marker="x", linestyle=":", label="refused")
    lower.set_ylabel("films/s")
    lower.set_xlabel("offered films/s (open loop, Poisson arrivals)")
    for axes in (upper, lower):
        axes.axvline(capacity, color="black", linewidth=0.8, linestyle="--", label="capacity (closed loop)")
        axes.grid(alpha=0.3, which="both")
        axes.legend(fontsize=8)
    figure.savefig(path, dpi=150, format="png")
