"""The archive: exactly what handler/ holds, the same bytes every time, and the same answers as the evaluation."""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import json
import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ts.utils.util import list_classes_from_module

from cxr.engines.cuda import CudaEngine
from cxr.errors import ModelError
from cxr.json_records import SEAL
from cxr.predict import Predictor
from cxr.serving.self_check import check_digests, check_golden
from cxr_training.data.records import load_films
from pneumoscan.archive import package
from pneumoscan.errors import StoreError
from pneumoscan.model_store import Archive, Version, check_archive
from tests.commands import run_command
from tests.cxr.networks import predictor, save_model, small_network
from tests.cxr_training.folders import write_manifest
from tests.films import dicom, encoded, film

HANDLER = Path(__file__).parents[1] / "handler"

# What a TorchServe worker does with an archive, in a fresh interpreter with the worker's path: load through
# TorchServe's own loader, then answer one batch under TorchServe's own context.
WORKER = """
import json, sys
from ts.model_loader import ModelLoaderFactory
folder, requests = sys.argv[1], json.load(sys.stdin)
service = ModelLoaderFactory.get_model_loader().load("pneumonia", folder, "cxr_handler.py", -1, len(requests), None)
from ts.context import RequestProcessor
import base64
context = service.context
context.request_ids = {i: f"id-{i}" for i in range(len(requests))}
context.request_processor = [RequestProcessor(request["headers"]) for request in requests]
rows = [{"body": bytearray(base64.b64decode(one["body"]))} if one["body"] else {} for one in requests]
replies = service._entry_point(rows, context)
import cxr
print("REPLIES" + json.dumps({
    "cxr": cxr.__file__,
    "replies": [
        {"status": context.get_response_status(i)[0], "type": context.get_response_content_type(i),
         "body": base64.b64encode(reply).decode()}
        for i, reply in enumerate(replies)
    ]}))
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    save_model(folder)
    return folder


@pytest.fixture(scope="module")
def archive(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return package(run, "1.2.3", tmp_path_factory.mktemp("store"))


def unpacked(archive: Path, folder: Path) -> Path:
    with zipfile.ZipFile(archive) as packed:
        packed.extractall(folder)
    return folder


def as_worker(
    folder: Path, bodies: Sequence[bytes | None], *, path: str = "", **headers: str
) -> subprocess.CompletedProcess[str]:
    requests = [{"body": body and base64.b64encode(body).decode(), "headers": headers} for body in bodies]
    environment = {**os.environ, "PYTHONPATH": path or str(folder)}
    return subprocess.run(
        [sys.executable, "-c", WORKER, str(folder)],
        input=json.dumps(requests),
        env=environment,
        cwd=folder.parent,  # not the archive: an interpreter started with -c looks there first
        capture_output=True,
        text=True,
        check=False,
    )


def answers(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert done.returncode == 0, done.stderr
    line = next(line for line in done.stdout.splitlines() if line.startswith("REPLIES"))
    parsed: dict[str, Any] = json.loads(line.removeprefix("REPLIES"))
    return parsed


def test_the_archive_holds_the_handler_the_model_and_nothing_else(archive: Path) -> None:
    source = {str(path.relative_to(HANDLER)) for path in HANDLER.rglob("*") if path.is_file()}
    source = {name for name in source if not name.endswith((".pyc", "py.typed"))}
    assert "cxr_handler.py" in source
    with zipfile.ZipFile(archive) as packed:
        ours = {"golden/answers.json", "golden/normal.png", "golden/pneumonia.png", "model.json", "model.pth"}
        assert set(packed.namelist()) == source | ours | {"MAR-INF/MANIFEST.json", "SHA256SUMS"}
        assert packed.testzip() is None
        sums = dict(reversed(line.split("  ")) for line in packed.read("SHA256SUMS").decode().splitlines())
        assert sums == {
            name: hashlib.sha256(packed.read(name)).hexdigest() for name in packed.namelist() if name != "SHA256SUMS"
        }
        manifest = json.loads(packed.read("MAR-INF/MANIFEST.json"))
    assert manifest["model"] == {
        "modelName": "pneumonia",
        "modelVersion": "1.2.3",
        "handler": "cxr_handler.py",
        "serializedFile": "model.pth",
        "configFile": "model-config.yaml",
    }


def test_the_same_model_and_code_give_the_same_bytes(run: Path, archive: Path, tmp_path: Path) -> None:
    assert package(run, "1.2.3", tmp_path).read_bytes() == archive.read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == ["pneumonia-1.2.3.mar"]


def test_a_worker_gives_the_answers_of_the_evaluation(archive: Path, tmp_path: Path) -> None:
    folder = unpacked(archive, tmp_path / "archive")
    data = write_manifest(tmp_path / "data", 3)
    assert (
        run_command("evaluate", ["--archive", str(archive), "--data", str(data), "--out", str(tmp_path / "out")]) == 0
    )
    rows = (tmp_path / "out" / "predictions.csv").read_text(encoding="utf-8").splitlines()[1:]
    records = load_films(data).of("test")
    got = answers(as_worker(folder, [record.file.read_bytes() for record in records]))
    assert Path(got["cxr"]).is_relative_to(folder)
    for record, row, reply in zip(records, rows, got["replies"], strict=True):
        name, label, _, _, probability, _, _ = row.split(",")
        body = json.loads(base64.b64decode(reply["body"]))
        assert (name, label) == (record.name, record.label)
        assert (reply["status"], body["model"]["version"]) == (200, "1.2.3")
        assert body["probabilities"]["PNEUMONIA"] == pytest.approx(float(probability), abs=1e-5)


def test_a_worker_answers_each_request_of_a_mixed_batch(run: Path, archive: Path, tmp_path: Path) -> None:
    folder = unpacked(archive, tmp_path)
    good = film(4)
    bodies = [
        encoded(good),
        b"no film",
        encoded(good, "JPEG", quality=100),
        dicom(good, bits=8, Modality="CT"),
        json.dumps({"data": base64.b64encode(encoded(good)).decode()}).encode(),
    ]
    replies = answers(as_worker(folder, bodies, **{"Cxr-Cam": "none"}))["replies"]
    assert [reply["status"] for reply in replies] == [200, 415, 200, 422, 200]
    kinds = [reply["type"] for reply in replies]
    assert kinds == [f"application/{'json' if s == 200 else 'problem+json'}" for s in (200, 415, 200, 422, 200)]
    expected = predictor(run).predict([good])[0].probabilities[1]
    for i in (0, 4):
        body = json.loads(base64.b64decode(replies[i]["body"]))
        assert body["probabilities"]["PNEUMONIA"] == pytest.approx(expected, abs=1e-5)
        assert body["request_id"] == f"id-{i}"


@pytest.mark.filterwarnings("ignore")  # of writing such files; what reads them is in another process
def test_a_worker_says_nothing_of_an_upload(archive: Path, tmp_path: Path) -> None:
    """TorchServe believes lines of the worker's output that look like metrics or process ids."""
    folder = unpacked(archive, tmp_path)
    forged = b"CANARY\n[METRICS]PredictionTime.Milliseconds:1|#ModelName:FORGED"
    crafted = [
        dicom(film(), bits=8, SpecificCharacterSet="C" * len(forged)).replace(b"C" * len(forged), forged),
        dicom(film(), bits=8, PatientID="CANARY", AccessionNumber="CANARY" * 10, ViewPosition="CANARY" * 5),
        dicom(film(), bits=8, StudyInstanceUID="1.2.CCCCCC").replace(b"1.2.CCCCCC", b"1.2.CANARY"),
        dicom(film(), bits=8, BodyPartExamined="KNEE CANARY"),
    ]
    done = as_worker(folder, crafted, **{"Cxr-Cam": "none"})
    assert [reply["status"] for reply in answers(done)["replies"]] == [200, 200, 200, 422]
    assert "CANARY" not in done.stderr
    assert "CANARY" not in done.stdout
    assert not any(b"CANARY" in base64.b64decode(reply["body"]) for reply in answers(done)["replies"])


