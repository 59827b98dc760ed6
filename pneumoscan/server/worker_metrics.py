"""The state of workers and queue as series for Prometheus.

TorchServe 0.12 tells them on its management socket only, which is closed to everyone but the server's user; a scrape
must not be given the key to replace a model for them. This asks once for each scrape and passes on numbers.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from cxr_client import ClientError, ManagementClient
from pneumoscan.errors import ExportError
from pneumoscan.model_store import MODEL_NAME
from pneumoscan.server.pulse import WHYS, read_ends
from pneumoscan.server.run_folder import RunDir

# What TorchServe 0.12 says of a worker, whatever keeps it from being ready, and one for what it does not say yet.
STATES: Final = ("READY", "UNLOADING", "OTHER")
_LABELS: Final = ("ModelName", "model_version")
_HOST: Final = "127.0.0.1"
_TIMEOUT_S: Final = 4.0  # of each of two questions; Prometheus waits ten seconds


class WorkerSeries(Collector):
    """Series of every registered version, asked for when they are scraped."""

    def __init__(self, run_dir: RunDir) -> None:
        self._run_dir = run_dir

    def collect(self) -> Iterator[GaugeMetricFamily | CounterMetricFamily]:
        """The series; ``cxr_management_up`` alone, at 0, where the server does not answer."""
        ends = CounterMetricFamily("cxr_ends", "Servers and workers that ended without being asked to", labels=["why"])
        counts = read_ends(self._run_dir)
        for why in WHYS:
            ends.add_metric([why], counts[why])
        yield ends
        up = GaugeMetricFamily("cxr_management_up", "Whether TorchServe answers on its management socket")
        try:
            with ManagementClient(self._run_dir.socket, _TIMEOUT_S) as management:
                versions = management.describe(MODEL_NAME, "all")
                default = {str(one["modelVersion"]) for one in management.describe(MODEL_NAME)}
        except ClientError as error:
            # Nothing registered is a state and no failure.
            up.add_metric([], float(getattr(error, "status", None) == 404))
            yield up
            return
        up.add_metric([], 1.0)
        yield up
        yield from _families(versions, default)


def _families(versions: list[dict[str, Any]], default: set[str]) -> Iterator[GaugeMetricFamily]:
    workers = GaugeMetricFamily("cxr_workers", "Workers by state", labels=[*_LABELS, "state"])
    wanted = GaugeMetricFamily("cxr_workers_wanted", "Workers there should be", labels=_LABELS)
    waiting = GaugeMetricFamily("cxr_queue_length", "Requests that wait for a worker", labels=_LABELS)
    room = GaugeMetricFamily("cxr_queue_capacity", "Requests that may wait before more are refused", labels=_LABELS)
    is_default = GaugeMetricFamily("cxr_default_version", "1 for the version a plain request gets", labels=_LABELS)
    for one in versions:
        labels = [MODEL_NAME, str(one["modelVersion"])]
        states = [str(worker["status"]) for worker in one.get("workers", ())]
        for state in STATES:
            count = sum((seen if seen in STATES else "OTHER") == state for seen in states)
            workers.add_metric([*labels, state], count)
        wanted.add_metric(labels, max(1, int(one.get("minWorkers", 0))))
        is_default.add_metric(labels, float(labels[1] in default))
        queue = one.get("jobQueueStatus") or {}
        pending, left = queue.get("pendingRequests"), queue.get("remainingCapacity")
        if pending is not None and left is not None:
            waiting.add_metric(labels, float(pending))
            room.add_metric(labels, float(pending) + float(left))
    yield from (workers, wanted, waiting, room, is_default)


def export_forever(run_dir: Path, port: int) -> None:
    """Serve the series on a port of the loopback interface until the program is interrupted.

    Raises
    ------
    ExportError
        The port cannot be listened on.
    """
    registry = CollectorRegistry()
    registry.register(WorkerSeries(RunDir(run_dir.absolute())))
    try:
        server, thread = start_http_server(port, addr=_HOST, registry=registry)
    except (OSError, OverflowError) as error:
        raise ExportError(f"port {port} cannot be used ({error}): give another --export") from error
    try:
        threading.Event().wait()
    finally:
        server.shutdown()
        thread.join()
