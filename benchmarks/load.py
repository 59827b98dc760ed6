"""A server under load: what is sent when, and what the answers say of it."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from benchmarks.client import Answer, Plan, drive
from benchmarks.http import ask, code_of, post
from benchmarks.processes import Watch
from benchmarks.servers import BenchmarkError, Running

OCTETS: Final = "application/octet-stream"
OVERLOADED: Final = "OVERLOADED"
_PERCENTILES: Final = (50, 95, 99)
# What a TorchServe 0.12.0 whose queue is full says where no edge turns it into the contract's words.
_QUEUE_FULL: Final = "ServiceUnavailableException"


def closed(clients: int, seconds: float, deadline_s: float) -> Plan:
    """Clients that send their next film as soon as the last is answered."""
    return Plan((0.0,) * clients, repeat_until=seconds, deadline_s=deadline_s)


def poisson(rate: float, seconds: float, deadline_s: float, seed: int) -> Plan:
    """Clients that know nothing of each other: exponential gaps, `rate` arrivals a second on average."""
    rng = np.random.default_rng(seed)
    times = np.cumsum(rng.exponential(1 / rate, int(rate * seconds * 2) + 20))
    return Plan(tuple(float(time) for time in times[times < seconds]), deadline_s=deadline_s)


def measure(server: Running, requests: Sequence[bytes], plan: Plan, seconds: float) -> dict[str, Any]:
    """Rates, latencies, errors and what the server's processes used, as JSON values."""
    if server.tree is None:
        return summary(drive(server.address, requests, plan), seconds)
    with Watch(server.tree) as watch:
        answers = drive(server.address, requests, plan)
    found = summary(answers, seconds)
    found["cpu_s_per_film"] = _rounded(watch.cpu_s / found["answered"]) if found["answered"] else None
    found["memory_mb"] = {
        "before": round(watch.before_mb, 1),
        "peak": round(watch.peak_mb, 1),
        "after": round(watch.after_mb, 1),
    }
    return found


def summary(answers: Sequence[Answer], seconds: float) -> dict[str, Any]:
    """What the answers say.

    Parameters
    ----------
    seconds
        How long requests became due; answers that came later are counted, and left out of the rate.
    """
    good = [one for one in answers if one.ok]
    refused = [one for one in answers if one.code in (OVERLOADED, _QUEUE_FULL)]
    errors = Counter(one.code for one in answers if not one.ok)
    return {
        "sent": len(answers),
        "answered": len(good),
        "films_per_s": _rounded(rate([one.done for one in good if one.done <= seconds], seconds)),
        "latency_ms": latencies(good),
        "send_lag_p99_ms": latencies(answers, sending=True).get("p99"),
        "refused": {"count": len(refused), "latency_ms": latencies(refused), "codes": _codes(refused)},
        "errors": dict(sorted((errors - Counter(one.code for one in refused)).items())),
    }


def _codes(refused: Sequence[Answer]) -> dict[str, int]:
    return dict(sorted(Counter(one.code for one in refused).items()))


def rate(done: Sequence[float], seconds: float) -> float:
    """Answers a second: the slope of their number over the time.

    A window that is counted out begins and ends between two answers, and with few answers that shows. Where there are
    fewer than three, their number over `seconds`.
    """
    if len(done) < 3 or len(set(done)) < 2:
        return len(done) / seconds
    return float(np.polyfit(np.sort(done), np.arange(len(done)), 1)[0])


def latencies(answers: Sequence[Answer], *, sending: bool = False) -> dict[str, float]:
    """Percentiles in ms from when a request was due to its answer, or until it was sent; empty where there is none."""
    if not answers:
        return {}
    ms = np.array([(one.sent - one.due if sending else one.latency_s) * 1000 for one in answers])
    found = {f"p{p}": _rounded(float(np.percentile(ms, p))) for p in _PERCENTILES}
    return found | {"max": _rounded(float(ms.max()))}


def told(text: str) -> None:
    """Say on stderr what is being done."""
    print(f"scripts.benchmark: {text}", file=sys.stderr, flush=True)


def requests_of(server: Running, films: Mapping[str, bytes]) -> list[bytes]:
    """One request for each film, to our server."""
    return [post(server.address, server.path, data, OCTETS) for data in films.values()]


def check(server: Running, requests: Mapping[str, bytes]) -> None:
    """Send each request once, which also warms the server.

    Raises
    ------
    BenchmarkError
        One is not answered.
    """
    for name, request in requests.items():
        status, body = ask(server.address, request)
        if not 200 <= status < 300:
            why = code_of(status, body) if status else "no reply"
            raise BenchmarkError(f"the server does not answer {name}: {why}; give other --films, or mend the server")


def _rounded(value: float) -> float:
    return float(f"{value:.5g}")