def test_a_worker_refuses_code_from_outside_its_archive(archive: Path, tmp_path: Path) -> None:
    folder = unpacked(archive, tmp_path / "archive")
    foreign = unpacked(archive, tmp_path / "foreign")
    done = as_worker(folder, [encoded(film())], path=f"{foreign}:{folder}")
    assert done.returncode != 0
    assert "not from the archive" in done.stderr
    assert "unset PYTHONPATH" in done.stderr


def test_a_worker_refuses_weights_with_one_flipped_byte(archive: Path, tmp_path: Path) -> None:
    folder = unpacked(archive, tmp_path)
    weights = bytearray((folder / "model.pth").read_bytes())
    weights[100_000] ^= 0x10
    (folder / "model.pth").write_bytes(weights)
    done = as_worker(folder, [encoded(film())])
    assert done.returncode != 0
    assert "model.pth is damaged" in done.stderr


@pytest.mark.parametrize("file", ["model.pth", "model.json"])
def test_one_byte_flipped_anywhere_in_weights_or_spec_is_seen(archive: Path, tmp_path: Path, file: str) -> None:
    folder = unpacked(archive, tmp_path)
    check_digests(folder)
    whole = (folder / file).read_bytes()
    rng = np.random.default_rng(7)
    places = {0, len(whole) - 1, *rng.integers(0, len(whole), 40).tolist()}
    for place in sorted(places):
        changed = bytearray(whole)
        changed[place] ^= 1 << int(rng.integers(8))
        (folder / file).write_bytes(changed)
        with pytest.raises(ModelError, match=f"{file} is damaged"):
            check_digests(folder)
    (folder / file).write_bytes(whole)
    check_digests(folder)


