"""Which patients are one, and which split each belongs to."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from cxr_training.data.prepare.duplicates import groups
from cxr_training.data.records import SPLITS

Fractions = tuple[float, float, float]


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
