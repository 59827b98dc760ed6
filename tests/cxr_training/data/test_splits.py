from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from cxr_training.data.prepare.films import Patient, assign_splits, unite

FRACTIONS = (0.7, 0.15, 0.15)


def patients(count: int, stratum: tuple[str, str], seed: int = 0) -> list[Patient]:
    films = np.random.default_rng(seed).integers(1, 5, count)
    return [Patient(f"{stratum[0]}:{stratum[1]}:{n}", stratum, int(films[n])) for n in range(count)]


def test_each_stratum_gets_its_shares_of_the_films() -> None:
    everyone = patients(200, ("one", "NORMAL")) + patients(80, ("one", "PNEUMONIA")) + patients(40, ("two", "NORMAL"))

    splits = assign_splits(everyone, FRACTIONS, seed=3)

    for stratum in {patient.stratum for patient in everyone}:
        films: Counter[str] = Counter()
        for patient in everyone:
            if patient.stratum == stratum:
                films[splits[patient.patient_id]] += patient.films
        for split, share in zip(("train", "val", "test"), FRACTIONS, strict=True):
            assert films[split] == pytest.approx(share * films.total(), abs=4)  # no patient has more than 4 films


def test_the_order_of_the_patients_does_not_matter_and_the_seed_does() -> None:
    everyone = patients(100, ("one", "NORMAL"))

    assert assign_splits(everyone[::-1], FRACTIONS, 0) == assign_splits(everyone, FRACTIONS, 0)
    assert assign_splits(everyone, FRACTIONS, 1) != assign_splits(everyone, FRACTIONS, 0)


@pytest.mark.parametrize(
    ("own", "split"),
    [({"train"}, "train"), ({"train", "val"}, "val"), ({"val", "test"}, "test"), ({"train", "test"}, "test")],
)
def test_a_patient_in_several_splits_goes_to_the_most_held_out(own: set[str], split: str) -> None:
    assert assign_splits([Patient("a", ("s", "NORMAL"), 2, frozenset(own))], FRACTIONS, 0) == {"a": split}


def test_a_share_of_nothing_gets_nothing() -> None:
    assert set(assign_splits(patients(50, ("one", "NORMAL")), (0.0, 0.0, 1.0), 0).values()) == {"test"}


def test_patients_are_united_through_chains_of_shared_exposures() -> None:
    names = unite(["rsna:1", "covid:7", "folder:x", "rsna:2"], [["rsna:1", "folder:x"], ["folder:x", "covid:7"]])

    assert names == {"rsna:1": "covid:7", "covid:7": "covid:7", "folder:x": "covid:7", "rsna:2": "rsna:2"}
