"""Good and bad requests of every kind at once: each gets its own answer, and the worker stays the same process."""

from __future__ import annotations

import base64
import json
import os
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
from hypothesis import given, settings
from PIL import Image
from pydicom.uid import JPEG2000Lossless, JPEGLosslessSV1, JPEGLSLossless, RLELossless

from cxr.errors import CODES
from cxr.films.decode import decode
from cxr_client import ManagementClient
from tests.bad_requests import BadRequest, bad_requests
from tests.cxr.films.test_mutated_files import SETTINGS, mutated
from tests.cxr.networks import SMALL
from tests.e2e.small_server import BATCH_SIZE, SmallServer, serving, small_server  # noqa: F401
from tests.films import compressed, dicom, encoded, film
from tests.programs import NEEDS_JAVA

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.alone, NEEDS_JAVA]

BATCHES = 100
BAD_SHARE = 0.4
CLIENTS = 32
OCTETS = {"Content-Type": "application/octet-stream"}

FILMS: list[bytes] = [
    *(encoded(film(seed, 200 + 10 * seed, 230)) for seed in range(4)),
    *(encoded(film(seed, 250, 200 + 10 * seed), "JPEG", quality=92) for seed in range(4, 8)),
    *(encoded(film(seed, 240, 240).astype(np.uint16) * 257) for seed in range(8, 11)),
    *(dicom(film(seed, 220, 210).astype(np.uint16) * 16) for seed in range(11, 13)),
    dicom(film(13, 220, 210).astype(np.uint16) * 16, PhotometricInterpretation="MONOCHROME1"),
    *(
        compressed(dicom(film(seed, 220, 210).astype(np.uint16) * 16), syntax)
        for seed, syntax in enumerate((RLELossless, JPEG2000Lossless, JPEGLosslessSV1, JPEGLSLossless), 14)
    ),
]

DECODED_HERE = FILMS[:-3]  # the others cost a process each


def text_of(data: bytes) -> str:
    return base64.b64encode(data).decode()


def raw(data: bytes, other: bytes, **headers: str) -> dict[str, Any]:  # noqa: ARG001
    return {"data": data, "headers": OCTETS | headers}


# Ways to ask about a film: where, what is sent, and which entry of the reply is the film's.
WAYS: dict[str, tuple[str, Callable[[bytes, bytes], dict[str, Any]], Callable[[Any], Any]]] = {
    "raw": ("/predictions/pneumonia", raw, lambda said: said),
    "one version": ("/predictions/pneumonia/1.0.0", raw, lambda said: said),
    "form": ("/predictions/pneumonia", lambda data, _: {"files": {"film": data}}, lambda said: said),
    "base64": ("/predictions/pneumonia", lambda data, _: {"json": {"data": text_of(data)}}, lambda said: said),
    "contrast": ("/predictions/pneumonia", lambda d, o: raw(d, o, **{"Cxr-Target": "contrast"}), lambda said: said),
    "no map": ("/predictions/pneumonia", lambda d, o: raw(d, o, **{"Cxr-Cam": "none"}), lambda said: said),
    "overlay": ("/predictions/pneumonia", lambda d, o: raw(d, o, **{"Cxr-Cam": "overlay"}), lambda said: said),
    "explanation": ("/explanations/pneumonia", raw, lambda said: said),
    "KServe V1, after a bad film": (
        "/v1/models/pneumonia:predict",
        lambda data, other: {"json": {"instances": [{"b64": "AAAA"}, {"b64": text_of(data)}, {"b64": text_of(other)}]}},
        lambda said: said["predictions"][1],
    ),
    "Open Inference Protocol": (
        "/v2/models/pneumonia/infer",
        lambda data, other: {
            "json": {
                "inputs": [
                    {"name": "image", "datatype": "BYTES", "shape": [2], "data": [text_of(other), text_of(data)]}
                ]
            }
        },
        lambda said: json.loads(said["outputs"][0]["data"][1]),
    ),
}


def workers(server: SmallServer) -> set[int]:
    with ManagementClient(server.server.run_dir.socket) as management:
        return {worker.pid for version in management.ready("pneumonia").versions for worker in version.workers}


