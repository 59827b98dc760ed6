"""What figures were measured on, and how much the measuring client takes of it."""

from __future__ import annotations

import importlib.metadata
import multiprocessing
import os
import platform
import socket
import time
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any, Final

import torch

from benchmarks.client import Plan, drive
from benchmarks.http import CHUNK, post
from cxr_training.measure.parity import processor_name
from pneumoscan.server.torchserve import HOST

_PACKAGES: Final = ("torch", "openvino", "torchserve", "litserve", "bentoml")
_REPLY: Final = b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 18\r\n\r\n{"label":"NORMAL"}'


def host(packages: tuple[str, ...] = _PACKAGES) -> dict[str, Any]:
    """Processor, cores, memory, and the versions of what was measured."""
    return {
        "processor": processor_name(torch.device("cpu")),
        "gpu": processor_name(torch.device("cuda")) if torch.cuda.is_available() else None,
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": versions(packages),
        "load_before": round(os.getloadavg()[0], 2),
    }


def versions(packages: tuple[str, ...]) -> dict[str, str]:
    """Of those that are installed."""
    found: dict[str, str] = {}
    for name in packages:
        with suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def client_cost(body: bytes, seconds: float = 1.0) -> dict[str, float]:
    """What the client itself takes of a request, against a server that reads it and answers a constant.

    Returns
    -------
    ``cpu_ms``, processor time in the client; ``p50_ms``, the round trip of a lone client.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    server = context.Process(target=_answer_all, args=(theirs, len(body)), daemon=True)
    server.start()
    try:
        address = (HOST, int(ours.recv()))
        request = [post(address, "/", body, "application/octet-stream")]
        before = time.thread_time()
        answers = drive(address, request, Plan((0.0,), repeat_until=seconds))
        cpu = time.thread_time() - before
        waits = sorted(one.latency_s for one in answers if one.ok)
        return {
            "body_kb": round(len(body) / 1000, 1),
            "cpu_ms": round(cpu / len(answers) * 1000, 4),
            "p50_ms": round(waits[len(waits) // 2] * 1000, 4),
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
