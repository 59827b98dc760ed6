"""The record of predictions: what clients were answered, nothing of a patient, and no more than its bound."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from cxr.serving.record import FOLDER_VARIABLE, Entry, PredictionRecord
from cxr.serving.reply import ModelIdentity
from cxr.serving.service import BatchService, IncomingRequest
from tests.cxr.networks import predictor, save_model
from tests.films import dicom, encoded, film

CANARY = "CANARY"
TRACE = "0af7651916cd43dd8448eb211c80319c"


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for path in sorted(folder.iterdir()) for line in path.read_text().splitlines()]


def entry(number: int) -> Entry:
    return Entry("id", "", number, "0" * 64, 0.5, "NORMAL", False, (), "1.0.0", "1" * 64, "torch", False, None, 0.1)


def test_a_line_is_what_the_client_was_answered_and_has_nothing_of_the_patient(tmp_path: Path) -> None:
    spec, folder = save_model(tmp_path / "run"), tmp_path / "record"
    folder.mkdir()
    identity = ModelIdentity.of(spec, "pneumonia", "1.0.0")
    service = BatchService(
        predictor(tmp_path / "run"), identity, record=PredictionRecord.of({FOLDER_VARIABLE: str(folder)})
    )
    named = dicom(film(1), bits=8, PatientID=CANARY, PatientName=CANARY, AccessionNumber=CANARY)
    files = [named, b"no film", encoded(film(2))]
    texts = [{"b64": base64.b64encode(one).decode()} for one in files]
    headers = {"traceparent": f"00-{TRACE}-b7ad6b7169203331-01", "X-Request-Id": CANARY, "User-Agent": CANARY}
    several, one = service.answer(
        [IncomingRequest({"body": {"instances": texts}}, headers, "a"), IncomingRequest({"body": named}, {}, "b")]
    )
    told = [*json.loads(several.body)["predictions"], json.loads(one.body)]
    pairs = zip(told, [*files, named], strict=True)
    answers = [(reply, data) for reply, data in pairs if "label" in reply]
    written = lines(folder)
    assert [line["film"] for line in written] == [0, 2, 0]
    for line, (reply, data) in zip(written, answers, strict=True):
        assert line["request_id"] == reply["request_id"]
        assert line["score"] == reply["probabilities"]["PNEUMONIA"]
        assert (line["label"], line["indeterminate"]) == (reply["label"], reply["decision"]["indeterminate"])
        assert line["flags"] == reply["image"]["flags"]
        assert line["film_sha256"] == hashlib.sha256(data).hexdigest()
        assert (line["version"], line["weights_sha256"]) == ("1.0.0", spec.weights_sha256)
    assert [line["trace_id"] for line in written] == [TRACE, TRACE, ""]
    (path,) = folder.iterdir()
    assert CANARY not in path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_the_files_of_all_workers_together_keep_the_bound(tmp_path: Path) -> None:
    workers = [PredictionRecord(tmp_path, file_bytes=2_000, files_kept=4) for _ in range(2)]
    workers[1]._files = 100  # as another process: names of its own
    for number in range(200):
        workers[number % 2].add([entry(number)])
    sizes = [path.stat().st_size for path in tmp_path.iterdir()]
    assert len(sizes) <= 4
    assert max(sizes) < 3_000
    assert {198, 199} <= {line["film"] for line in lines(tmp_path)}


def test_without_a_folder_nothing_is_written_and_one_that_is_gone_costs_no_answer(tmp_path: Path) -> None:
    assert PredictionRecord.of({}) is None
    PredictionRecord(tmp_path / "gone").add([entry(1)])
    PredictionRecord(tmp_path).add([])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("count", [0, 3])
def test_a_batch_is_written_in_one_piece(tmp_path: Path, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    writes: list[int] = []
    real = os.write
    monkeypatch.setattr(os, "write", lambda to, data: (writes.append(len(data)), real(to, data))[1])
    PredictionRecord(tmp_path).add([entry(number) for number in range(count)])
    assert len(writes) == bool(count)
    assert len(lines(tmp_path)) == count
