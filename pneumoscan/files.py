"""Files that are written whole or not at all, and locks that the kernel lets go of.

A file is made as a draft beside its place, ``.NAME.PID.partial``, and put there by a rename, which is atomic within a
file system (POSIX, rename). A draft is removed when the writing fails; `clear_drafts` removes what a kill left.
"""

from __future__ import annotations

import fcntl
import os
import re
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
            fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            if busy is not None:
                raise busy from None
            raise
        yield lock.fileno()


def is_locked(path: Path) -> bool:
    """Whether a process holds a lock file."""
    if not path.parent.is_dir():
        return False
    try:
        with locked(path):
            return False
    except BlockingIOError:
        return True


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