def resident_mb(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def without_id(entry: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in entry.items() if key != "request_id"}


def same(entry: dict[str, Any], alone: dict[str, Any]) -> None:
    """Everything is equal, the numbers of the network within what float32 gives."""
    entry, alone = without_id(entry), without_id(alone)
    assert entry.keys() == alone.keys()
    for key in entry:
        if key == "probabilities":
            assert entry[key] == pytest.approx(alone[key], abs=1e-5)
        elif key == "logits":
            assert entry[key] == pytest.approx(alone[key], abs=1e-4)
        elif key == "cam":
            assert {**entry[key], "grid": 0, "png": 0} == {**alone[key], "grid": 0, "png": 0}
            np.testing.assert_allclose(entry[key]["grid"], alone[key]["grid"], atol=1e-4)
            assert bool(entry[key].get("png")) == bool(alone[key].get("png"))
        else:
            assert entry[key] == alone[key]


def test_a_hundred_batches_of_good_and_bad_requests(small_server: SmallServer) -> None:  # noqa: F811
    rng = np.random.default_rng(3)
    bad = [one for one in bad_requests() if len(one.sent.get("data", b"")) < 10_000_000]
    plan: list[tuple[str, int] | BadRequest] = []
    for i in range(BATCHES * BATCH_SIZE):
        if rng.random() < BAD_SHARE:
            plan.append(bad[i % len(bad)])
        else:
            plan.append((list(WAYS)[int(rng.integers(len(WAYS)))], int(rng.integers(len(FILMS)))))

    plan[100:100] = [one for one in bad_requests() if one not in bad]  # 48 MiB of body, once

    def ask(one: tuple[str, int] | BadRequest) -> requests.Response:
        if isinstance(one, BadRequest):
            return requests.post(small_server.predictions, timeout=120, **one.sent)
        path, sent, _ = WAYS[one[0]]
        data, other = FILMS[one[1]], FILMS[(one[1] + 1) % len(FILMS)]
        return requests.post(small_server.url + path, timeout=120, **sent(data, other))

    alone = {one: ask(one) for one in {one for one in plan if isinstance(one, tuple)}}
    assert {reply.status_code for reply in alone.values()} == {200}
    for (way, number), reply in alone.items():  # and alone is what the network says in this process
        expected = small_server.predictor.predict([decode(FILMS[number]).pixels])[0]
        entry = WAYS[way][2](reply.json())
        assert entry["probabilities"]["PNEUMONIA"] == pytest.approx(expected.probabilities[1], abs=1e-5)
    before = workers(small_server)

    with ThreadPoolExecutor(CLIENTS) as pool:
        replies = list(pool.map(ask, plan))

    seen: Counter[str] = Counter()
    for one, reply in zip(plan, replies, strict=True):
        if isinstance(one, BadRequest):
            assert (reply.status_code, reply.json()["code"]) == (one.status, one.code), one.name
            assert reply.headers["content-type"] == "application/problem+json"
            seen[one.name] += 1
        else:
            assert reply.status_code == 200, reply.text
            pick = WAYS[one[0]][2]
            same(pick(reply.json()), pick(alone[one].json()))
    assert len(seen) >= 20
    assert sum(seen.values()) >= 0.35 * len(plan)
    assert workers(small_server) == before


def test_ten_thousand_requests_do_not_make_the_worker_grow(tmp_path: Path) -> None:
    """With a network of 64 x 64 pixels, so that it is the handling of requests that is repeated."""
    bad = [one for one in bad_requests() if len(one.sent.get("data", b"")) < 10_000_000]
    with serving(tmp_path, SMALL) as server, requests.Session() as session:
        (pid,) = workers(server)
        session.mount("http://", requests.adapters.HTTPAdapter(pool_maxsize=CLIENTS))

        def ask(i: int) -> int:
            if i % 5 == 4:
                return session.post(server.predictions, timeout=120, **bad[i // 5 % len(bad)].sent).status_code
            data = DECODED_HERE[i % len(DECODED_HERE)]
            return session.post(server.predictions, data=data, headers=OCTETS, timeout=120).status_code

        memory = []
        with ThreadPoolExecutor(CLIENTS) as pool:
            list(pool.map(ask, range(2000)))  # caches and arenas fill
            for thousand in range(10):
                statuses = Counter(pool.map(ask, range(thousand * 1000, (thousand + 1) * 1000)))
                assert statuses[200] == 800
                memory.append(resident_mb(pid))
        assert workers(server) == {pid}
    slope = float(np.median(memory[-3:]) - np.median(memory[:3])) / 7
    print(f"resident after each 1,000 requests, MB: {[round(one, 1) for one in memory]}; slope {slope:.2f} per 1,000")
    assert slope < 1.0


def test_a_dicom_of_25_mb_is_answered_raw_and_as_base64(small_server: SmallServer) -> None:  # noqa: F811
    large = np.asarray(Image.fromarray(film(3)).resize((3520, 3600)))
    data = dicom(large.astype(np.uint16) * 16)
    assert len(data) > 25_000_000
    as_text = requests.post(small_server.predictions, json={"data": text_of(data)}, timeout=60)
    as_file = requests.post(small_server.predictions, data=data, headers=OCTETS, timeout=60)
    assert (as_text.status_code, as_file.status_code) == (200, 200), as_text.text
    same(as_text.json(), as_file.json())


def test_mutated_files_over_rest_end_no_worker(small_server: SmallServer) -> None:  # noqa: F811
    before = workers(small_server)
    statuses: Counter[int] = Counter()

    @settings(SETTINGS, max_examples=500)
    @given(mutated())
    def every(data: bytes) -> None:
        reply = requests.post(small_server.predictions, data=data, headers=OCTETS, timeout=60)
        assert reply.status_code in {200, 400, 413, 415, 422}, reply.text
        assert reply.status_code == 200 or reply.json()["code"] in CODES
        statuses[reply.status_code] += 1

    every()
    assert statuses.total() >= 500
    assert statuses[200] > 25
    assert statuses[422] > 25
    assert workers(small_server) == before


IDENTIFYING = [
    *("PatientName", "PatientID", "PatientBirthDate", "OtherPatientIDs", "PatientAddress", "PatientComments"),
    *("PatientTelephoneNumbers", "PatientMotherBirthName", "OtherPatientNames", "EthnicGroup", "Occupation"),
    *("AccessionNumber", "InstitutionName", "InstitutionAddress", "ReferringPhysicianName", "StationName"),
    *("StudyDescription", "SeriesDescription", "PerformingPhysicianName", "OperatorsName", "RequestingPhysician"),
    *("AdmittingDiagnosesDescription", "ImageComments", "StudyID", "DeviceSerialNumber", "ProtocolName"),
    *("ManufacturerModelName", "Manufacturer", "AdditionalPatientHistory", "RequestedProcedureDescription"),
    *("IssuerOfPatientID", "SoftwareVersions", "DerivationDescription", "PatientReligiousPreference"),
]
# Tags that are read and judged: whatever they hold, it is judged and not repeated.
JUDGED = ["Modality", "BodyPartExamined", "ViewPosition", "PhotometricInterpretation", "VOILUTFunction"]


def test_a_canary_is_in_no_log_metric_or_reply(small_server: SmallServer) -> None:  # noqa: F811
    canary = "ZQXCANARY"
    sent: list[dict[str, Any]] = []
    assert len(IDENTIFYING) >= 30
    tags = {name: "20260101" if name == "PatientBirthDate" else canary for name in IDENTIFYING}
    whole = dicom(film(), bits=8, **tags).replace(b"20260101", canary[:8].encode())
    sent += [raw(whole, b""), raw(whole[:-2000], b""), raw(whole.replace(b"DICM", b"DACM"), b"")]
    sent += [raw(dicom(film(), bits=8, **{name: canary}), b"") for name in JUDGED]
    sent += [raw(dicom(film(), bits=8, **{name: canary}, **tags), b"") for name in JUDGED]
    sent += [{"files": {canary: (f"{canary}.dcm", data, f"x/{canary}")}} for data in (whole, canary.encode())]
    sent += [{"files": {"film": (f"{canary}.png", encoded(film()))}, "data": {name: canary}} for name in ("cam", "x")]
    sent += [{"json": {"data": canary, canary: canary}}, {"json": {canary: text_of(whole)}}]
    sent += [{"json": {"data": text_of(whole), "cam": canary, "target": canary, "view": canary}}]
    sent += [{"json": {"instances": [{"b64": canary}, {canary: canary}, canary]}}]
    sent += [{"data": f'{{"data": "{canary}'.encode(), "headers": {"Content-Type": "application/json"}}]
    sent += [raw(encoded(film()), b"", **{name: canary}) for name in ("Cxr-Cam", "Cxr-Target", "X-Patient", "Cookie")]
    sent += [raw(encoded(film()), b"", **{"User-Agent": canary, "Accept": canary, "Authorization": canary})]
    sent += [{"data": whole, "headers": {"Content-Type": f"application/{canary}"}}]
    replies = [requests.post(small_server.predictions, timeout=60, **one) for one in sent]
    assert {reply.status_code for reply in replies} >= {200, 400, 415, 422}
    # After this one, everything that was said before is written.
    assert requests.post(small_server.predictions, data=FILMS[0], headers=OCTETS, timeout=60).status_code == 200
    assert [reply.text for reply in replies if canary[:8] in reply.text or canary[:8] in str(reply.headers)] == []
    assert canary[:8] not in requests.get(f"{small_server.metrics_url}/metrics", timeout=60).text
    run_dir = small_server.server.run_dir.path
    held = [path for path in run_dir.rglob("*") if path.is_file() and canary[:8].encode() in path.read_bytes()]
    assert held == []
    assert [path.name for path in run_dir.rglob("model_log.log")] == ["model_log.log"]
