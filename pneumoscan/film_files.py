"""Which files are films, and what the pictures made of them are called."""

from __future__ import annotations

import lzma
import os
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath

from pneumoscan.errors import UsageError

# Where a format's first bytes are, and what they are; a DICOM file may lack the 128 bytes before them.
_PICTURES = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff")
_DICOM_AT = (128, 0)
_DICOM = b"DICM"
# Without its meta group it begins with an element of group 8, whose length is short or comes after a VR in letters.
_GROUP_8 = b"\x08\x00"
_LONGEST_FIRST = 1024
_SHORTEST = 132
_TABLE_OF_CONTENTS = b"1.2.840.10008.1.3.10"  # the SOP class of a DICOMDIR, whatever the file is called
HEAD_BYTES = 1024
_KINDS_NAMED = 5
_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".dcm", ".dicom"})
# Of a ZIP: what the server takes of one film, and what a study may have
_MOST_BYTES = 48 * 1024 * 1024
_MOST_MEMBERS = 10_000
_MOST_UNPACKED = 8_000_000_000
# What zipfile raises over damage, and (RuntimeError) over what is encrypted or compressed in a way it does not know
_DAMAGE = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, RuntimeError, ValueError, OSError)


@dataclass(frozen=True, slots=True)
class Packed:
    """A file in a ZIP."""

    archive: Path
    member: str


@dataclass(frozen=True, slots=True)
class Found:
    """The films at some paths, each once, and the other files that lie in their folders."""

    films: list[Path]
    left_out: list[Path]
    packed: dict[Path, Packed]  # the films among them that lie in a ZIP; their paths go on into it

    def contents(self, film: Path) -> Path | bytes:
        """Where a film's bytes are, or, of one in a ZIP, its bytes.

        Raises
        ------
        OSError
            It cannot be unpacked.
        """
        if film not in self.packed:
            return film
        packed = self.packed[film]
        with damage_as_os_error(), zipfile.ZipFile(packed.archive) as archive, archive.open(packed.member) as member:
            data = member.read(_MOST_BYTES + 1)
        if len(data) > _MOST_BYTES:
            raise OSError(f"it has more than {_MOST_BYTES:,} bytes")
        return data

    @property
    def what_was_left_out(self) -> str:
        """How many files are no films, by suffix; empty where all are."""
        if not self.left_out:
            return ""
        counts = Counter(path.suffix.lower() if _has_suffix(path) else "without a suffix" for path in self.left_out)
        kinds = ", ".join(f"{count} {suffix}" for suffix, count in counts.most_common(_KINDS_NAMED))
        rest = len(counts) - _KINDS_NAMED
        return f"{len(self.left_out)} left out, no PNG, JPEG or DICOM: {kinds}" + (" and others" if rest > 0 else "")


def find_films(paths: Sequence[Path], zips: bool = False) -> Found:
    """The films at some paths, each once, in the order of the paths and by name inside a folder.

    A file that is named is always taken: the server says what is wrong with it. From a folder and the folders in it
    come the files whose first bytes are a film's, whatever they are called. Hidden ones are left out and not counted;
    ``DICOMDIR``, a table of contents, is.

    Parameters
    ----------
    paths
        Files and folders.
    zips
        Look into ZIP files as into folders, those that are named and those that lie in folders; not into ZIP files in
        them. The films in one are read from it when they are needed, none is written to the disk.

    Raises
    ------
    FileNotFoundError
        A path does not exist.
    UsageError
        A ZIP that is named is damaged, encrypted or beyond the bounds: it holds 10,000 files and 8 GB at most.
    """
    films: dict[Path, Path] = {}
    others: dict[Path, Path] = {}
    packed: dict[Path, Packed] = {}
    for path in paths:
        if not path.exists():
            raise FileNotFoundError(f"{path} does not exist")
        for file in _walk(path) if path.is_dir() else [path]:
            if zips and zipfile.is_zipfile(file):
                try:
                    inside, rest = _look_into(file)
                except UsageError:
                    if file == path:
                        raise
                    inside, rest = {}, [file]
                packed |= inside
                films |= {film: film for film in inside}
                others |= {other: other for other in rest}
                continue
            is_taken = file == path or is_film(partial(_head, file))
            (films if is_taken else others).setdefault(file.resolve(), file)
    return Found(list(films.values()), [other for place, other in others.items() if place not in films], packed)


def find_dicom(path: Path) -> list[Path]:
    """The DICOM files of a folder and the folders in it by their first bytes, in the order of their names.

    A file that is named is taken as it is, and one that is called ``.dcm`` or ``.dicom`` too, so that it has a reason
    where it is none; hidden files and ``DICOMDIR`` are left out as in `find_films`.

    Raises
    ------
    FileNotFoundError
        The path does not exist.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist")
    if not path.is_dir():
        return [path]
    named = (".dcm", ".dicom")
    return [file for file in _walk(path) if file.suffix.lower() in named or is_dicom(partial(_head, file))]


def walk_films(folder: Path) -> Iterator[Path]:
    """The files in a folder and the folders in it that are films or are called like films, by name.

    Unlike `find_films` it takes a film that is damaged from its first byte too: a job has a row for each. Of one folder
    at a time the names are kept.
    """
    return (file for file in _walk(folder) if is_called_film(file.name) or is_film(partial(_head, file)))


def is_called_film(name: str) -> bool:
    """Whether a file's name has the suffix of a film."""
    return Path(name).suffix.lower() in _SUFFIXES


