"""The keys that open the edge: a file that holds their SHA-256 and no key.

A key is 256 random bits, so its plain SHA-256 cannot be guessed back and needs neither salt nor a slow hash.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from pneumoscan.errors import KeyFileError
from pneumoscan.files import changing, write_text

MOST_KEYS: Final = 64
LONGEST_KEY: Final = 256
_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,32}")
_LINE: Final = re.compile(r"(?P<name>[A-Za-z0-9_-]{1,32}) (?P<sha256>[0-9a-f]{64}) (?P<expires>never|\S+)")
_HEAD: Final = "# Keys of the edge: name, SHA-256 of the key, when it ends. Written by pneumoscan keys.\n"


@dataclass(frozen=True)
class Key:
    """One key, as the file knows it.

    Parameters
    ----------
    name
        Who uses it; stands in the access log.
    sha256
        Of the key's text, hexadecimal.
    expires
        When it stops opening anything, in UTC.
    """

    name: str
    sha256: str
    expires: datetime | None = None

    def is_valid(self, now: datetime) -> bool:
        """Whether it still opens the edge."""
        return self.expires is None or now < self.expires


def read(path: Path) -> tuple[Key, ...]:
    """The keys of a file.

    Raises
    ------
    KeyFileError
        It cannot be read, is open to others, or holds a line that is no key: then none of it is believed.
    """
    try:
        # Of the open file, so that the one that was judged is the one that is read.
        with path.open(encoding="ascii", errors="strict") as file:
            stat = os.fstat(file.fileno())
            mode = stat.st_mode
            text = file.read(1 << 20)
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not ASCII"
        raise KeyFileError(f"{path} cannot be read ({reason}): add a key with pneumoscan keys") from error
    # A secret that an orchestrator mounts belongs to root and is read as a member of its group.
    if mode & (0o077 if stat.st_uid == os.geteuid() else 0o037):
        raise KeyFileError(f"{path} has mode {mode & 0o777:04o}, others may read it: chmod 600 {path}")
    keys: list[Key] = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        found = _LINE.fullmatch(line)
        if found is None:
            raise KeyFileError(f"{path}, line {number} is no key: a line is <name> <sha256> <expires|never>")
        keys.append(Key(found["name"], found["sha256"], _moment(found["expires"], path, number)))
    return tuple(keys)


def match(keys: Sequence[Key], text: str, now: datetime) -> Key | None:
    """The valid key that a text is, or None.

    Every key is compared, each in constant time, and of digests only: how long it takes tells nothing about a key.
    """
    digest = hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()
    found: Key | None = None
    for key in keys:
        same = hmac.compare_digest(key.sha256, digest)
        found = key if same and key.is_valid(now) else found
    return found


def add(path: Path, name: str, expires: datetime | None = None) -> str:
    """Make a key, keep its digest under a name and give the key itself: it is shown here and nowhere again.

    Raises
    ------
    KeyFileError
        The name is none or taken, or there are too many keys.
    """
    if not _NAME.fullmatch(name):
        raise KeyFileError(f"{name!r} is no name of a key: give 1 to 32 letters, digits, - or _")
    with changing(path, f"{path.name}.lock", KeyFileError, mode=0o700):
        keys = read(path) if path.exists() else ()
        if any(key.name == name for key in keys):
            raise KeyFileError(f"there is a key {name!r}: give the new one another name, then revoke the old one")
        if len(keys) >= MOST_KEYS:
            raise KeyFileError(f"there are {len(keys)} keys, {MOST_KEYS} are the most: revoke one that is not used")
        text = "pns_" + secrets.token_urlsafe(32)
        _write(path, (*keys, Key(name, hashlib.sha256(text.encode()).hexdigest(), expires)))
    return text


def revoke(path: Path, name: str) -> None:
    """Take a key away; the edge refuses it from the next request on.

    Raises
    ------
    KeyFileError
        There is none of that name.
    """
    with changing(path, f"{path.name}.lock", KeyFileError, mode=0o700):
        keys = read(path)
        left = tuple(key for key in keys if key.name != name)
        if len(left) == len(keys):
            raise KeyFileError(f"there is no key {name!r}: known are {', '.join(key.name for key in keys) or 'none'}")
        _write(path, left)


class KeyRing:
    """The keys of a file as it is now: a change counts from the next request on, and no reload is needed.

    Parameters
    ----------
    path
        The file.
    report
        Told why no key opens anything any more, once for each change of the file.
    """

    def __init__(self, path: Path, report: Callable[[str], None]) -> None:
        self._path, self._report = path, report
        self._seen: tuple[int, int, int, int] | None = None
        self._keys: tuple[Key, ...] = ()

    def match(self, text: str) -> Key | None:
        """The valid key that a text is, or None; None for every text while the file cannot be believed."""
        self._look()
        return match(self._keys, text, datetime.now(UTC)) if 0 < len(text) <= LONGEST_KEY else None

    def _look(self) -> None:
        try:
            stat = self._path.stat()
            seen = (stat.st_ino, stat.st_mtime_ns, stat.st_size, stat.st_mode)
        except OSError:
            seen = (0, 0, 0, 0)
        if seen == self._seen:
            return
        self._seen = seen
        try:
            self._keys = read(self._path)
        except KeyFileError as error:
            self._keys = ()
            self._report(f"no key opens anything: {error}")


def _moment(text: str, path: Path, number: int) -> datetime | None:
    if text == "never":
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise KeyFileError(f"{path}, line {number}: {text!r} is no time: write 2026-12-31T00:00:00+00:00") from error
    if moment.tzinfo is None:
        raise KeyFileError(f"{path}, line {number}: {text!r} has no time zone: write {text}+00:00")
    return moment


def _write(path: Path, keys: Sequence[Key]) -> None:
    lines = [f"{key.name} {key.sha256} {key.expires.isoformat() if key.expires else 'never'}\n" for key in keys]
    write_text(path, _HEAD + "".join(lines), mode=0o600, durable=True)
