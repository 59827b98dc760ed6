"""The metrics of a worker, and its output, which TorchServe reads as metrics.

The names stand here, and the only values a label may have: a label never holds anything that came with a request, and
anything else is refused here rather than sent to a monitoring system that keeps it for years. `MetricLines` writes
them to standard output. TorchServe parses each line there, so no other may appear: `quiet_libraries` sees to the
libraries, whose warnings can quote a film's tags.
"""

from __future__ import annotations

import itertools
import logging
import math
import re
import socket
import time
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Lock
from types import MappingProxyType
from typing import Final, TextIO

from pydicom import config

from cxr.errors import CODES
from cxr.films.film import FLAGS
from cxr.films.sandbox_walls import WALLS
from cxr.model.classes import CLASSES
from cxr.serving.request import VIEWS

OUTCOMES: Final = ("ok", "partial", "refused", "failed")
OK: Final = "OK"  # the code of a request that got its answer
FORMATS: Final = ("JPEG", "PNG", "DICOM", "TIFF", "JPEG2000")
SIGNALS: Final = ("score", "mean_grey", "contrast", "sharpness", "border", "aspect")
NOT_DECLARED: Final = "none"  # the view of a request that declares none
# TorchServe 0.12 has one set of buckets for all histograms, up to 10 s. These are of a histogram written as counters,
# which its readers take for one: ten bounds a decade, so that a quantile between two of them is right to some percent.
_R10: Final = ("1", "1.25", "1.6", "2", "2.5", "3.15", "4", "5", "6.3", "8")
BOUNDS: Final = (*(f"{float(step) * 10.0**power:g}" for power in (-2, -1, 0, 1) for step in _R10), "100", "+Inf")

Key = tuple[str, tuple[str, ...]]  # a name and the values of its labels, in their order


@dataclass(frozen=True, slots=True)
class Series:
    """One metric: ``counter``, ``gauge`` or ``histogram``, its unit, and the values each of its labels may have.

    A pattern instead of values is for what the archive says of its model; nothing of a request goes there.
    """

    kind: str
    unit: str
    labels: Mapping[str, tuple[str, ...] | re.Pattern[str]] = field(default_factory=dict)


SERIES: Final[Mapping[str, Series]] = MappingProxyType(
    {
        "cxr_requests_total": Series("counter", "Count", {"outcome": OUTCOMES, "code": (OK, *CODES)}),
        "cxr_predictions_total": Series("counter", "Count", {"label": CLASSES}),
        "cxr_indeterminate_total": Series("counter", "Count"),
        "cxr_rescored_total": Series("counter", "Count"),
        "cxr_images_total": Series("counter", "Count", {"format": FORMATS}),
        "cxr_flags_total": Series("counter", "Count", {"flag": tuple(FLAGS)}),
        "cxr_views_total": Series("counter", "Count", {"view": (NOT_DECLARED, *VIEWS)}),
        "cxr_abandoned_total": Series("counter", "Count"),
        "cxr_worker_starts_total": Series("counter", "Count"),
        "cxr_request_seconds_bucket": Series("counter", "Seconds", {"le": BOUNDS}),
        "cxr_request_seconds_count": Series("counter", "Count"),
        "cxr_request_seconds_sum": Series("counter", "Seconds"),
        "cxr_model_info": Series(
            "gauge", "Info", {"weights_sha256": re.compile("[0-9a-f]{64}"), "engine": re.compile("[a-z0-9-]{1,40}")}
        ),
        "cxr_drift_psi": Series("gauge", "Ratio", {"signal": SIGNALS}),
        "cxr_drift_psi_limit": Series("gauge", "Ratio", {"signal": SIGNALS}),
        "cxr_drift_films": Series("gauge", "Count"),
        "cxr_sandbox_wall": Series("gauge", "Count", {"wall": tuple(WALLS)}),
        "cxr_queue_seconds": Series("histogram", "Seconds"),
        "cxr_decode_seconds": Series("histogram", "Seconds"),
        "cxr_preprocess_seconds": Series("histogram", "Seconds"),
        "cxr_forward_seconds": Series("histogram", "Seconds"),
        "cxr_render_seconds": Series("histogram", "Seconds"),
        "cxr_probability_pneumonia": Series("histogram", "Ratio"),
        "cxr_batch_size": Series("histogram", "Count"),
        "cxr_batch_seconds": Series("histogram", "Seconds"),
    }
)


