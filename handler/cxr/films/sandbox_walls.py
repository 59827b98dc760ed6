"""The walls around a decoder: what its process gives up, for good, before it looks at a stream.

A decoder reads one handle, writes another and asks for memory; all else is the want of whoever made the stream. Each
wall is a few documented calls of the kernel, and does without the others: where a kernel lacks one or a container
forbids it, the others stand, and `raise_around_helper` and `raise_around_decoder` say in words what is missing. The
filter of system calls is for x86-64, whose numbers stand here.

References
----------
prctl(2), capabilities(7), unshare(2), landlock(7), seccomp(2), setrlimit(2). The filter allows what it must and refuses
the rest, as in OpenSSH's sandbox-seccomp-filter.c; the sets of rights follow the ABIs in the kernel's
Documentation/userspace-api/landlock.rst.
"""

from __future__ import annotations

import ctypes
import os
import platform
import resource
import struct
from collections.abc import Callable, Mapping
from typing import Final

WALLS: Final[dict[str, str]] = {
    "privileges": "no capabilities, and no program that could give new ones",
    "network": "a network namespace of its own, without interfaces",
    "limits": "no new handle, no new process but for root, and no file longer than the film",
    "landlock": "no file, directory, TCP port, abstract socket or other process by Landlock",
    "seccomp": "a list of allowed system calls: memory, time, and handles that are open",
}

_PR_SET_NO_NEW_PRIVS: Final = 38  # linux/prctl.h
_PR_SET_DUMPABLE: Final = 4
_PR_SET_SECCOMP: Final = 22
_SECCOMP_MODE_FILTER: Final = 2
_CAPABILITY_VERSION: Final = 0x20080522  # linux/capability.h: two sets of 32
_CLONE_NEWUSER: Final = 0x10000000
_CLONE_NEWNET: Final = 0x40000000
_LANDLOCK_CREATE_RULESET, _LANDLOCK_RESTRICT_SELF = 444, 446  # on every architecture
_LANDLOCK_VERSION: Final = 1  # a flag: asks for the ABI
# By the ABI from which they are known: access to files, access to the network, scopes.
_LANDLOCK_RIGHTS: Final[tuple[tuple[int, tuple[int, ...]], ...]] = (
    (6, ((1 << 16) - 1, 0b11, 0b11)),
    (5, ((1 << 16) - 1, 0b11)),
    (4, ((1 << 15) - 1, 0b11)),
    (3, ((1 << 15) - 1,)),
    (2, ((1 << 14) - 1,)),
    (1, ((1 << 13) - 1,)),
)
_HANDLES: Final = 256  # of a helper: three for each film at work
_X86_64: Final = 0xC000003E  # AUDIT_ARCH_X86_64; every other, such as that of int 0x80, is refused
_X32: Final = 0x40000000  # numbers from here on are those of another ABI
_EPERM: Final = 1
_ALLOWED: Final[dict[str, int]] = {
    **{"read": 0, "write": 1, "close": 3, "fstat": 5, "lseek": 8, "munmap": 11, "brk": 12, "rt_sigaction": 13},
    **{"rt_sigprocmask": 14, "rt_sigreturn": 15, "pread64": 17, "pwrite64": 18, "readv": 19, "writev": 20},
    **{"sched_yield": 24, "mremap": 25, "madvise": 28, "nanosleep": 35, "getpid": 39, "exit": 60, "ftruncate": 77},
    **{"gettimeofday": 96, "getrusage": 98, "sysinfo": 99, "times": 100, "sigaltstack": 131, "gettid": 186},
    **{"time": 201, "futex": 202, "sched_getaffinity": 204, "restart_syscall": 219, "clock_gettime": 228},
    **{"clock_getres": 229, "clock_nanosleep": 230, "exit_group": 231, "getcpu": 309, "getrandom": 318},
}
_MMAP, _MPROTECT, _TGKILL = 9, 10, 234
_PROT_EXEC: Final = 4
# struct seccomp_data: nr, arch, instruction_pointer, args
_NR_AT, _ARCH_AT, _ARGS_AT = 0, 4, 16
# Classic BPF, linux/bpf_common.h
_LOAD, _RETURN, _IF_EQUAL, _IF_ABOVE, _IF_ANY_OF = 0x20, 0x06, 0x15, 0x35, 0x45
_ALLOW, _REFUSE = 0x7FFF0000, 0x00050000 | _EPERM
_LIBC: Final = ctypes.CDLL(None, use_errno=True)


class _Program(ctypes.Structure):
    """``struct sock_fprog``."""

    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