def test_a_byte_flipped_in_the_archive_itself_is_told_before_a_server_starts(archive: Path, tmp_path: Path) -> None:
    """Anywhere in the packed weights, spec or list of digests, their headers within the archive included."""
    whole = archive.read_bytes()
    copy = Archive(tmp_path / archive.name, Version("1.2.3"))
    copy.path.write_bytes(whole)
    check_archive(copy)
    rng = np.random.default_rng(8)
    with zipfile.ZipFile(archive) as packed:
        entries = [packed.getinfo(name) for name in ("model.pth", "model.json", "SHA256SUMS")]
        content = {entry.filename: packed.read(entry) for entry in entries}
    seen = 0
    for entry in entries:
        start = entry.header_offset + 30 + len(entry.filename) + 20  # local header, name, zip64 sizes
        for place in (start, start + entry.compress_size - 1, *(start + rng.integers(0, entry.compress_size, 12))):
            changed = bytearray(whole)
            changed[int(place)] ^= 1 << int(rng.integers(8))
            copy.path.write_bytes(changed)
            try:
                check_archive(copy)
            except StoreError:
                seen += 1
            else:  # the last bits of a compressed stream mean nothing
                assert zipfile.ZipFile(copy.path).read(entry.filename) == content[entry.filename]
    assert seen >= 40


def test_the_archive_carries_what_was_measured_of_these_weights_and_tells_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    measured = tmp_path / "run"
    spec = save_model(measured)
    decision = {"operating_point": spec.operating_point, "threshold": spec.threshold}
    for weights, known in ((spec.weights_sha256, True), ("of another run", False)):
        (measured / "metrics.json").write_text(
            json.dumps({**decision, "weights_sha256": weights, "overall": {"auroc": 0.75}})
        )
        (measured / "audit.json").write_text(json.dumps({"weights_sha256": weights, "plain_words": ["By the border."]}))
        packed = package(measured, "1.2.3", tmp_path / str(known))
        said = capsys.readouterr().err
        folder = unpacked(packed, tmp_path / f"unpacked-{known}")
        for name, command in (("metrics.json", "pneumoscan evaluate"), ("audit.json", "pneumoscan audit")):
            assert (folder / name).is_file() is known
            assert (f"{name} is of another model and left out: run {command} again" in said) is not known
        card = json.loads(base64.b64decode(answers(as_worker(folder, [None], describe="True"))["replies"][0]["body"]))
        assert card["model"]["version"] == "1.2.3"
        assert card["notice"] == "Research use only. Not a diagnosis."
        assert bool(card["evaluation"]) is known
        assert card["shortcuts"] == (["By the border."] if known else [])
        if known:
            assert card["evaluation"]["overall"]["auroc"] == 0.75


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("model.json", '"temperature": 1.0', '"temperature": 1.9', "changed after it was written"),
        ("model.json", '"temperature": 1.0', '"temperature": 1.9', "golden film"),
        ("model.json", '"mean": [', '"mean": [0.1, ', "preprocessing.mean has 4 values"),
        ("model.json", "0.485", "0.085", "golden film"),
        ("model.json", '"arch"', '"brch"', "not a model spec"),
        ("golden/answers.json", "1", "7", "golden film"),
        ("golden/answers.json", "{", "", "golden films of the archive are damaged"),
    ],
)
def test_a_worker_refuses_a_changed_spec_or_answer(
    archive: Path, tmp_path: Path, file: str, old: str, new: str, message: str
) -> None:
    folder = unpacked(archive, tmp_path)
    text = (folder / file).read_text(encoding="utf-8")
    assert old in text
    if "changed" not in message:  # by whoever takes the digest out too
        text = re.sub(rf'  "{SEAL}": "\w+",\n', "", text)
    (folder / file).write_text(text.replace(old, new), encoding="utf-8")
    with pytest.raises(ModelError, match=message):
        check_golden(Predictor.load(folder, "cpu"), folder)


