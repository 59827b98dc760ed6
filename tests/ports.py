"""TCP ports for servers that a test starts."""

from __future__ import annotations

import random
import socket
from contextlib import ExitStack
from typing import Final

# Below those that Linux gives to outgoing connections (32,768 and up): none of them takes a port between now and then.
_RANGE: Final = range(12_000, 32_000)


def free_ports(count: int) -> list[int]:
    """Some ports of 127.0.0.1 that nobody listens on, drawn so that processes of tests hardly meet."""
    ports: list[int] = []
    draw = random.SystemRandom()
    with ExitStack() as stack:
        while len(ports) < count:
            port = draw.choice(_RANGE)
            try:
                stack.enter_context(socket.create_server(("127.0.0.1", port)))
            except OSError:
                continue
            ports.append(port)
    return ports


def free_port() -> int:
    """One of `free_ports`."""
    return free_ports(1)[0]