@dataclass(slots=True)
class BatchMetrics:
    """The counts and figures of one batch.

    Parameters
    ----------
    counts
        Increments of counters, already added up.
    values
        New values of gauges, observations of histograms and increments that are no whole numbers, in their order.
    classes
        Of the model: what the label of a prediction can be.
    """

    counts: Counter[Key] = field(default_factory=Counter)
    values: list[tuple[Key, float]] = field(default_factory=list)
    classes: tuple[str, ...] = CLASSES
    _counting: Lock = field(default_factory=Lock, repr=False, compare=False)  # films are prepared in threads

    @classmethod
    def zeros(cls, classes: tuple[str, ...] = CLASSES) -> BatchMetrics:
        """Every counter at zero, so that the first event of each kind is already an increase to who reads them."""
        zero = cls(classes=classes)
        for code in (OK, *CODES):  # an outcome goes with its codes alone
            zero.counts[_key("cxr_requests_total", (outcome_of(code), code))] = 0
        for name, series in SERIES.items():
            if series.kind == "counter" and name != "cxr_requests_total":
                for labels in _every(series, classes):
                    zero.counts[_key(name, labels, classes)] = 0
        return zero

    def observe_walls(self, missing: Mapping[str, str]) -> None:
        """Set which walls stand around the decoders: 1, or 0 for those that are missing."""
        for wall in WALLS:
            self.observe("cxr_sandbox_wall", float(wall not in missing), wall)

    def count(self, name: str, *labels: str) -> None:
        """Add one to a counter.

        Raises
        ------
        ValueError
            If there is no such counter or a label has a value that is not on its list.
        """
        key = _key(name, labels, self.classes)
        with self._counting:
            self.counts[key] += 1

    def observe(self, name: str, value: float, *labels: str) -> None:
        """Observe a value for a histogram, or set a gauge. What is not a number says nothing and is left out.

        Raises
        ------
        ValueError
            As for `count`.
        """
        key = _key(name, labels, self.classes)
        if math.isfinite(value):
            self.values.append((key, value))

    def time_request(self, seconds: float) -> None:
        """Observe how long a request took, from when it came in until its reply was made."""
        for bound in BOUNDS:
            if seconds <= float(bound):
                self.count("cxr_request_seconds_bucket", bound)
        self.count("cxr_request_seconds_count")
        self.observe("cxr_request_seconds_sum", seconds)

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Observe how long the block took, in seconds, also where it fails: the worker spent the time."""
        begun = time.perf_counter()
        try:
            yield
        finally:
            self.observe(name, time.perf_counter() - begun)

    def count_request(self, code: str, *, is_answered: bool) -> None:
        """Count a request by its outcome.

        Parameters
        ----------
        code
            `OK`, or the code of the (first) error in its reply.
        is_answered
            Whether some of its films were answered.
        """
        outcome = "partial" if is_answered and code != OK else outcome_of(code)
        self.count("cxr_requests_total", outcome, code)


def outcome_of(code: str) -> str:
    """The outcome of a request all of whose films ended so: ``refused`` is the sender's to mend, ``failed`` is ours."""
    if code == OK:
        return "ok"
    return "refused" if CODES[code].status < 500 else "failed"


def _allowed(series: Series, classes: tuple[str, ...]) -> dict[str, tuple[str, ...] | re.Pattern[str]]:
    """The values each label of a series may have, for a model of these classes."""
    return {label: classes if label == "label" else allowed for label, allowed in series.labels.items()}


def _every(series: Series, classes: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """All that the labels of a series can be together, where they have lists."""
    return itertools.product(*(one for one in _allowed(series, classes).values() if isinstance(one, tuple)))


def _key(name: str, labels: tuple[str, ...], classes: tuple[str, ...] = CLASSES) -> Key:
    series = SERIES.get(name)
    if series is None:
        raise ValueError(f"{name!r} is no metric of this worker: known are {', '.join(SERIES)}")
    if len(labels) != len(series.labels):
        raise ValueError(f"{name} got {len(labels)} label values: its labels are {', '.join(series.labels) or 'none'}")
    for (label, allowed), value in zip(_allowed(series, classes).items(), labels, strict=True):
        if not (value in allowed if isinstance(allowed, tuple) else allowed.fullmatch(value)):
            # Not the value itself: it could come from a request.
            known = ", ".join(allowed) if isinstance(allowed, tuple) else allowed.pattern
            raise ValueError(f"a value of label {label} of {name} is not on its list: {known}")
    return name, labels


# TorchServe splits the labels at these; in a name they would shift one label into another.
_SEPARATORS: Final = re.compile(r"[,:|#\s]")


class MetricLines:
    """Writes the metrics of one model and version.

    Parameters
    ----------
    model_name, model_version
        Labels of every line.
    stream
        The worker's standard output, which TorchServe reads.
    """

    def __init__(self, model_name: str, model_version: str, stream: TextIO) -> None:
        name, version = (_SEPARATORS.sub("_", text) or "_" for text in (model_name, model_version))
        self._model = f"ModelName:{name},model_version:{version}"
        self._host = _SEPARATORS.sub("_", socket.gethostname()) or "_"
        self._stream = stream

    def write(self, metrics: BatchMetrics) -> None:
        """Write all of it in one piece. Never raises: a lost figure must not cost a batch its answers."""
        try:
            self._stream.write(self.text(metrics, int(time.time())))
            self._stream.flush()
        except (OSError, ValueError):  # TorchServe closed the pipe, and is about to replace the worker
            return

    def text(self, metrics: BatchMetrics, now: int) -> str:
        """The lines, each ending in a line break.

        Parameters
        ----------
        now
            Seconds since 1970.
        """
        amounts = [*metrics.counts.items(), *metrics.values]
        return "".join(self._line(key, amount, now) for key, amount in amounts)

    def _line(self, key: Key, amount: float, now: int) -> str:
        name, values = key
        series = SERIES[name]
        ours = "".join(f",{label}:{value}" for label, value in zip(series.labels, values, strict=True))
        # TorchServe's pattern for a value knows no plus sign, so never 1e+06.
        return (
            f"[METRICS]{name}.{series.unit}:{amount:.7f}|#{self._model}{ours}"
            f"|#type:{series.kind.upper()}|#hostname:{self._host},{now}\n"
        )


_LIBRARIES: Final = ("pydicom", "PIL", "py.warnings")


def quiet_libraries() -> None:
    """Stop warnings and library logs in this process, for good. For workers; training lets its reader see them."""
    warnings.simplefilter("ignore")
    logging.getLogger().setLevel(logging.WARNING)  # TorchServe 0.12 logs a line for every batch
    config.settings.reading_validation_mode = config.IGNORE
    for name in _LIBRARIES:
        logger = logging.getLogger(name)
        logger.handlers = [logging.NullHandler()]
        logger.propagate = False
