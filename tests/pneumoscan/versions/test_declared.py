from __future__ import annotations

import json
import os
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest

from pneumoscan.errors import StoreError
from pneumoscan.model_store import Archive, Version, archive_digest
from pneumoscan.versions.declared import (
    FILE_NAME,
    Declared,
    Registered,
    Verified,
    locked,
    read_declared,
    serving_set,
    write_declared,
)
from tests.pneumoscan.test_model_store import put_archive

PASSED = Verified("1.0.0", "a", 222, 1, 0.01, 0.2, 0, True, "2026-01-01T00:00:00Z", True, 0.02, 0.01)


def declared(default: str = "1.0.0", *others: str) -> Declared:
    return Declared.first(default, dict(zip([default, *others], "abcdef", strict=False)))


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    state = declared("1.0.0", "1.1.0").verified("1.1.0", PASSED).promoted("1.1.0")
    write_declared(tmp_path, state)
    assert read_declared(tmp_path) == state
    assert [path.name for path in tmp_path.iterdir()] == [FILE_NAME]
    write_declared(tmp_path, None)
    assert read_declared(tmp_path) is None


def test_rollbacks_go_back_the_way_the_promotions_came() -> None:
    state = declared("1.0.0", "1.1.0", "1.2.0").promoted("1.1.0").promoted("1.2.0")
    assert (state.default, state.previous) == ("1.2.0", ("1.0.0", "1.1.0"))
    state = state.rolled_back()
    assert (state.default, state.previous) == ("1.1.0", ("1.0.0",))
    assert state.rolled_back().default == "1.0.0"


def test_a_retired_version_is_no_longer_where_a_rollback_goes() -> None:
    state = declared("1.0.0", "1.1.0", "1.2.0").promoted("1.1.0").promoted("1.2.0").retired("1.1.0")
    assert state.rolled_back().default == "1.0.0"
    assert set(state.versions) == {"1.0.0", "1.2.0"}


def test_a_version_that_comes_back_is_in_the_history_once() -> None:
    state = declared("1.0.0", "1.1.0").promoted("1.1.0").promoted("1.0.0").promoted("1.1.0")
    assert state.previous == ("1.0.0",)


def test_a_verification_counts_against_the_default_it_was_made_with() -> None:
    state = declared("1.0.0", "1.1.0", "1.2.0")
    assert state.why_unverified("1.1.0") == "was not verified against 1.0.0"
    state = state.verified("1.1.0", PASSED)
    assert state.why_unverified("1.1.0") is None
    assert "against 1.0.0 and not against 1.2.0" in str(state.promoted("1.2.0").why_unverified("1.1.0"))
    assert "did not pass" in str(state.verified("1.1.0", replace(PASSED, passed=False)).why_unverified("1.1.0"))
    other = {**state.versions, "1.0.0": Registered("other bytes", "2026-01-01T00:00:00Z")}
    assert replace(state, versions=other).why_unverified("1.1.0") is not None


@pytest.mark.parametrize(
    ("later", "stands"),
    [
        (replace(PASSED, films=1), False),
        (replace(PASSED, films=222, at="later"), True),
        (replace(PASSED, films=500, decided=False, passed=False), False),
        (replace(PASSED, films=60, passed=False), True),
        (replace(PASSED, films=1, against="0.9.0"), True),
        (replace(PASSED, films=1, against_sha256="other"), True),
    ],
)
def test_a_verification_is_replaced_by_one_that_shows_as_much(later: Verified, stands: bool) -> None:
    state = declared("1.0.0", "1.1.0").verified("1.1.0", PASSED).verified("1.1.0", later)
    assert state.versions["1.1.0"].verified == (later if stands else PASSED)


def test_what_an_older_pneumoscan_found_is_read_and_not_enough() -> None:
    value = json.loads(declared("1.0.0", "1.1.0").verified("1.1.0", PASSED).to_json())
    for name in ("decided", "flips_high", "shift_high"):
        del value["versions"]["1.1.0"]["verified"][name]
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / FILE_NAME).write_text(json.dumps(value))
        state = read_declared(Path(folder))
    assert state is not None
    assert "by an older pneumoscan" in str(state.why_unverified("1.1.0"))


