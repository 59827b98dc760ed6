"""Look-ups and connections to anywhere but this machine, refused and counted, whatever process makes them.

Two methods that know nothing of each other. A hook in every Python process refuses them and notes to whom they were; it
sees neither Java nor libraries in C. A network namespace with nothing but loopback has no way out for anybody, and its
kernel counts each packet that had none: ``Ip.OutNoRoutes`` for a connection, a datagram or a question to a name server,
``Udp.NoPorts`` for one to a name server on loopback, which is not there.

``python -m tests.connections COUNTS COMMAND…`` brings loopback up in the namespace that it was started in, runs the
command and writes what was counted.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import socket
import struct
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

_HOOK: Final = """
import os, sys

_LOOPBACK = ("127.", "::1", "localhost", "0.0.0.0", "::")

def _named(address):
    if isinstance(address, (bytes, bytearray)):
        return address.decode(errors="replace")
    return address if isinstance(address, str) else ""

def _hook(event, arguments):
    if event in ("socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr"):
        host = _named(arguments[0])
    elif event in ("socket.connect", "socket.sendto", "socket.sendmsg", "socket.getnameinfo"):
        address = arguments[-1]  # of a Unix socket it is a path, of a connected one None
        host = _named(address[0]) if isinstance(address, tuple) else ""
    else:
        return
    if host and not host.startswith(_LOOPBACK) and host != os.uname().nodename:
        with open(os.environ["CONNECTIONS_NOTED"], "a") as stream:
            stream.write(f"{event} {host} by {sys.argv}\\n")
        raise OSError(f"{event} {host}: refused by a test")

sys.addaudithook(_hook)
"""
# What tells a library that it runs in a test, and more than a user has: left out.
_KEPT: Final = ("PATH", "LANG", "LD_LIBRARY_PATH", "JAVA_HOME", "OMP_NUM_THREADS", "PNEUMOSCAN_TEST_RUN")
_COUNTED: Final = ("Ip.OutNoRoutes", "Ip6OutNoRoutes", "Udp.NoPorts", "Udp6NoPorts")


def user_environment(home: Path) -> dict[str, str]:
    """The environment of somebody who has set nothing and whose HOME is empty."""
    home.mkdir(exist_ok=True)
    return {name: os.environ[name] for name in _KEPT if name in os.environ} | {"HOME": str(home)}


def _has_namespaces() -> bool:
    if shutil.which("unshare") is None:
        return False
    return subprocess.run(["unshare", "-rn", "true"], capture_output=True, check=False).returncode == 0


HAS_NAMESPACES: Final = _has_namespaces()
NEEDS_NAMESPACE: Final = pytest.mark.skipif(
    not HAS_NAMESPACES, reason="there is no unshare, or this kernel lets nobody make a network namespace"
)


@dataclass(frozen=True)
class Hooked:
    """A Python command in which connections beyond loopback are refused and noted."""

    folder: Path

    def run(
        self, command: Sequence[str], cwd: Path, *, alone: bool = False, **environment: str
    ) -> tuple[int, str, list[str]]:
        """The exit status, what it printed, and the connections that it and its children tried.

        Parameters
        ----------
        alone
            In a network namespace too, whose kernel's counts are among the connections.
        """
        (self.folder / "sitecustomize.py").write_text(_HOOK, encoding="utf-8")
        noted = self.folder / "noted"
        noted.write_text("", encoding="utf-8")
        paths = [self.folder, *(cwd / name for name in ("", "handler", "training", "webapp"))]
        environment |= {"PYTHONPATH": os.pathsep.join(map(str, paths)), "CONNECTIONS_NOTED": str(noted)}
        python = [sys.executable, *command]
        if alone:
            status, printed, counted = in_namespace(python, cwd, self.folder, **environment)
            more = [f"{name} {count}" for name, count in counted.items() if count]
        else:
            (status, printed), more = _run(python, cwd, user_environment(self.folder / "home") | environment), []
        return status, printed, noted.read_text(encoding="utf-8").splitlines() + more


def in_namespace(
    command: Sequence[str], cwd: Path, folder: Path, **environment: str
) -> tuple[int, str, dict[str, int]]:
    """Run a command where nothing but loopback is; its exit status, what it printed, what was counted by name."""
    counts = folder / "counts.json"
    inside = ["unshare", "-rn", sys.executable, "-m", "tests.connections", str(counts), *command]
    status, printed = _run(inside, cwd, user_environment(folder / "home") | environment)
    found: dict[str, int] = json.loads(counts.read_text(encoding="utf-8"))
    return status, printed, found


def _run(command: Sequence[str], cwd: Path, environment: dict[str, str]) -> tuple[int, str]:
    done = subprocess.run(
        command,
        cwd=cwd,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=600,
    )
    return done.returncode, done.stdout


def _kernel_counts() -> dict[str, int]:
    found: dict[str, int] = {}
    lines = Path("/proc/net/snmp").read_text(encoding="ascii").splitlines()
    for names, values in zip(lines[::2], lines[1::2], strict=True):
        layer = names.partition(":")[0]
        pairs = zip(names.split()[1:], values.split()[1:], strict=True)
        found |= {f"{layer}.{name}": int(value) for name, value in pairs}
    six = Path("/proc/net/snmp6")
    if six.exists():
        found |= {name: int(value) for name, value in map(str.split, six.read_text(encoding="ascii").splitlines())}
    return {name: found.get(name, 0) for name in _COUNTED}


def _raise_loopback() -> None:
    """As ``ip link set lo up`` (netdevice(7): SIOCSIFFLAGS with IFF_UP and IFF_RUNNING)."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        fcntl.ioctl(one, 0x8914, struct.pack("16sh14s", b"lo", 0x41, b""))


def main() -> int:
    """Run a command in this namespace and write what the kernel counted meanwhile."""
    counts, *command = sys.argv[1:]
    _raise_loopback()
    before = _kernel_counts()
    status = subprocess.run(command, check=False).returncode
    after = _kernel_counts()
    difference = {name: after[name] - before[name] for name in _COUNTED}
    Path(counts).write_text(json.dumps(difference), encoding="utf-8")
    return status


if __name__ == "__main__":
    raise SystemExit(main())
