"""One reader of ages, for what is collected and for the groups of an evaluation."""

from __future__ import annotations

import pytest

from cxr_training.data.groups import Age, read_age


@pytest.mark.parametrize(
    ("text", "age", "written"),
    [
        ("62", Age(62, 62), "62"),
        ("062Y", Age(62, 62), "62"),
        ("62 y", Age(62, 62), "62"),
        (" 58.0 ", Age(58, 58), "58"),
        ("58.", Age(58, 58), "58"),
        ("17.9", Age(17, 17), "17"),
        ("40-64", Age(40, 64), "40-64"),
        ("1-5y (paediatric)", Age(1, 5), "1-5"),
        ("18M", Age(1, 1), "1"),
        ("018M", Age(1, 1), "1"),
        ("011M", Age(0, 0), "0"),
        ("104W", Age(1, 1), "1"),
        ("365D", Age(1, 1), "1"),
        ("364D", Age(0, 0), "0"),
        ("0", Age(0, 0), "0"),
        ("120", Age(120, 120), "120"),
    ],
)
def test_ages_are_read_in_whole_years(text: str, age: Age, written: str) -> None:
    assert read_age(text) == age
    assert str(age) == written


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "junk",
        "Elderly",
        "nan",
        "1e2",
        "-3",
        "+5",
        "151",
        "412",
        "155Y",
        "40-412",
        "64-40",
        "5X",
        "Y",
        "40-",
        "\u0665",
    ],
)
def test_what_gives_no_age_is_none(text: str) -> None:
    assert read_age(text) is None
