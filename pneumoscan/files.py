"""Files that are written whole or not at all, and locks that the kernel lets go of.

A file is made as a draft beside its place, ``.NAME.PID.partial``, and put there by a rename, which is atomic within a
file system (POSIX, rename). A draft is removed when the writing fails; `clear_drafts` removes what a kill left.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import re
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

_DRAFT: Final = re.compile(r"\..+\.\d+\.partial")


def write_whole(path: Path, write: Callable[[Path], object], *, mode: int | None = None, durable: bool = False) -> None:
    """Make a file by a function that writes to the path it is given.

    Parameters
    ----------
    write
        Gets the draft's path. An exception from it leaves what stood at `path` as it was.
    mode
        Permissions of the file, from its first byte on; by default those that the umask leaves.
    durable
        Return only when file and name are on the disk (fsync): for keys and for declared states, which must survive a
        power failure.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}.partial")
    draft.unlink(missing_ok=True)
    try:
        if mode is not None:
            os.close(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode))
        write(draft)
        if durable:
            _sync(draft)
        draft.replace(path)
        if durable:
            _sync(path.parent)
    finally:
        draft.unlink(missing_ok=True)


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file, as hexadecimal digits; `cxr.model.spec.sha256_of` is the one that ships in an archive."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def write_bytes(path: Path, data: bytes, *, mode: int | None = None, durable: bool = False) -> None:
    """Write bytes as `write_whole` does."""
    write_whole(path, lambda draft: draft.write_bytes(data), mode=mode, durable=durable)


def write_text(path: Path, text: str, *, mode: int | None = None, durable: bool = False) -> None:
    """Write a text as UTF-8, as `write_whole` does."""
    write_bytes(path, text.encode("utf-8"), mode=mode, durable=durable)


def clear_drafts(folder: Path) -> None:
    """Remove what a kill left of `write_whole` in a folder that no other process writes to."""
    for left in folder.glob(".*.partial"):
        if _DRAFT.fullmatch(left.name):
            left.unlink(missing_ok=True)


@contextmanager
def locked(path: Path, *, wait: bool = False, busy: Exception | None = None) -> Iterator[int]:
    """Hold a lock file; give its file descriptor, which a child process may hold as well.

    The kernel lets go when the last holder ends, in whatever way.

    Parameters
    ----------
    wait
        Wait for another holder's end.
    busy
        Raised instead of BlockingIOError where another process holds it and `wait` is off.

    Raises
    ------
    BlockingIOError
        Another process holds it, and `wait` is off.
    OSError
        The file cannot be made.
    """
    with path.open("a") as lock:
        try:
            _lock(lock.fileno(), wait=wait)
        except BlockingIOError:
            if busy is not None:
                raise busy from None
            raise
        yield lock.fileno()


@contextmanager
def changing(path: Path, lock: str, error: type[Exception], *, mode: int = 0o777) -> Iterator[None]:
    """Hold a file that one at a time may read and write again; its folder is made where it is not there.

    Parameters
    ----------
    lock
        Name of the lock file beside it.
    error
        Raised, with the path and the reason, where the disk refuses.
    mode
        Of a folder that is made.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=mode)
        with locked(path.with_name(lock), wait=True):
            yield
    except OSError as refused:
        raise error(f"{path} cannot be changed: {refused}") from refused


def is_locked(path: Path) -> bool:
    """Whether a process holds a lock file. Looking does not take it, so that nobody who wants it is refused."""
    try:
        lock = os.open(path, os.O_RDONLY)
    except OSError:
        return False
    try:
        if not hasattr(fcntl, "F_OFD_GETLK"):
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
                return False
            return True
        found = fcntl.fcntl(lock, fcntl.F_OFD_GETLK, _WHOLE_FILE)
        return bool(struct.unpack(_FLOCK, found)[0] != fcntl.F_UNLCK)
    finally:
        os.close(lock)


# <fcntl.h>, struct flock: type, whence, start, length (0 for all), process id, padded to eight bytes.
_FLOCK: Final = "hhqqi4x"
_WHOLE_FILE: Final = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)


def _lock(descriptor: int, *, wait: bool) -> None:
    """Take a lock that belongs to the open file (fcntl(2), open file description locks), as flock's does.

    Unlike flock's it can be looked at. Where there is none, as on macOS, flock's stands in.
    """
    if hasattr(fcntl, "F_OFD_SETLK"):
        try:
            fcntl.fcntl(descriptor, fcntl.F_OFD_SETLKW if wait else fcntl.F_OFD_SETLK, _WHOLE_FILE)
        except OSError as error:  # POSIX leaves open which of the two it is
            if error.errno in (errno.EACCES, errno.EAGAIN):
                raise BlockingIOError(error.errno, error.strerror) from None
            raise
    else:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
