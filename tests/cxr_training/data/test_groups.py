"""Bands of age as manifests and DICOM write ages, and the groups they make."""

from __future__ import annotations

from pathlib import Path

import pytest

from cxr_training.data.groups import age_band, groups_of
from cxr_training.data.records import Record


@pytest.mark.parametrize(
    ("age", "band"),
    [
        ("062Y", "40-64"),
        ("62", "40-64"),
        ("58.0", "40-64"),
        (" 17.9 ", "6-17"),
        ("18", "18-39"),
        ("5", "0-5"),
        ("5.9", "0-5"),
        ("6", "6-17"),
        ("39", "18-39"),
        ("64", "40-64"),
        ("65", "65+"),
        ("120Y", "65+"),
        ("011M", "0-5"),
        ("090M", "6-17"),
        ("030D", "0-5"),
        ("006W", "0-5"),
        ("1-5y (paediatric)", "0-5"),
        ("4-7", ""),  # in two bands
        ("412", ""),  # as in NIH ChestX-ray14
        ("155Y", ""),
        ("", ""),
        ("unknown", ""),
        ("-3", ""),
        ("nan", ""),
        ("1e2", ""),
    ],
)
def test_an_age_falls_in_its_band_or_in_none(age: str, band: str) -> None:
    assert age_band(age) == band


def record(number: int, **extra: str) -> Record:
    return Record(Path(f"{number}.png"), f"{number}.png", "NORMAL", str(number), "test", "", extra)


def test_groups_are_by_column_by_pair_and_by_age_in_order() -> None:
    groups = groups_of(
        [
            record(0, source="a", label_source="x", view="AP", age="70"),
            record(1, source="a", label_source="y", view="AP", age="7"),
            record(2, source="b", label_source="y", view="AP", age="33Y"),
            record(3, source="b", label_source="y", view="", age="old"),
        ]
    )
    assert {name: rows.nonzero()[0].tolist() for name, rows in groups.items()} == {
        "source=a": [0, 1],
        "source=b": [2, 3],
        "label_source=x": [0],
        "label_source=y": [1, 2, 3],
        "source=a, label_source=x": [0],
        "source=a, label_source=y": [1],
        "source=b, label_source=y": [2, 3],
        "age=6-17": [1],
        "age=18-39": [2],
        "age=65+": [0],
    }
    assert list(groups)[-3:] == ["age=6-17", "age=18-39", "age=65+"]


def test_films_without_these_columns_make_no_groups() -> None:
    assert groups_of([record(0), record(1)]) == {}
