"""A registry of MLflow's own, in a folder: the same client as for a server, which a machine of its own would run."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest

from pneumoscan.errors import RegistryError
from pneumoscan.model_store import Archive, Version, archive_digest
from pneumoscan.signatures import make_key, read_private_key, sign, trust_key, trust_of
from pneumoscan.versions.declared import Declared, write_declared
from pneumoscan.versions.registry import import_archive
from tests.commands import run_command
from tests.cxr.networks import save_model
from tests.pneumoscan.test_model_store import put_archive

mlflow = pytest.importorskip("mlflow")
VERSION = "1.0.0"


@pytest.fixture
def uri(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    return (tmp_path / "registry").as_uri()


@pytest.fixture
def store(tmp_path: Path) -> Path:
    (tmp_path / "store").mkdir()
    put_archive(tmp_path / "store", VERSION)
    return tmp_path / "store"


def run(command: str, store: Path, uri: str, *more: str, version: str = VERSION) -> int:
    here = ("--store", str(store), "--run-dir", str(store / "no-server"))
    return run_command("models", [command, version, "--registry", uri, *here, *more])


def test_an_archive_goes_through_a_registry_byte_by_byte(
    store: Path, tmp_path: Path, uri: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("export", store, uri) == 0
    assert run("export", store, uri) == 0  # it is there
    assert capsys.readouterr().out.count(f"exported: {VERSION} is pneumonia version 1 of") == 2
    other = tmp_path / "other"
    assert run("import", other, uri) == 0
    name = f"pneumonia-{VERSION}.mar"
    assert (other / name).read_bytes() == (store / name).read_bytes()
    assert [path.name for path in other.iterdir()] == [name]


def test_the_registry_has_figures_card_and_the_alias_of_the_declared_default(
    store: Path, tmp_path: Path, uri: str
) -> None:
    spec = save_model(tmp_path / "run")
    measured = {"auroc": {"value": 0.9, "low": 0.85}, "roc": {"fpr": [0.0, 1.0]}, "films": 7, "note": "text"}
    about = {
        "weights_sha256": spec.weights_sha256,
        "operating_point": spec.operating_point,
        "threshold": spec.threshold,
    }
    with zipfile.ZipFile(store / f"pneumonia-{VERSION}.mar", "a") as mar:
        mar.write(tmp_path / "run" / "model.json", "model.json")
        mar.writestr("metrics.json", json.dumps(about | {"overall": measured}))
    archive = Archive(store / f"pneumonia-{VERSION}.mar", Version(VERSION))
    write_declared(store, Declared.first(VERSION, {VERSION: archive_digest(archive)}))
    assert run("export", store, uri) == 0
    client = mlflow.MlflowClient(tracking_uri=uri, registry_uri=uri)
    entry = client.get_model_version_by_alias("pneumonia", "champion")
    assert (entry.tags["version"], entry.tags["weights_sha256"]) == (VERSION, spec.weights_sha256)
    assert "Ranking frontal chest films" in entry.description
    metrics = client.get_run(entry.run_id).data.metrics
    assert {name: metrics[name] for name in ("overall/auroc/value", "overall/auroc/low", "overall/films")} == {
        "overall/auroc/value": 0.9,
        "overall/auroc/low": 0.85,
        "overall/films": 7,
    }
    card = json.loads(Path(client.download_artifacts(entry.run_id, "model_card.json", str(tmp_path))).read_text())
    assert card["evaluation"]["overall"] == measured
    put_archive(store, "2.0.0")
    assert run("export", store, uri, "--alias", "challenger", version="2.0.0") == 0
    assert client.get_model_version_by_alias("pneumonia", "challenger").tags["version"] == "2.0.0"
    assert client.get_model_version_by_alias("pneumonia", "champion").tags["version"] == VERSION


def test_bytes_that_the_registry_does_not_give_back_are_no_export(
    store: Path, tmp_path: Path, uri: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run("export", store, uri)
    (kept,) = (tmp_path / "registry").rglob("*.mar")
    kept.write_bytes(b"other")
    capsys.readouterr()
    assert run("export", store, uri) == 1
    assert "does not give back the bytes" in capsys.readouterr().err


def test_the_signature_goes_along_also_when_it_was_made_after_the_archive_was_exported(
    store: Path, tmp_path: Path, uri: str
) -> None:
    key, name = tmp_path / "key", f"pneumonia-{VERSION}.mar"
    public = make_key(key)
    assert run("export", store, uri) == 0
    signed = sign(store / name, read_private_key(key))
    assert run("export", store, uri) == 0
    other = tmp_path / "other"
    assert run("import", other, uri) == 0
    assert (other / signed.name).read_bytes() == signed.read_bytes()
    trust_key(tmp_path / "signers", "me", public)
    trust = trust_of(other, tmp_path / "signers")
    assert trust is not None
    assert trust.check(Archive(other / name, Version(VERSION))) == "me"


def test_another_archive_of_a_version_replaces_none(store: Path, uri: str, capsys: pytest.CaptureFixture[str]) -> None:
    run("export", store, uri)
    path = store / f"pneumonia-{VERSION}.mar"
    mine = path.read_bytes()[:-2] + b"\x01\x00x"
    path.write_bytes(mine)
    assert run("export", store, uri) == 1
    assert "has another archive as pneumonia 1.0.0" in capsys.readouterr().err
    assert run("import", store, uri) == 1
    assert "give --force" in capsys.readouterr().err
    assert path.read_bytes() == mine
    assert run("import", store, uri, "--force") == 0
    assert path.read_bytes() != mine


def test_bytes_that_changed_in_the_registry_are_not_taken(store: Path, tmp_path: Path, uri: str) -> None:
    run("export", store, uri)
    (kept,) = (tmp_path / "registry").rglob("*.mar")
    kept.write_bytes(kept.read_bytes()[:-2] + b"\x01\x00x")
    with pytest.raises(RegistryError, match="has other bytes than when it was exported"):
        import_archive(VERSION, tmp_path / "other", uri)
    assert list((tmp_path / "other").iterdir()) == []


def test_what_is_not_there_is_told(store: Path, uri: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("import", store, uri, version="9.0.0") == 1
    assert "has no pneumonia 9.0.0" in capsys.readouterr().err
    assert run("export", store, uri, version="9.0.0") == 1
    assert "no archive of 9.0.0" in capsys.readouterr().err


def test_a_registry_that_is_none_is_told_in_one_line(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("export", store, "gopher://nowhere") == 1
    assert capsys.readouterr().err.count("\n") == 1