def test_a_worker_refuses_an_archive_without_its_golden_films(archive: Path, tmp_path: Path) -> None:
    folder = unpacked(archive, tmp_path)
    (folder / "golden" / "normal.png").unlink()
    done = as_worker(folder, [encoded(film())])
    assert done.returncode != 0
    assert "golden/normal.png is missing from the archive" in done.stderr


def test_golden_answers_of_another_network_do_not_pass(run: Path, archive: Path, tmp_path: Path) -> None:
    folder = unpacked(archive, tmp_path)
    check_golden(predictor(run), folder)
    save_model(tmp_path / "other", small_network(seed=5))
    with pytest.raises(ModelError, match="golden film"):
        check_golden(predictor(tmp_path / "other"), folder)


def test_each_size_of_batch_an_engine_has_a_pass_for_gives_the_golden_answers(
    run: Path, archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = unpacked(archive, tmp_path)
    model = predictor(run)
    engine = CudaEngine("cuda-float32", model.network, model.spec.preprocessing, model.device, sizes=(1, 2, 8))
    by_it = Predictor(model.network, model.spec, model.device, engine)
    check_golden(by_it, folder)
    real = engine._passes[8]
    monkeypatch.setitem(engine._passes, 8, lambda grey: real(grey).flip(0))
    with pytest.raises(ModelError, match="golden film"):
        check_golden(by_it, folder)


def test_the_second_engine_has_to_give_the_golden_answers_too(run: Path, archive: Path, tmp_path: Path) -> None:
    folder = unpacked(archive, tmp_path)
    model = predictor(run)
    check_golden(Predictor(model.network, model.spec, model.device, second=model.engine), folder)
    save_model(tmp_path / "other", small_network(seed=5))
    wrong = predictor(tmp_path / "other").engine
    with pytest.raises(ModelError, match="golden film"):
        check_golden(Predictor(model.network, model.spec, model.device, second=wrong), folder)


def test_the_handler_file_defines_one_class_and_is_found_by_torchserves_rule() -> None:
    spec = importlib.util.spec_from_file_location("cxr_handler", HANDLER / "cxr_handler.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert [cls.__name__ for cls in list_classes_from_module(module)] == ["CxrHandler"]


def test_another_model_never_replaces_a_version_unasked(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store, other = tmp_path / "store", tmp_path / "other"
    arguments = ["--version", "1.0.0", "--store", str(store)]
    assert run_command("pack", ["--run", str(run), *arguments]) == 0
    first = (store / "pneumonia-1.0.0.mar").read_bytes()
    assert run_command("pack", ["--run", str(run), *arguments]) == 0  # the same again is no conflict
    save_model(other, small_network(seed=8))
    assert run_command("pack", ["--run", str(other), *arguments]) == 2
    assert "--force" in capsys.readouterr().err
    assert (store / "pneumonia-1.0.0.mar").read_bytes() == first
    assert run_command("pack", ["--run", str(other), *arguments, "--force"]) == 0
    assert (store / "pneumonia-1.0.0.mar").read_bytes() != first
    assert [path.name for path in store.iterdir()] == ["pneumonia-1.0.0.mar"]


def test_a_run_that_is_not_whole_is_not_packed(tmp_path: Path) -> None:
    def reason(version: str = "1.0.0") -> str:
        with pytest.raises(ModelError) as caught:
            package(tmp_path / "run", version, tmp_path / "store")
        return str(caught.value)

    assert "is not a folder" in reason()
    (tmp_path / "run").mkdir()
    assert "model.json is missing" in reason()
    save_model(tmp_path / "run", indeterminate=None)
    assert "is not calibrated" in reason()
    save_model(tmp_path / "run")
    assert "Semantic Versioning" in reason("newest")
    (tmp_path / "run" / "model.pth").write_bytes(b"other weights")
    assert "is not the file model.json names" in reason()
    (tmp_path / "run" / "model.pth").unlink()
    assert "has no weights" in reason()
    assert not (tmp_path / "store").exists()
