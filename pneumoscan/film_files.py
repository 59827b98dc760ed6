"""Which files are films, and what the pictures made of them are called."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".dcm", ".dicom"})
# Where a format's first bytes are, and what they are.
_MAGIC = ((0, b"\x89PNG\r\n\x1a\n"), (0, b"\xff\xd8\xff"), (128, b"DICM"))

Wanted = Callable[[str, Callable[[], bytes]], bool]  # of a file: its name, and what reads its first bytes


def find_films(paths: Sequence[Path]) -> list[Path]:
    """Give the films at some paths, each once, in the order of the paths and by name inside a folder.

    A file that is named is always taken: the server says what is wrong with it. From a folder and the folders in it
    come the files with a film's suffix, and those without a suffix whose first bytes are a film's, as picture archives
    name DICOM files. Hidden ones are left out, and so is ``DICOMDIR``, a table of contents.

    Parameters
    ----------
    paths
        Files and folders.

    Raises
    ------
    FileNotFoundError
        A path does not exist.
    """
    films: dict[Path, Path] = {}
    for path in paths:
        if not path.exists():
            raise FileNotFoundError(f"{path} does not exist")
        for film in walk_films(path) if path.is_dir() else [path]:
            films.setdefault(film.resolve(), film)
    return list(films.values())


def find_dicom(path: Path) -> list[Path]:
    """Give the DICOM files of a folder and the folders in it by their first bytes, in the order of their names.

    A file that is named is taken as it is; hidden files and ``DICOMDIR`` are left out as in `find_films`. One without
    the mark of DICOM is found by its suffix alone.

    Raises
    ------
    FileNotFoundError
        The path does not exist.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist")
    return list(walk_films(path, _is_dicom)) if path.is_dir() else [path]


def picture_names(films: Sequence[Path], kind: str) -> list[str]:
    """Give a file name for each film's picture, all different: ``<stem>.<kind>.png`` where that is.

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


def walk_films(folder: Path, is_wanted: Wanted | None = None) -> Iterator[Path]:
    """Give the films in a folder and the folders in it, by name, as `find_films` chooses them, or other files.

    Of one folder at a time the names are kept. A link to a folder that it lies in leads nowhere new and is passed over.
    """
    is_wanted = is_wanted or is_film
    for name in sorted(os.listdir(folder)):  # noqa: PTH208 - a name takes less memory than a path
        entry = folder / name
        if name.startswith("."):
            continue
        if entry.is_dir():
            if not (entry.is_symlink() and folder.resolve().is_relative_to(entry.resolve())):
                yield from walk_films(entry, is_wanted)
        elif is_wanted(name, partial(_head, entry)):
            yield entry


def is_film(name: str, read_head: Callable[[], bytes]) -> bool:
    """Whether a file in a folder is taken for a film: by its suffix, and without one by its first 132 bytes.

    One without a suffix that cannot be read is taken, so that somebody hears of it.
    """
    path = Path(name)
    if path.suffix.lower() in SUFFIXES:
        return True
    # DICOM files are often named by their UID, 1.2.840.113619.2.5: digits are no suffix.
    if path.name.upper() == "DICOMDIR" or (path.suffix != "" and not path.suffix[1:].isdigit()):
        return False
    try:
        head = read_head()
    except OSError:
        return True
    return any(head[start : start + len(magic)] == magic for start, magic in _MAGIC)


def _head(path: Path) -> bytes:
    if not path.is_file():  # a pipe, a socket
        return b""
    with path.open("rb") as file:
        return file.read(132)


def _is_dicom(name: str, read_head: Callable[[], bytes]) -> bool:
    """Whether a file in a folder is taken for a DICOM file: by its suffix or by its first 132 bytes."""
    path = Path(name)
    if path.suffix.lower() in (".dcm", ".dicom"):
        return True
    if path.name.upper() == "DICOMDIR":
        return False
    try:
        return read_head()[128:132] == b"DICM"
    except OSError:
        return False
