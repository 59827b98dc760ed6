"""A server under load: what is sent when, what the answers show, and what the client itself takes."""

from __future__ import annotations

import multiprocessing
import socket
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection
from typing import Final

import numpy as np

from benchmarks.client import CHUNK, Answer, Plan, drive, error_code, exchange, post
from benchmarks.host import Watch
from benchmarks.result import Figure, Figures
from benchmarks.servers import BenchmarkError, Running
from pneumoscan.server.torchserve import HOST

OCTETS: Final = "application/octet-stream"
# Ours, and what a TorchServe 0.12.0 whose queue is full replies where no edge turns it into the contract's words.
_REFUSALS: Final = ("OVERLOADED", "ServiceUnavailableException")
_PERCENTILES: Final = (50, 95, 99)
_REPLY: Final = b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 18\r\n\r\n{"label":"NORMAL"}'


def closed(clients: int, seconds: float, deadline_s: float) -> Plan:
    """Clients that send their next film as soon as the last is answered."""
    return Plan((0.0,) * clients, repeat_until=seconds, deadline_s=deadline_s)


def poisson(rate: float, seconds: float, deadline_s: float, seed: int) -> Plan:
    """Clients that know nothing of each other: exponential gaps, `rate` arrivals a second on average."""
    rng = np.random.default_rng(seed)
    times = np.cumsum(rng.exponential(1 / rate, int(rate * seconds * 2) + 20))
    return Plan(tuple(times[times < seconds].tolist()), deadline_s=deadline_s)


def measure(server: Running, requests: Sequence[bytes], plan: Plan, seconds: float) -> Figures:
    """Rates, latencies, errors and what the server's processes used, where these are known."""
    if server.tree is None:
        return summary(drive(server.address, requests, plan), seconds)
    with Watch(server.tree) as watch:
        answers = drive(server.address, requests, plan)
    found = summary(answers, seconds)
    if found["answered"].median:
        found["cpu_s_per_film"] = Figure(watch.cpu_s / found["answered"].median, "s")
    memory = {"before": watch.before_mb, "peak": watch.peak_mb, "after": watch.after_mb}
    return found | {f"memory_{when}_mb": Figure(mb, "MB") for when, mb in memory.items()}


def summary(answers: Sequence[Answer], seconds: float) -> Figures:
    """Rates, latencies and errors; latencies only where there is an answer.

    Answers that came later than `seconds`, in which requests became due, are counted, and left out of the rate.
    """
    good = [one for one in answers if one.ok]
    refused = [one for one in answers if one.code in _REFUSALS]
    errors = [one for one in answers if not one.ok and one.code not in _REFUSALS]
    counts = {"sent": len(answers), "answered": len(good), "refused": len(refused), "errors": len(errors)}
    counts |= {f"refused {code}": count for code, count in sorted(Counter(one.code for one in refused).items())}
    counts |= {f"error {code}": count for code, count in sorted(Counter(one.code for one in errors).items())}
    return {
        **{name: Figure(count, "films") for name, count in counts.items()},
        "films_per_s": Figure(rate([one.done for one in good if one.done <= seconds], seconds), "1/s"),
        **_percentiles("", [one.latency_s for one in good]),
        **_percentiles("refused_", [one.latency_s for one in refused]),
        **_percentiles("send_lag_", [one.sent - one.due for one in answers]),
    }


def rate(done: Sequence[float], seconds: float) -> float:
    """Answers a second: the slope of their number over the time.

    A window that is counted out begins and ends between two answers, and with few answers that shows. Where there are
    fewer than three, their number over `seconds`.
    """
    if len(done) < 3 or len(set(done)) < 2:
        return len(done) / seconds
    return float(np.polyfit(np.sort(done), np.arange(len(done)), 1)[0])


def _percentiles(prefix: str, seconds: Sequence[float]) -> Figures:
    if not seconds:
        return {}
    found = dict(zip(_PERCENTILES, np.percentile(seconds, _PERCENTILES), strict=True))
    figures = {f"{prefix}p{p}_ms": Figure(float(value) * 1000, "ms") for p, value in found.items()}
    return figures | {f"{prefix}max_ms": Figure(max(seconds) * 1000, "ms")}


def report_progress(text: str) -> None:
    """Write to stderr what is being done."""
    print(f"pneumoscan bench: {text}", file=sys.stderr, flush=True)


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
        status, body = exchange(server.address, request)
        if not 200 <= status < 300:
            why = error_code(status, body) if status else "no reply"
            raise BenchmarkError(f"the server does not answer {name}: {why}; give other --films, or mend the server")


def client_cost(body: bytes, seconds: float = 1.0) -> Figures:
    """Processor time and round trip of a lone client, against a server that reads a request and answers a constant."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    server = context.Process(target=_answer_all, args=(theirs, len(body)), daemon=True)
    server.start()
    try:
        address = (HOST, int(ours.recv()))
        request = [post(address, "/", body, OCTETS)]
        before = time.thread_time()
        answers = drive(address, request, Plan((0.0,), repeat_until=seconds))
        cpu_s = time.thread_time() - before
        return {
            "body_kb": Figure(round(len(body) / 1000, 1), "kB"),
            "cpu_ms": Figure(cpu_s / len(answers) * 1000, "ms"),
            **_percentiles("", [one.latency_s for one in answers if one.ok]),
        }
    finally:
        server.kill()
        server.join()


def _answer_all(to_parent: Connection, length: int) -> None:
    """A server of one connection at a time that answers each body of `length` bytes at once."""
    listener = socket.create_server((HOST, 0))
    to_parent.send(listener.getsockname()[1])
    while True:
        connection, _ = listener.accept()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        due = 0
        while data := connection.recv(CHUNK):
            if due == 0:
                due = data.index(b"\r\n\r\n") + 4 + length
            due -= len(data)
            if due == 0:
                connection.sendall(_REPLY)