def test_another_archive_of_a_version_is_not_verified() -> None:
    state = declared("1.0.0", "1.1.0").verified("1.1.0", PASSED).registered("1.1.0", "new")
    assert state.why_unverified("1.1.0") == "was not verified against 1.0.0"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"format": 2, "model": "pneumonia", "default": "1.0.0", "previous": [], "versions": {}}',
        '{"format": 1, "model": "lung", "default": "1.0.0", "previous": [], "versions": {}}',
        '{"format": 1, "model": "pneumonia", "default": "1.0.0", "previous": [], "versions": {}}',
        '{"format": 1, "model": "pneumonia", "default": "x", "previous": [], "versions": {"x": {}}}',
    ],
)
def test_a_file_that_is_not_ours_is_named_with_the_remedy(tmp_path: Path, text: str) -> None:
    (tmp_path / FILE_NAME).write_text(text)
    with pytest.raises(StoreError, match=r"versions\.json cannot be read .*: put a copy of it back"):
        read_declared(tmp_path)


def test_a_rollback_to_a_version_that_is_not_there_is_damage(tmp_path: Path) -> None:
    value = json.loads(declared("1.0.0").to_json()) | {"previous": ["0.9.0"]}
    (tmp_path / FILE_NAME).write_text(json.dumps(value))
    with pytest.raises(StoreError, match=r"0\.9\.0 is named, but not among the versions"):
        read_declared(tmp_path)


def test_two_cannot_change_a_store_at_once(tmp_path: Path) -> None:
    with locked(tmp_path), pytest.raises(StoreError, match=r"another pneumoscan models"), locked(tmp_path):
        pass
    with locked(tmp_path):
        pass


def test_a_store_that_is_not_there_is_told() -> None:
    with pytest.raises(StoreError, match="cannot be written"), locked(Path("/nowhere/at/all")):
        pass


# --- what a server starts with ------------------------------------------------------------------------------------


def digest_of(path: Path) -> str:
    return archive_digest(Archive(path, Version("1.0.0")))


@pytest.fixture
def store(tmp_path: Path) -> Path:
    for version in ("1.0.0", "1.1.0", "1.2.0"):
        put_archive(tmp_path, version)
    return tmp_path


def declare(store: Path, default: str, *others: str) -> Declared:
    digests = {version: digest_of(store / f"pneumonia-{version}.mar") for version in (default, *others)}
    state = Declared.first(default, digests)
    write_declared(store, state)
    return state


def test_without_a_file_everything_is_served_and_the_newest_is_the_default(store: Path) -> None:
    (store / "stranger.mar").touch()
    found = serving_set(store)
    assert [archive.version.text for archive in found.archives] == ["1.2.0", "1.1.0", "1.0.0"]
    assert found.digests["1.1.0"] == digest_of(store / "pneumonia-1.1.0.mar")
    assert found.remarks == (f"{store / 'stranger.mar'} is not named pneumonia-<version>.mar",)


def test_with_a_file_the_declared_ones_are_served_and_the_declared_default_is_first(store: Path) -> None:
    declare(store, "1.0.0", "1.2.0")
    found = serving_set(store)
    assert [archive.version.text for archive in found.archives] == ["1.0.0", "1.2.0"]
    assert found.remarks == (
        f"{store / 'pneumonia-1.1.0.mar'} is not registered: run pneumoscan models register 1.1.0",
    )


def test_a_declared_archive_that_is_gone_stops_the_start(store: Path) -> None:
    declare(store, "1.0.0", "1.2.0")
    (store / "pneumonia-1.2.0.mar").unlink()
    with pytest.raises(StoreError, match=r"declares 1\.2\.0, but pneumonia-1\.2\.0\.mar is not there: put it back"):
        serving_set(store)


def test_a_declared_archive_with_other_bytes_stops_the_start(store: Path) -> None:
    declare(store, "1.0.0", "1.2.0")
    path = put_archive(store, "1.2.0")
    with path.open("ab") as archive:  # a zip file is still whole with a comment
        archive.seek(-2, os.SEEK_END)
        archive.write(b"\x01\x00x")
    with pytest.raises(StoreError, match=r"1\.2\.0\.mar is not the archive that was registered"):
        serving_set(store)


def test_an_archive_that_is_not_declared_may_be_damaged(store: Path) -> None:
    declare(store, "1.0.0")
    (store / "pneumonia-1.2.0.mar").write_bytes(b"half")
    assert [archive.version.text for archive in serving_set(store).archives] == ["1.0.0"]
