"""The archives of a model store: which there are, in which order, and whether each can be read at all."""

from __future__ import annotations

import re
import struct
import zipfile
import zlib
from dataclasses import dataclass
from functools import total_ordering
from pathlib import Path

from pneumoscan.archive_entries import look_through
from pneumoscan.errors import StoreError
from pneumoscan.files import sha256_of

MODEL_NAME = "pneumonia"

# Semantic Versioning 2.0.0 without the build part, which has no order and whose "+" means a space in a URL.
_VERSION = re.compile(r"(?P<release>\d+(?:\.\d+){0,2})(?:-(?P<pre>[0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*))?")
_ARCHIVE_NAME = re.compile(rf"{MODEL_NAME}-(?P<version>.+)\.mar")

# What zipfile and json raise over damage, depending on where it is.
_UNREADABLE = (OSError, ValueError, KeyError, TypeError, EOFError, RuntimeError, struct.error, zlib.error)


@total_ordering
@dataclass(frozen=True)
class Version:
    """A version in the order of Semantic Versioning 2.0.0, section 11: 1.0.0-rc.1 < 1.0.0 < 1.2.0 < 1.10.0."""

    text: str

    @classmethod
    def parse(cls, text: str) -> Version | None:
        """The version that a text writes, or None if it writes none."""
        return cls(text) if _VERSION.fullmatch(text) else None

    @property
    def _key(self) -> tuple[tuple[int, ...], bool, tuple[tuple[bool, int, str], ...]]:
        found = _VERSION.fullmatch(self.text)
        assert found is not None, self.text
        release = tuple(int(number) for number in found["release"].split("."))
        pre = found["pre"]
        # Numbers sort below words, and any pre-release below the release itself.
        words = tuple(
            (not word.isdigit(), int(word) if word.isdigit() else 0, word) for word in (pre.split(".") if pre else ())
        )
        return release + (0,) * (3 - len(release)), pre is None, words

    def __lt__(self, other: Version) -> bool:
        return self._key < other._key

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Archive:
    """One ``pneumonia-<version>.mar`` of a store."""

    path: Path
    version: Version


def archive_name(version: str) -> str:
    """The file name of a version's archive."""
    return f"{MODEL_NAME}-{version}.mar"


def list_archives(store: Path) -> tuple[list[Archive], list[str]]:
    """The archives of a store, newest version first, and the names of the ``.mar`` files that are none of them.

    Parameters
    ----------
    store
        Folder with ``pneumonia-<version>.mar`` files.

    Raises
    ------
    StoreError
        The folder is missing or has no such file.
    """
    if not store.is_dir():
        raise StoreError(f"no model store at {store}: pack an archive into it with pneumoscan pack, or give --store")
    archives: list[Archive] = []
    ignored: list[str] = []
    for path in sorted(store.glob("*.mar")):
        found = _ARCHIVE_NAME.fullmatch(path.name)
        version = Version.parse(found["version"]) if found else None
        if version is None:
            ignored.append(path.name)
        else:
            archives.append(Archive(path, version))
    if not archives:
        raise StoreError(
            f"no {MODEL_NAME}-<version>.mar in {store}"
            + (f" (only {', '.join(ignored)})" if ignored else "")
            + ": pack one with pneumoscan pack, or give --store"
        )
    return sorted(archives, key=lambda archive: archive.version, reverse=True), ignored


def archive_digest(archive: Archive) -> str:
    """The SHA-256 of an archive's file, as hexadecimal digits.

    Raises
    ------
    StoreError
        The file cannot be read.
    """
    try:
        return sha256_of(archive.path)
    except OSError as error:
        raise StoreError(f"{archive.path} cannot be read ({error.strerror})") from error


def check_archive(archive: Archive) -> None:
    """Check what TorchServe would only tell its log, or not at all, before it sees a byte of the archive.

    Raises
    ------
    ArchiveRefused
        An entry may not be unpacked: see `look_through`.
    StoreError
        The file is no zip archive, is damaged, has no readable manifest, or holds another version.
    """
    try:
        with zipfile.ZipFile(archive.path) as mar:
            manifest = look_through(mar, archive.path)
        packed = str(manifest["model"]["modelVersion"])
    except (*_UNREADABLE, zipfile.BadZipFile) as error:
        raise StoreError(f"{archive.path} is no model archive ({error}): pack it again, or move it away") from error
    if packed != archive.version.text:
        raise StoreError(f"{archive.path} holds version {packed}: rename it to {archive_name(packed)}, or move it away")


def unpack_archive(path: Path, folder: Path) -> None:
    """Unpack a model archive, whatever its file is called, into a new folder.

    Raises
    ------
    ArchiveRefused
        An entry may not be unpacked; nothing was.
    StoreError
        The file is missing, no archive or damaged.
    """
    try:
        with zipfile.ZipFile(path) as mar:
            look_through(mar, path)
            mar.extractall(folder)
    except (*_UNREADABLE, zipfile.BadZipFile) as error:
        raise StoreError(f"{path} is no model archive ({error}): give a .mar file made by pneumoscan pack") from error
