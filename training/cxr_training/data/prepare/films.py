"""From what collections offer to the films of a data folder: decoded, each exposure once, split by patient."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from cxr.errors import InputError
from cxr_training.data.collections.candidates import Box, Candidate, Collected, Dropped
from cxr_training.data.prepare.duplicates import Fingerprint, fingerprint, groups, same_exposures
from cxr_training.data.progress import progress_bar
from cxr_training.data.records import IGNORED_LABEL, SPLITS
from cxr_training.errors import TrainingError

FRACTIONS: Final = (0.7, 0.15, 0.15)
_EXTENSIONS: Final = {"PNG": "png", "JPEG": "jpg", "DICOM": "dcm"}
_STRATUM_LABELS: Final = ("PNEUMONIA", "NORMAL", IGNORED_LABEL)  # a patient counts for the first that any film has

Fractions = tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class Settings:
    """How films are prepared.

    Parameters
    ----------
    fractions
        Of the films, for train, val and test.
    other
        ``keep`` leaves films that are abnormal without pneumonia as OTHER, ``negative`` calls them NORMAL.
    resplit
        Whether to split again what has a split.
    """

    seed: int = 0
    fractions: Fractions = FRACTIONS
    other: str = "keep"
    resplit: bool = False


@dataclass(frozen=True, slots=True)
class Prepared:
    """One film of the data folder: its candidate, with patients united, and the split it got."""

    candidate: Candidate
    identity: Fingerprint
    patient_id: str
    split: str

    @property
    def file(self) -> str:
        """Path in the data folder, named by digest; it tells neither source nor label."""
        return f"images/{self.identity.sha256[:24]}.{_EXTENSIONS[self.identity.format]}"

    @property
    def view(self) -> str:
        """As the tables say, or else the file."""
        return self.candidate.view or self.identity.view

    @property
    def boxes(self) -> tuple[Box, ...]:
        """Those that lie on the film, in its pixels."""
        width, height, side = self.identity.width, self.identity.height, self.candidate.boxes_side
        if side and width != height:
            return ()  # cropped or squeezed since the boxes were drawn on a square
        boxes = [box.scaled(width / side) if side else box for box in self.candidate.boxes]
        return tuple(box for box in boxes if box.fits(width, height))


@dataclass(frozen=True, slots=True)
class Preparation:
    """All that was prepared.

    Parameters
    ----------
    united
        Patients that turned out to be another one of the list.
    moved
        Films that lost the split they had, because their patient was in several.
    """

    settings: Settings
    films: tuple[Prepared, ...]
    dropped: tuple[Dropped, ...]
    united: int
    moved: int


@dataclass(frozen=True, slots=True)
class Patient:
    """A patient as the split sees one.

    Parameters
    ----------
    stratum
        Patients are shared out within it: source and label.
    films
        How many are kept.
    own_splits
        The splits the patient's films already had.
    """

    patient_id: str
    stratum: tuple[str, str]
    films: int
    own_splits: frozenset[str] = frozenset()


def prepare_films(collections: Sequence[Collected], settings: Settings) -> Preparation:
    """Decode every film, leave duplicates out and split by patient; the order of tables and files does not matter.

    Raises
    ------
    TrainingError
        If no film is left.
    """
    dropped = [entry for collected in collections for entry in collected.dropped]
    offered = [_relabelled(film, settings.other) for collected in collections for film in collected.candidates]
    read = _decode(sorted(offered, key=lambda film: (film.full_name, repr(film))), dropped)
    exposures = [[read[place] for place in group] for group in same_exposures([identity for _, identity in read])]
    kept = [one for group in exposures if (one := _best(group, dropped))]
    if not kept:
        raise TrainingError(f"no film is left of {len(dropped)}: {_reasons(dropped)}")
    names = unite(
        (candidate.patient_id for candidate, _ in read),
        ([candidate.patient_id for candidate, _ in group] for group in exposures),
    )
    patients = _patients([candidate for candidate, _ in read], [candidate for candidate, _ in kept], names, settings)
    splits = assign_splits(patients, settings.fractions, settings.seed)
    films = [
        Prepared(candidate, identity, names[candidate.patient_id], splits[names[candidate.patient_id]])
        for candidate, identity in kept
    ]
    return Preparation(
        settings,
        tuple(sorted(films, key=lambda film: film.candidate.full_name)),
        tuple(sorted(dropped, key=lambda entry: (entry.reason, entry.name, entry.instead))),
        united=len(names) - len(set(names.values())),
        moved=0 if settings.resplit else sum(film.candidate.split not in ("", film.split) for film in films),
    )


def _relabelled(film: Candidate, other: str) -> Candidate:
    return replace(film, label="NORMAL") if film.label == IGNORED_LABEL and other == "negative" else film


def _decode(candidates: Sequence[Candidate], dropped: list[Dropped]) -> list[tuple[Candidate, Fingerprint]]:
    read = []
    for candidate in progress_bar(candidates, "films", "film"):
        try:
            read.append((candidate, fingerprint(candidate.path)))
        except InputError as error:
            dropped.append(Dropped(candidate.full_name, error.code))
    return read


def _best(
    group: Sequence[tuple[Candidate, Fingerprint]], dropped: list[Dropped]
) -> tuple[Candidate, Fingerprint] | None:
    """The film of an exposure that is kept: with boxes, or else with most pixels, or else the one compressed least.

    None where the labels differ.
    """
    if len({candidate.label for candidate, _ in group}) > 1:
        dropped.extend(Dropped(candidate.full_name, "duplicates_disagree") for candidate, _ in group)
        return None
    first, *others = sorted(group, key=_worth, reverse=True)
    for candidate, identity in others:
        if identity.sha256 == first[1].sha256:
            reason = "duplicate_file"
        else:
            reason = "duplicate_pixels" if identity.pixels_sha256 == first[1].pixels_sha256 else "near_duplicate"
        dropped.append(Dropped(candidate.full_name, reason, first[0].full_name))
    return first


def _worth(film: tuple[Candidate, Fingerprint]) -> tuple[bool, int, int]:
    candidate, identity = film
    return bool(candidate.boxes), identity.width * identity.height, identity.size_bytes


def _patients(
    read: Sequence[Candidate], kept: Sequence[Candidate], names: dict[str, str], settings: Settings
) -> list[Patient]:
    """The patients with films that are kept. A duplicate that is left out still says in which split its patient was."""
    own_splits: dict[str, set[str]] = defaultdict(set)
    for candidate in read:
        if candidate.split and not settings.resplit:
            own_splits[names[candidate.patient_id]].add(candidate.split)
    films: dict[str, list[Candidate]] = defaultdict(list)
    for candidate in kept:
        films[names[candidate.patient_id]].append(candidate)
    return [
        Patient(
            name,
            (
                min(film.source for film in members),
                min((film.label for film in members), key=_STRATUM_LABELS.index),
            ),
            len(members),
            frozenset(own_splits[name]),
        )
        for name, members in films.items()
    ]


def unite(patient_ids: Iterable[str], same: Iterable[Sequence[str]]) -> dict[str, str]:
    """A name for every patient: the first, in order, of those that share an exposure."""
    names = sorted(set(patient_ids))
    place = {name: number for number, name in enumerate(names)}
    pairs = [(place[group[0]], place[other]) for group in same for other in group[1:]]
    return {names[member]: names[group[0]] for group in groups(len(names), pairs) for member in group}


def assign_splits(patients: Iterable[Patient], fractions: Fractions, seed: int) -> dict[str, str]:
    """A split for every patient; the order of the patients does not matter.

    A split that a patient already has is kept. One in several goes to the most held out of them: test before val
    before train, so that no film that was trained on is measured as if it were new. The others are shared out within
    their stratum, in an order given by seed and name: each to the split that lacks most films.
    """
    chosen: dict[str, str] = {}
    strata: Mapping[tuple[str, str], list[Patient]] = defaultdict(list)
    for patient in patients:
        if patient.own_splits:
            chosen[patient.patient_id] = max(patient.own_splits, key=SPLITS.index)
        else:
            strata[patient.stratum].append(patient)
    for members in strata.values():
        given: Counter[str] = Counter()
        for patient in sorted(members, key=lambda member: _rank(seed, member.patient_id)):
            total = given.total() + patient.films
            lacks = {name: part * total - given[name] for name, part in zip(SPLITS, fractions, strict=True)}
            split = max(SPLITS, key=lambda name: (lacks[name], -SPLITS.index(name)))
            given[split] += patient.films
            chosen[patient.patient_id] = split
    return chosen


def _rank(seed: int, patient_id: str) -> bytes:
    return hashlib.sha256(f"{seed} {patient_id}".encode()).digest()


def _reasons(dropped: Sequence[Dropped]) -> str:
    return ", ".join(sorted({entry.reason for entry in dropped})) or "the folders hold none"
