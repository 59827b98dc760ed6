"""The lines TorchServe reads: as its own parser takes them, with the labels that metrics.yaml declares."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from ts.metrics.caching_metric import CachingMetric
from ts.metrics.metric_type_enum import MetricTypes

from cxr.serving.metrics import SERIES, SIGNALS, BatchMetrics, MetricLines

DECLARED = yaml.safe_load((Path(__file__).parents[3] / "metrics.yaml").read_text(encoding="utf-8"))["model_metrics"]
# org.pytorch.serve.metrics.Metric of TorchServe 0.12.0
PATTERN = re.compile(
    r"\s*([\w\s]+)\.([\w\s]+):([0-9\-,.e]+)\|#([^|]*)(\|#type:([^|,]+))?\|#hostname:([^,]+),([^,]+)(,(.*))?", re.ASCII
)


def everything() -> BatchMetrics:
    """One value of every series."""
    measured = BatchMetrics()
    for name, series in SERIES.items():
        # A pattern stands for what the archive says: one text of hexadecimal digits fits each.
        labels = [values[-1] if isinstance(values, tuple) else "a" * 64 for values in series.labels.values()]
        labels = [text if name != "cxr_model_info" or at == 0 else "openvino" for at, text in enumerate(labels)]
        if series.kind == "counter":
            measured.count(name, *labels)
        else:
            measured.observe(name, 0.25, *labels)
    return measured


def as_torchserve(line: str) -> tuple[str, dict[str, str], float]:
    """Name, labels and value of a line, found as TorchServe finds them: the labels by their places."""
    assert line.startswith("[METRICS]")
    found = PATTERN.fullmatch(line.removeprefix("[METRICS]"))
    assert found, line
    name, kind = found[1], found[6].lower()
    pairs = [pair.split(":") for pair in found[4].split(",")]
    declared = next(one["dimensions"] for one in DECLARED[kind] if one["name"] == name)
    assert [pair[0] for pair in pairs] == declared
    return name, dict(pairs), float(found[3])


def test_metrics_yaml_declares_the_series_of_the_worker_and_no_other() -> None:
    declared = {
        one["name"]: (kind, one["unit"], one["dimensions"])
        for kind, metrics in DECLARED.items()
        for one in metrics
        if one["name"].startswith("cxr_")
    }
    assert declared == {
        name: (series.kind, series.unit, ["ModelName", "model_version", *series.labels])
        for name, series in SERIES.items()
    }


def test_torchserve_reads_every_line() -> None:
    stream = io.StringIO()
    MetricLines("pneumonia", "1.0.0", stream).write(everything())
    read = [as_torchserve(line) for line in stream.getvalue().splitlines()]
    assert {name for name, _, _ in read} == set(SERIES)
    for name, labels, value in read:
        assert (labels["ModelName"], labels["model_version"]) == ("pneumonia", "1.0.0")
        assert value == (1.0 if SERIES[name].kind == "counter" else 0.25)


def test_a_line_is_the_one_that_torchserves_own_metrics_write(caplog: pytest.LogCaptureFixture) -> None:
    measured = BatchMetrics()
    measured.observe("cxr_drift_psi", 0.5, SIGNALS[0])
    ours = MetricLines("pneumonia", "1.0.0", io.StringIO()).text(measured, 7)
    theirs = CachingMetric("cxr_drift_psi", "Ratio", ["ModelName", "model_version", "signal"], MetricTypes.GAUGE)
    with caplog.at_level("INFO"):
        theirs.add_or_update(0.5, ["pneumonia", "1.0.0", SIGNALS[0]])
    assert re.sub(r":0\.50+\|", ":0.5|", re.sub(r",\d+$", "", ours.strip())) == re.sub(
        r",\d+$", "", caplog.messages[-1]
    )


@pytest.mark.parametrize("value", [0.0, 1e-9, 3.3e-5, 0.1, 12345678.0, 1e15])
def test_small_and_large_values_are_read_back(value: float) -> None:
    measured = BatchMetrics()
    measured.observe("cxr_decode_seconds", value)
    line = MetricLines("pneumonia", "1.0.0", io.StringIO()).text(measured, 7).strip()
    assert as_torchserve(line)[2] == pytest.approx(value, abs=1e-7)


def test_a_version_cannot_shift_one_label_into_another() -> None:
    text = MetricLines("pneu:monia", "1.0,label:X|#\n[METRICS]", io.StringIO()).text(everything(), 7)
    for line in text.splitlines():
        assert as_torchserve(line)[1]["model_version"] == "1.0_label_X___[METRICS]"


class Closed(io.StringIO):
    """A pipe that nobody reads any more."""

    def write(self, text: str, /) -> int:
        raise BrokenPipeError(len(text))


@pytest.mark.parametrize("stream", [Closed()])
def test_a_pipe_that_is_closed_costs_no_answer(stream: Any) -> None:
    MetricLines("pneumonia", "1.0.0", stream).write(everything())


def test_a_batch_is_one_write() -> None:
    writes: list[str] = []

    class Stream(io.StringIO):
        def write(self, text: str, /) -> int:
            writes.append(text)
            return len(text)

    MetricLines("pneumonia", "1.0.0", Stream()).write(everything())
    assert len(writes) == 1
    assert writes[0].count("[METRICS]") == len(SERIES)
