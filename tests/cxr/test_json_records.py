"""JSON into records: what fits becomes typed, what does not is named by its key."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from cxr.errors import ModelError
from cxr.json_records import SEAL, FieldError, parse, read, read_file, sealed, to_json


@dataclass(frozen=True, slots=True)
class Told:
    share: float
    interval: tuple[float, float] | None
    with_: float = 1.0


@dataclass(frozen=True, slots=True)
class Reason:
    reason: str


@dataclass(frozen=True, slots=True)
class Page:
    title: str
    films: int
    whole: bool
    notes: tuple[str, ...]
    by_name: dict[str, Told | Reason] = field(default_factory=dict)


VALUES = {
    "title": "a",
    "films": 3,
    "whole": True,
    "notes": ["b", "c"],
    "by_name": {"one": {"share": 1, "interval": [0.1, 0.2], "with": 0.5}, "two": {"reason": "too few"}},
}
PAGE = Page("a", 3, True, ("b", "c"), {"one": Told(1, (0.1, 0.2), 0.5), "two": Reason("too few")})


def test_a_record_is_read_from_json_and_written_as_it_was() -> None:
    assert read(Page, VALUES) == PAGE
    assert parse(to_json(PAGE)) == VALUES
    assert list(json.loads(to_json(PAGE))) == [*VALUES, SEAL]
    assert to_json(PAGE) == json.dumps(sealed(VALUES), indent=2) + "\n"  # whole numbers stay whole


def test_a_file_with_other_values_than_it_was_written_with_is_refused() -> None:
    text = to_json(PAGE)
    assert parse(text.replace("  ", "")) == VALUES  # the layout is nobody's business
    with pytest.raises(FieldError, match="changed after it was written"):
        parse(text.replace('"films": 3', '"films": 4'))
    with pytest.raises(FieldError, match="no JSON"):
        parse("[" * 100_000)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"title": 1}, "title is 1: a text is needed"),
        ({"films": 1.5}, "films is 1.5: a whole number is needed"),
        ({"films": True}, "films is true: a whole number is needed"),
        ({"whole": 1}, "whole is 1: true or false is needed"),
        ({"notes": "b"}, 'notes is "b": a list is needed'),
        ({"notes": ["b", None]}, r"notes\[1\] is null: a text is needed"),
        ({"by_name": []}, "by_name is a list: an object is needed"),
        ({"by_name": {"x": {"share": 1.0, "interval": [1]}}}, r"by_name.x.interval has 1 values: 2 are needed"),
        ({"by_name": {"x": {"share": "1", "interval": None}}}, 'by_name.x.share is "1": a number is needed'),
        ({"by_name": {"x": {}}}, "by_name.x.(interval|reason) is missing"),
        ({"more": 1}, "more is unknown"),
    ],
)
def test_what_does_not_fit_is_named_by_its_key(changed: dict[str, object], message: str) -> None:
    with pytest.raises(FieldError, match=message):
        read(Page, VALUES | changed)


def test_unknown_keys_can_be_passed_over() -> None:
    one = {"share": 1, "interval": [0.1, 0.2], "with": 0.5, "more": 2}
    values = VALUES | {"by_name": VALUES["by_name"] | {"one": one}, "further": 1}  # type: ignore[operator]
    assert read(Page, values, ignore_unknown=True) == PAGE


@pytest.mark.parametrize("text", ["{", "", "NaN", '{"title": Infinity}', b"\xff\xfe\xff"])
def test_what_is_no_json_is_refused(text: str | bytes) -> None:
    with pytest.raises(FieldError, match="no JSON"):
        parse(text)


def test_a_damaged_file_is_named_with_its_key_and_the_command(tmp_path: Path) -> None:
    path = tmp_path / "page.json"
    path.write_text(json.dumps(VALUES), encoding="utf-8")
    assert read_file(path, Page, "pneumoscan evaluate") == PAGE
    path.write_text("[]", encoding="utf-8")
    with pytest.raises(ModelError, match=r"page\.json is damaged .*the file is a list.* run pneumoscan evaluate again"):
        read_file(path, Page, "pneumoscan evaluate")


def test_a_mistake_in_a_record_itself_is_not_taken_for_one_in_the_file() -> None:
    @dataclass(frozen=True)
    class Broken:
        title: str

        def __post_init__(self) -> None:
            raise LookupError("ours")

    with pytest.raises(LookupError, match="ours"):
        read(Broken, {"title": "a"})
