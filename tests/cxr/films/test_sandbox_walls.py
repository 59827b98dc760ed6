"""An attacker's code in the decoders' process: what it asks of the system is refused, and the films are still right."""

from __future__ import annotations

import json
import mmap
import os
import socket
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from pydicom.uid import JPEGLSLossless

from cxr.errors import InputError
from cxr.films import sandbox
from cxr.films.decode import decode
from cxr.films.stream_codecs import Coded
from tests.films import compressed, dicom, film

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the walls are Linux's")

# In the place of the codecs: it tries what the stream names and writes what came of it for pixels.
ATTACKER = """
import cxr.films.sandbox_helper as helper
import cxr.films.sandbox_walls as walls
import ctypes, json, mmap, os, resource, signal, socket, subprocess, sys, threading

libc = ctypes.CDLL(None, use_errno=True)

def called(result):
    if result < 0:
        raise OSError(ctypes.get_errno(), "refused")
    return result

def connect(family, address):
    with socket.socket(family, socket.SOCK_STREAM) as one:
        one.settimeout(2)
        one.connect(address)

def abstract(name):
    connect(socket.AF_UNIX, "\\0" + name)

def read_memory(pid):
    here = (ctypes.c_size_t * 2)(ctypes.addressof(ctypes.create_string_buffer(8)), 8)
    there = (ctypes.c_size_t * 2)(0, 8)  # is mapped nowhere, which only who may read is told
    if libc.process_vm_readv(pid, here, 1, there, 1, 0) < 0 and ctypes.get_errno() != 14:
        raise PermissionError("refused")

def run_memory():
    mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)

def fork_on():
    for _ in range(20):
        if os.fork() == 0:
            os._exit(0)

def thread():
    one = threading.Thread(target=int)
    one.start()
    one.join()

def descriptors():
    found = []
    for handle in range(3, 1024):
        try:
            os.fstat(handle)
        except OSError:
            continue
        found.append(handle)
    if len(found) > 1:
        return found
    raise PermissionError("its own film alone")

TRIES = {
    "open a socket": lambda where: connect(socket.AF_INET, ("127.0.0.1", where["port"])),
    "open a UDP socket": lambda where: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", ("127.0.0.1", 9)),
    "reach the management socket": lambda where: connect(socket.AF_UNIX, where["management"]),
    "reach an abstract socket": lambda where: abstract(where["abstract"]),
    "read another film": lambda where: open(where["film"], "rb").read(),
    "list the folder of films": lambda where: os.listdir(where["store"]),
    "read the memory of the worker": lambda where: open(f"/proc/{where['worker']}/mem", "rb"),
    "read the environment of the worker": lambda where: open(f"/proc/{where['worker']}/environ", "rb").read(),
    "write into the store": lambda where: open(where["store"] + "/new.mar", "wb").write(b"x"),
    "write into the run folder": lambda where: open(where["run"] + "/versions.json", "wb").write(b"x"),
    "make a folder": lambda where: os.mkdir(where["run"] + "/new"),
    "remove a file": lambda where: os.unlink(where["film"]),
    "rename a file": lambda where: os.rename(where["film"], where["film"] + "x"),
    "empty a file": lambda where: os.truncate(where["film"], 0),
    "change the mode of a file": lambda where: os.chmod(where["film"], 0o777),
    "ask for a file": lambda where: os.stat(where["film"]),
    "run a program": lambda where: os.execv("/bin/true", ["true"]),
    "start a program": lambda where: subprocess.run(["/bin/true"]),
    "fork on and on": lambda where: fork_on(),
    "start a thread": lambda where: thread(),
    "kill the worker": lambda where: os.kill(where["worker"], 0),  # asks for the right alone
    "kill the helper": lambda where: os.kill(where["helper"], 0),
    "trace the worker": lambda where: called(libc.ptrace(0x4206, where["worker"], None, None)),
    "read the worker's memory": lambda where: read_memory(where["worker"]),
    "take a handle of the worker": lambda where: called(libc.syscall(434, where["worker"], 0)),
    "limit the worker": lambda where: resource.prlimit(where["worker"], 7),
    "raise its own limits": lambda where: resource.setrlimit(7, (99, 99)),
    "become another user": lambda where: os.setuid(1),
    "change the root": lambda where: os.chroot(where["run"]),
    "leave for a namespace": lambda where: called(libc.unshare(0x10000000)),
    "run what it wrote": lambda where: run_memory(),
    "find a handle but its film": lambda where: descriptors(),
    "write a large file": lambda where: os.ftruncate(3, 1 << 40) or os.pwrite(3, b"x", 1 << 39),
    "call as a 32-bit program": lambda where: called(libc.syscall(0x40000000 + 39)),
}

def attack(coded, stream):
    where = json.loads(stream)
    found = {}
    for name in [name for name in TRIES if name != where["leave out"]]:
        try:
            found[name] = "done " + repr(TRIES[name](where))[:40]
        except BaseException as error:
            found[name] = "refused " + type(error).__name__
    return json.dumps({"found": found, "environment": sorted(os.environ)}).encode().ljust(coded.size)

helper.values_of = attack
"""