def is_film(read_head: Callable[[], bytes]) -> bool:
    """Whether a file is taken for a film by its first `HEAD_BYTES`.

    One that cannot be read is taken, so that somebody hears of it.
    """
    try:
        head = read_head()
    except OSError:
        return True
    return _begins_as_film(head)


def is_dicom(read_head: Callable[[], bytes]) -> bool:
    """Whether a file is taken for a DICOM film by its first `HEAD_BYTES`; one that cannot be read is."""
    try:
        return _begins_as_dicom(read_head())
    except OSError:
        return True


def _begins_as_film(head: bytes) -> bool:
    return head.startswith(_PICTURES) or _begins_as_dicom(head)


def _begins_as_dicom(head: bytes) -> bool:
    if any(head[start : start + len(_DICOM)] == _DICOM for start in _DICOM_AT):
        return _TABLE_OF_CONTENTS not in head
    if not head.startswith(_GROUP_8) or len(head) < _SHORTEST:
        return False
    return (head[4:6].isalpha() and head[4:6].isupper()) or int.from_bytes(head[4:8], "little") <= _LONGEST_FIRST


def picture_names(films: Sequence[Path], kind: str) -> list[str]:
    """A file name for each film's picture, all different: ``<stem>.<kind>.png`` where that is.

    Parameters
    ----------
    films
        Films, from `find_films`.
    kind
        ``overlay`` or ``heatmap``.

    Returns
    -------
    list of str
        Where stems clash, the folders that tell the films apart and the suffix are there too: ``b__x.dcm.overlay.png``.
    """
    # Folded, because two names that differ in case only are one file on some systems.
    stems = [film.stem.casefold() for film in films]
    counts = Counter(stems)
    clashing = [film.resolve() for film, stem in zip(films, stems, strict=True) if counts[stem] > 1]
    shared = Path(os.path.commonpath([film.parent for film in clashing])) if clashing else Path()
    names: list[str] = []
    taken: set[str] = set()
    for film, stem in zip(films, stems, strict=True):
        name = film.stem if counts[stem] == 1 else "__".join(film.resolve().relative_to(shared).parts)
        unique, number = name, 2
        while unique.casefold() in taken:
            unique, number = f"{name}-{number}", number + 1
        taken.add(unique.casefold())
        names.append(f"{unique}.{kind}.png")
    return names


def _walk(folder: Path) -> Iterator[Path]:
    """The files in a folder and the folders in it; a link to a folder that it lies in is passed over."""
    for name in sorted(os.listdir(folder)):  # noqa: PTH208 - a name takes less memory than a path
        entry = folder / name
        if name.startswith("."):
            continue
        if entry.is_dir():
            if not (entry.is_symlink() and folder.resolve().is_relative_to(entry.resolve())):
                yield from _walk(entry)
        elif entry.is_file():
            yield entry


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(HEAD_BYTES)


def _has_suffix(path: Path) -> bool:
    # DICOM files are often named by their UID, 1.2.840.113619.2.5: digits are no suffix.
    return path.suffix != "" and not path.suffix[1:].isdigit()


def files_in_zip(path: Path) -> Iterator[tuple[zipfile.ZipInfo, Callable[[], bytes]]]:
    """The files in a ZIP, each with what reads its first `HEAD_BYTES`; hidden ones and a Mac's notes are passed over.

    Raises
    ------
    OSError
        The ZIP is damaged. What reads a file raises it where that file is, or is encrypted or compressed in a way that
        is not known here.
    """
    with damage_as_os_error(), zipfile.ZipFile(path) as archive:
        for one in archive.infolist():
            parts = PurePosixPath(one.filename).parts
            if not one.filename.endswith("/") and not any(part[:1] == "." or part == "__MACOSX" for part in parts):
                yield one, partial(_head_in_zip, archive, one)


@contextmanager
def damage_as_os_error() -> Iterator[None]:
    """Whatever zipfile raises over a file in a ZIP in the block, as the error that an unreadable file has."""
    try:
        yield
    except _DAMAGE as error:
        raise OSError(f"it cannot be unpacked: {error}") from error


def _head_in_zip(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    with damage_as_os_error(), archive.open(member) as stream:
        return stream.read(HEAD_BYTES)


def _look_into(path: Path) -> tuple[dict[Path, Packed], list[Path]]:
    """The films in a ZIP, and the other files in it."""
    films: dict[Path, Packed] = {}
    others: list[Path] = []
    try:
        _check_size(path)
        for one, read_head in files_in_zip(path):
            inside = path.joinpath(*(part for part in PurePosixPath(one.filename).parts if part != "/"))
            if one.file_size <= _MOST_BYTES and _begins_as_film(read_head()):
                films[inside] = Packed(path, one.filename)
            else:
                others.append(inside)
    except OSError as error:
        raise UsageError(f"{path}: {error}") from error
    return films, others


def _check_size(path: Path) -> None:
    with damage_as_os_error(), zipfile.ZipFile(path) as archive:
        sizes = [one.file_size for one in archive.infolist() if not one.filename.endswith("/")]
    if len(sizes) > _MOST_MEMBERS or sum(sizes) > _MOST_UNPACKED:
        raise UsageError(
            f"{path} holds {len(sizes):,} files of {sum(sizes):,} bytes; at most {_MOST_MEMBERS:,} and "
            f"{_MOST_UNPACKED:,} are looked into. Unpack it and give the folder."
        )
