"""Which files are films, and what the pictures made of them are called."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

# Where a format's first bytes are, and what they are; a DICOM file may lack the 128 bytes before them.
_MAGIC = ((0, b"\x89PNG\r\n\x1a\n"), (0, b"\xff\xd8\xff"), (128, b"DICM"), (0, b"DICM"))
# Without its meta group it begins with an element of group 8, whose length is short or comes after a VR in letters.
_GROUP_8 = b"\x08\x00"
_LONGEST_FIRST = 1024
_TABLE_OF_CONTENTS = b"1.2.840.10008.1.3.10"  # the SOP class of a DICOMDIR, whatever the file is called
_HEAD_BYTES = 1024
_KINDS_NAMED = 5


@dataclass(frozen=True, slots=True)
class Found:
    """The films at some paths, each once, and the other files that lie in their folders."""

    films: list[Path]
    left_out: list[Path]

    @property
    def what_was_left_out(self) -> str:
        """How many files are no films, by suffix; empty where all are."""
        if not self.left_out:
            return ""
        counts = Counter(path.suffix.lower() if _has_suffix(path) else "without a suffix" for path in self.left_out)
        kinds = ", ".join(f"{count} {suffix}" for suffix, count in counts.most_common(_KINDS_NAMED))
        rest = len(counts) - _KINDS_NAMED
        return f"{len(self.left_out)} left out, no PNG, JPEG or DICOM: {kinds}" + (" and others" if rest > 0 else "")


def find_films(paths: Sequence[Path]) -> Found:
    """Give the films at some paths, each once, in the order of the paths and by name inside a folder.

    A file that is named is always taken: the server says what is wrong with it. From a folder and the folders in it
    come the files whose first bytes are a film's, whatever they are called. Hidden ones are left out and not counted;
    ``DICOMDIR``, a table of contents, is.

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
    others: dict[Path, Path] = {}
    for path in paths:
        if not path.exists():
            raise FileNotFoundError(f"{path} does not exist")
        for file in _walk(path) if path.is_dir() else [path]:
            is_film = file == path or _looks_like_film(file)
            (films if is_film else others).setdefault(file.resolve(), file)
    return Found(list(films.values()), [other for place, other in others.items() if place not in films])


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


def _walk(folder: Path) -> Iterator[Path]:
    for entry in sorted(folder.iterdir()):
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            yield from _walk(entry)
        elif entry.is_file():
            yield entry


def _has_suffix(path: Path) -> bool:
    # DICOM files are often named by their UID, 1.2.840.113619.2.5: digits are no suffix.
    return path.suffix != "" and not path.suffix[1:].isdigit()


def _looks_like_film(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
    except OSError:
        return True  # whoever asks about it gets the reason
    if any(head[start : start + len(magic)] == magic for start, magic in _MAGIC):
        return _TABLE_OF_CONTENTS not in head
    if not head.startswith(_GROUP_8) or len(head) < 132:
        return False
    return (head[4:6].isalpha() and head[4:6].isupper()) or int.from_bytes(head[4:8], "little") <= _LONGEST_FIRST