BUILDERS = {
    "privileges": "_drop_privileges",
    "network": "_leave_the_network",
    "landlock": "_close_files",
    "seccomp": "_filter_calls",
}


@dataclass(frozen=True)
class Yard:
    """What an attacker is after, all of it real."""

    where: dict[str, object]
    folder: Path

    def attacked(self, *, leave_out: str = "") -> set[str]:
        """The attempts that were not refused."""
        box = sandbox._Sandbox()
        try:
            helper = box._running()
            where = {**self.where, "helper": helper.process.pid, "worker": os.getpid()}
            stream = json.dumps({**where, "leave out": leave_out}).encode()
            order = sandbox.Order(Coded("attack", 8000, 1, 8), 5, 60.0, 1 << 30)
            values = os.memfd_create("film")
            os.write(values, stream)
            kind, number = box.outcome(order, values)
            assert (kind, number) == (sandbox.ENDED, 0), (kind, number)
            result = json.loads(os.pread(values, 8000, 0))
            os.close(values)
            assert "PNEUMOSCAN_SECRET" not in result["environment"]
            assert len(result["found"]) >= 33
            return {name for name, outcome in result["found"].items() if not outcome.startswith("refused")}
        finally:
            box.close()


@pytest.fixture
def yard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Yard]:
    """A film, a store, a run folder and sockets that listen; and decoders that try what they should not."""
    monkeypatch.setenv("PNEUMOSCAN_SECRET", "a key")
    monkeypatch.setattr(sandbox, "_PROGRAM", sandbox._PROGRAM.replace("main(int", f"{ATTACKER}\nmain(int"))
    other, store, run = tmp_path / "film.dcm", tmp_path / "store", tmp_path / "run"
    other.write_bytes(b"another patient")
    store.mkdir()
    run.mkdir()
    (run / "versions.json").write_text("{}")
    name = f"pneumoscan-{os.getpid()}"
    with (
        socket.create_server(("127.0.0.1", 0)) as port,
        socket.socket(socket.AF_UNIX) as management,
        socket.socket(socket.AF_UNIX) as abstract,
    ):
        management.bind(str(run / "management.sock"))
        abstract.bind(f"\0{name}")
        for one in (management, abstract):
            one.listen()
        where = {"film": str(other), "store": str(store), "run": str(run), "management": str(run / "management.sock")}
        yield Yard({**where, "abstract": name, "port": port.getsockname()[1]}, tmp_path)


def without(monkeypatch: pytest.MonkeyPatch, *walls: str, user: int | None = None) -> None:
    """As on a kernel that lacks some walls, or in a container that forbids them; as another user where one is given."""
    lines = "def lacking(): raise OSError(38, 'Function not implemented')\n"
    lines += "".join(f"walls.{BUILDERS[wall]} = lacking\n" for wall in walls)
    if user is not None:
        lines += f"helper.import_libraries()\nos.setgroups([])\nos.setgid({user})\nos.setuid({user})\n"
    monkeypatch.setattr(sandbox, "_PROGRAM", sandbox._PROGRAM.replace("main(int", f"{lines}main(int"))


