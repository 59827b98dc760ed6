"""What a server's metrics say: one look at ``GET /metrics``, and what happened between two looks.

Needs the extra ``pneumoscan[metrics]``, for Prometheus' own parser; the rest of `cxr_client` does without, and so this
module is imported by its name: ``from cxr_client.metrics import MetricsClient``.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import requests
from prometheus_client.parser import text_string_to_metric_families
from urllib3.exceptions import HTTPError, ReadTimeoutError

from cxr_client.errors import AnswerLost, ClientError, ServerUnreachable
from cxr_client.inference import is_loopback
from cxr_client.sessions import HoldsSession, ReplyTooLarge, body_of, timed

Labels = tuple[tuple[str, str], ...]  # sorted by name
_MOST_LINES = 50_000  # a server of three versions with four workers has 2,000
_LONGEST_LINE = 10_000  # the parser takes the square of it
_NO_LABELS: Mapping[str, str] = {}
_PARTS = ("_bucket", "_count", "_sum")  # of a histogram


class MetricsUnreadable(ClientError):
    """Something answers there, and it is no Prometheus exporter."""


@dataclass(frozen=True)
class Snapshot:
    """All series at one moment.

    Counters have the names of OpenMetrics, which end in ``_total``: TorchServe's ``Requests5XX`` is
    ``Requests5XX_total`` here. A histogram that a worker writes as counters, for buckets that TorchServe does not have,
    has the names and the kind of a histogram.

    Parameters
    ----------
    at
        Seconds since 1970.
    values
        Value by name (``cxr_decode_seconds_bucket``) and labels.
    kinds
        ``counter``, ``gauge`` or ``histogram`` by the metric's name.
    """

    at: float
    values: Mapping[tuple[str, Labels], float]
    kinds: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str, at: float) -> Snapshot:
        """What Prometheus' text format 0.0.4 says.

        Raises
        ------
        MetricsUnreadable
            It is another format.
        """
        values: dict[tuple[str, Labels], float] = {}
        kinds: dict[str, str] = {}
        try:
            for family in text_string_to_metric_families(text):
                bare = family.name.removesuffix("_total")
                is_part = family.type == "counter" and bare.endswith(_PARTS)
                if is_part:
                    kinds[bare.rpartition("_")[0]] = "histogram"
                else:
                    kinds[f"{bare}_total" if family.type == "counter" else family.name] = family.type
                for sample in family.samples:
                    name = bare if is_part else sample.name
                    values[name, tuple(sorted(sample.labels.items()))] = float(sample.value)
        except (ValueError, KeyError, IndexError, TypeError) as error:
            raise MetricsUnreadable("the reply is not in Prometheus' text format: is this the metrics port?") from error
        return cls(at, values, kinds)

    def having(self, name: str, labels: Mapping[str, str] = _NO_LABELS) -> Iterator[tuple[dict[str, str], float]]:
        """Labels and value of each series of a name that has these labels."""
        for (found, pairs), value in self.values.items():
            theirs = dict(pairs)
            if found == name and all(theirs.get(label) == wanted for label, wanted in labels.items()):
                yield theirs, value

    def total(self, name: str, labels: Mapping[str, str] = _NO_LABELS) -> float:
        """The sum of all series of a name that have these labels; 0 where there is none."""
        return sum(value for _, value in self.having(name, labels))

    def by(self, name: str, label: str, labels: Mapping[str, str] = _NO_LABELS) -> dict[str, float]:
        """The sums by the values of one label."""
        sums: dict[str, float] = {}
        for theirs, value in self.having(name, labels):
            if label in theirs:
                sums[theirs[label]] = sums.get(theirs[label], 0.0) + value
        return sums

    def since(self, earlier: Snapshot) -> Snapshot:
        """What happened since an earlier look: increases of counters and histograms, gauges as they are now.

        A value lower than before means that the server was restarted; all of it then counts as new.
        """
        rising = {
            f"{name}{suffix}"
            for name, kind in self.kinds.items()
            for suffix in (_PARTS if kind == "histogram" else ("",) if kind == "counter" else ())
        }
        values = {
            key: value - before if key[0] in rising and (before := earlier.values.get(key, 0.0)) <= value else value
            for key, value in self.values.items()
        }
        return Snapshot(self.at, values, self.kinds)

    def quantile(self, name: str, share: float, labels: Mapping[str, str] = _NO_LABELS) -> float | None:
        """A quantile of a histogram, as Prometheus' ``histogram_quantile`` estimates it.

        Parameters
        ----------
        name
            The histogram's, without ``_bucket``.
        share
            0.95 for the 95th percentile.

        Returns
        -------
        float or None
            Between the bounds of its bucket by proportion; the highest bound for what lies above all of them; None
            where nothing was observed.
        """
        buckets = sorted(
            (float(bound), count) for bound, count in self.by(f"{name}_bucket", "le", labels).items() if count >= 0
        )
        if not buckets or buckets[-1][1] <= 0:
            return None
        rank, below, low = share * buckets[-1][1], 0.0, 0.0
        for bound, count in buckets:
            if count >= rank and count > below:
                return low if math.isinf(bound) else low + (bound - low) * (rank - below) / (count - below)
            below, low = count, bound if not math.isinf(bound) else low
        return low

    def mean(self, name: str, labels: Mapping[str, str] = _NO_LABELS) -> float | None:
        """The mean of a histogram; None where nothing was observed."""
        count = self.total(f"{name}_count", labels)
        return self.total(f"{name}_sum", labels) / count if count else None


class MetricsClient(HoldsSession):
    """Looks at a server's metrics.

    Parameters
    ----------
    url
        Of the metrics port, ``http://127.0.0.1:8082``.
    timeout_s
        How long one reply may take.
    """

    def __init__(self, url: str, timeout_s: float = 10.0) -> None:
        self.url = url.rstrip("/").removesuffix("/metrics")
        self.timeout_s = timeout_s
        self._session = timed(requests.Session(), 1)
        self._session.trust_env = not is_loopback(self.url)  # no proxy knows this machine's own address

    def look(self) -> Snapshot:
        """The server's metrics now.

        Raises
        ------
        ServerUnreachable
            Nobody answers, or not in time.
        MetricsUnreadable
            Somebody else does.
        """
        deadline = time.monotonic() + self.timeout_s
        try:
            reply = self._session.get(f"{self.url}/metrics", timeout=self.timeout_s, allow_redirects=False, stream=True)
            body = body_of(reply, deadline)
        except (requests.Timeout, ReadTimeoutError, TimeoutError) as error:
            raise AnswerLost(f"{self.url}/metrics did not answer within {self.timeout_s:g} s") from error
        except ReplyTooLarge as error:
            raise MetricsUnreadable(f"{self.url}/metrics: {error}; give the address of the metrics port") from error
        except (requests.RequestException, HTTPError) as error:
            raise ServerUnreachable(f"nobody answers on {self.url} (is the server running?)") from error
        if not 200 <= reply.status_code < 300:
            raise MetricsUnreadable(f"{self.url}/metrics: {reply.status_code}; give the address of the metrics port")
        lines = body.split(b"\n")
        if len(lines) > _MOST_LINES or max(map(len, lines)) > _LONGEST_LINE:
            raise MetricsUnreadable(f"{self.url}/metrics has lines without end: is this the metrics port?")
        return Snapshot.parse(body.decode("utf-8", "replace"), time.time())
