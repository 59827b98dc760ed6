from __future__ import annotations

import json
import random
import zipfile
from pathlib import Path

import pytest

from pneumoscan.errors import StoreError
from pneumoscan.model_store import Archive, Version, check_archive, list_archives

# Semantic Versioning 2.0.0, section 11: its own example, with the releases around it.
IN_ORDER = [
    "0.9.0",
    "1.0.0-alpha",
    "1.0.0-alpha.1",
    "1.0.0-alpha.beta",
    "1.0.0-beta",
    "1.0.0-beta.2",
    "1.0.0-beta.11",
    "1.0.0-rc.1",
    "1.0.0",
    "1.0.2",
    "1.0.10",
    "1.2.0",
    "1.10.0",
    "2.0.0",
    "10.0.0",
]


def put_archive(store: Path, file_version: str, packed_version: str | None = None) -> Path:
    path = store / f"pneumonia-{file_version}.mar"
    with zipfile.ZipFile(path, "w") as mar:
        manifest = {"model": {"modelName": "pneumonia", "modelVersion": packed_version or file_version}}
        mar.writestr("MAR-INF/MANIFEST.json", json.dumps(manifest))
    return path


def test_versions_are_ordered_as_semantic_versioning_says() -> None:
    versions = [Version(text) for text in IN_ORDER]
    shuffled = random.Random(7).sample(versions, len(versions))
    assert sorted(shuffled) == versions


@pytest.mark.parametrize("text", ["", "v1.0.0", "1.0.0.0", "1.0.0-", "1.0.0+build", "latest", "1.0 .0"])
def test_what_is_no_version_is_not_parsed(text: str) -> None:
    assert Version.parse(text) is None


def test_archives_are_listed_newest_first_and_strangers_are_named(tmp_path: Path) -> None:
    for version in random.Random(7).sample(IN_ORDER, len(IN_ORDER)):
        put_archive(tmp_path, version)
    for stranger in ("resnet.mar", "pneumonia.mar", "pneumonia-latest.mar", "notes.txt"):
        (tmp_path / stranger).touch()
    archives, ignored = list_archives(tmp_path)
    assert [archive.version.text for archive in archives] == IN_ORDER[::-1]
    assert ignored == ["pneumonia-latest.mar", "pneumonia.mar", "resnet.mar"]


def test_a_missing_store_and_an_empty_one_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"no model store at .*nowhere"):
        list_archives(tmp_path / "nowhere")
    (tmp_path / "resnet.mar").touch()
    with pytest.raises(StoreError, match=r"no pneumonia-<version>\.mar in .*\(only resnet\.mar\)"):
        list_archives(tmp_path)


def test_a_whole_archive_is_accepted(tmp_path: Path) -> None:
    check_archive(Archive(put_archive(tmp_path, "1.0.0"), Version("1.0.0")))


def test_a_truncated_archive_is_named(tmp_path: Path) -> None:
    path = put_archive(tmp_path, "1.0.0")
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(StoreError, match=r"pneumonia-1\.0\.0\.mar is no model archive"):
        check_archive(Archive(path, Version("1.0.0")))


def test_a_zip_without_a_manifest_is_no_archive(tmp_path: Path) -> None:
    path = tmp_path / "pneumonia-1.0.0.mar"
    with zipfile.ZipFile(path, "w") as mar:
        mar.writestr("MAR-INF/MANIFEST.json", "[]")
    with pytest.raises(StoreError, match="is no model archive"):
        check_archive(Archive(path, Version("1.0.0")))


def test_a_renamed_archive_cannot_pass_for_another_version(tmp_path: Path) -> None:
    path = put_archive(tmp_path, "2.0.0", packed_version="1.0.0")
    with pytest.raises(StoreError, match=r"holds version 1\.0\.0: rename it to pneumonia-1\.0\.0\.mar"):
        check_archive(Archive(path, Version("2.0.0")))