# What is not refused where a kernel lacks the filter of system calls.
WITHOUT_FILTER = {
    *("run what it wrote", "start a thread", "fork on and on", "ask for a file", "change the mode of a file"),
    *("limit the worker", "leave for a namespace"),
}
# And where it lacks Landlock as well: handles cannot be had, names can be changed.
WITHOUT_FILTER_AND_LANDLOCK = WITHOUT_FILTER | {
    *("kill the worker", "kill the helper", "make a folder", "remove a file", "rename a file", "empty a file"),
    *("trace the worker", "read the worker's memory", "take a handle of the worker"),
}
# What is not refused, by the walls that a kernel lacks; the first that fits.
NAMED: list[tuple[set[str], set[str]]] = [
    ({"seccomp", "landlock", "privileges"}, WITHOUT_FILTER_AND_LANDLOCK | {"change the root", "become another user"}),
    ({"seccomp", "landlock"}, WITHOUT_FILTER_AND_LANDLOCK),
    ({"seccomp"}, WITHOUT_FILTER),
    (set(), set()),
]


@pytest.mark.parametrize("user", [None, 65534])
@pytest.mark.parametrize(
    "missing",
    [
        *((), ("landlock",), ("network",), ("seccomp",), ("seccomp", "landlock"), ("seccomp", "landlock", "network")),
        ("seccomp", "landlock", "network", "privileges"),
    ],
)
def test_whatever_a_decoder_that_was_taken_over_tries_is_refused_or_named(
    missing: tuple[str, ...], user: int | None, yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    if user is not None and os.getuid() != 0:
        pytest.skip("only root becomes another user")
    without(monkeypatch, *missing, user=user)
    lacking = {*missing, *sandbox.SANDBOX.missing_walls()}
    named = next(names for walls, names in NAMED if walls <= lacking)
    # A program that is run in the decoder's place, without a library that it can open, would say nothing.
    assert yard.attacked(leave_out="run a program" if {"seccomp", "landlock"} <= lacking else "") <= named


def test_a_decoder_that_was_taken_over_leaves_no_trace(yard: Yard) -> None:
    before = {path: path.stat().st_mtime_ns for path in yard.folder.rglob("*")}
    yard.attacked()
    assert {path: path.stat().st_mtime_ns for path in yard.folder.rglob("*")} == before
    assert (yard.folder / "film.dcm").read_bytes() == b"another patient"


def test_a_machine_that_lacks_a_wall_says_so_in_words_and_decodes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        sandbox,
        "_PROGRAM",
        sandbox._PROGRAM.replace(
            "main(int",
            "import platform, cxr.films.sandbox_walls as walls\nplatform.machine = lambda: 'aarch64'\n"
            "walls._LANDLOCK_CREATE_RULESET = 9999\nwalls._CLONE_NEWNET = walls._CLONE_NEWUSER = 1\nmain(int",
        ),
    )
    sandbox.SANDBOX.close()
    try:
        assert sandbox.SANDBOX.missing_walls() == {
            "network": "Invalid argument",
            "landlock": "Function not implemented",
            "seccomp": "no list of system calls for aarch64",
        }
        np.testing.assert_array_equal(decode(compressed(dicom(film(), bits=8), JPEGLSLossless)).pixels, film())
    finally:
        sandbox.SANDBOX.close()


def test_values_that_another_process_still_holds_open_for_writing_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else they could change, or go away from under their reader, after they were looked at."""
    kept: list[mmap.mmap] = []
    real = sandbox._Sandbox.outcome

    def outcome(self: sandbox._Sandbox, order: sandbox.Order, film: int) -> tuple[int, int]:
        result = real(self, order, film)
        kept.append(mmap.mmap(film, order.coded.size))
        return result

    monkeypatch.setattr(sandbox._Sandbox, "outcome", outcome)
    with pytest.raises(InputError) as caught:
        decode(compressed(dicom(film(), bits=8), JPEGLSLossless))
    assert caught.value.code == "DAMAGED_IMAGE"