def raise_around_helper() -> dict[str, str]:
    """Raise the walls that a helper has as well, once: they cost a decoder nothing.

    A namespace takes the kernel milliseconds, so that it is not made for each film.

    Returns
    -------
    dict
        Why a wall does not stand, by its name.
    """
    resource.setrlimit(resource.RLIMIT_NOFILE, (_HANDLES, _HANDLES))  # so many have to be closed for each film
    return _raised({"network": _leave_the_network})


def raise_around_decoder(film: int, longest: int) -> dict[str, str]:
    """Raise the others, in a process of one thread that has opened and loaded all it needs.

    Parameters
    ----------
    film
        The one handle that is kept, beside the standard ones.
    longest
        Bytes that the film's file may have.

    Returns
    -------
    dict
        Why a wall does not stand, by its name.
    """
    os.closerange(3, film)
    os.closerange(film + 1, _HANDLES)

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (longest, longest))
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, 0))  # those that are open stay usable

    # Landlock needs a handle, who has no capabilities raises no limits again, and nothing goes on after seccomp.
    walls = {"privileges": _drop_privileges, "landlock": _close_files, "limits": limit, "seccomp": _filter_calls}
    return _raised(walls)


def _raised(walls: Mapping[str, Callable[[], object]]) -> dict[str, str]:
    missing = {}
    for name, build in walls.items():
        try:
            build()
        except (OSError, ValueError) as error:
            missing[name] = str(getattr(error, "strerror", None) or error)
    return missing


def _check(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def _prctl(option: int, *values: object) -> None:
    padded = [*values, *[0] * (4 - len(values))]
    _check(_LIBC.prctl(option, *(ctypes.c_ulong(one) if isinstance(one, int) else one for one in padded)))


def _leave_the_network() -> None:
    """Where a user namespace is forbidden, who runs as root may still have one of the network alone."""
    for flags in (_CLONE_NEWUSER | _CLONE_NEWNET, _CLONE_NEWNET):
        if _LIBC.unshare(flags) == 0:
            return
    _check(-1)


def _drop_privileges() -> None:
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    _prctl(_PR_SET_DUMPABLE, 0)  # no other process of this user looks into it
    header = struct.pack("<Ii", _CAPABILITY_VERSION, 0)
    _check(_LIBC.capset(header, bytes(24)))


def _close_files() -> None:
    known = _check(_LIBC.syscall(_LANDLOCK_CREATE_RULESET, None, ctypes.c_size_t(0), _LANDLOCK_VERSION))
    rules = -1
    for abi, rights in _LANDLOCK_RIGHTS:
        attributes = struct.pack(f"={len(rights)}Q", *rights)
        if abi <= known and rules < 0:  # kernels of distributions say more than they know
            rules = _LIBC.syscall(_LANDLOCK_CREATE_RULESET, attributes, ctypes.c_size_t(len(attributes)), 0)
    _check(rules)
    try:
        _check(_LIBC.syscall(_LANDLOCK_RESTRICT_SELF, rules, 0))
    finally:
        os.close(rules)


def _filter_calls() -> None:
    machine = platform.machine()
    if machine != "x86_64":
        raise ValueError(f"no list of system calls for {machine}")
    filtered = filter_program(os.getpid())
    program = _Program(len(filtered) // 8, filtered)
    _prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(program))


def filter_program(pid: int) -> bytes:
    """The filter of system calls for a process, in classic BPF: ``struct sock_filter`` after ``struct sock_filter``.

    Memory that can be run is refused, so that code has to be what was loaded, and signals but to itself, for abort().
    """

    def step(code: int, value: int, otherwise: int = 0, then: int = 0) -> bytes:
        return struct.pack("=HBBI", code, then, otherwise, value)

    refuse, allow = step(_RETURN, _REFUSE), step(_RETURN, _ALLOW)
    parts = [step(_LOAD, _ARCH_AT), step(_IF_EQUAL, _X86_64, then=1), refuse]
    parts += [step(_LOAD, _NR_AT), step(_IF_ABOVE, _X32, otherwise=1), refuse]
    for number in _ALLOWED.values():
        parts += [step(_IF_EQUAL, number, otherwise=1), allow]
    for number, argument, test, value, yes, no in (
        (_MMAP, 2, _IF_ANY_OF, _PROT_EXEC, refuse, allow),
        (_MPROTECT, 2, _IF_ANY_OF, _PROT_EXEC, refuse, allow),
        (_TGKILL, 0, _IF_EQUAL, pid, allow, refuse),
    ):
        parts += [step(_IF_EQUAL, number, otherwise=4), step(_LOAD, _ARGS_AT + 8 * argument)]
        parts += [step(test, value, otherwise=1), yes, no]
    return b"".join([*parts, refuse])
