"""The whole of it: a real ResNet-152, packed, served by TorchServe, asked over REST."""

from __future__ import annotations

import base64
import dataclasses
import io
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import requests
import torch
from PIL import Image

from cxr.films.decode import decode
from cxr.model.network import build
from cxr.model.spec import Preprocessing
from cxr.predict import Prediction, Predictor
from cxr.serving.render import overlay, png
from cxr_client import ManagementClient
from pneumoscan.archive import package
from tests.cxr.networks import lively, save_model
from tests.e2e.servers import Server, fresh_server
from tests.e2e.small_server import BATCHES
from tests.films import dicom, encoded, film
from tests.programs import NEEDS_JAVA

pytestmark = [pytest.mark.e2e, NEEDS_JAVA]

FILMS = {
    "png": encoded(film(1, 300, 260)),
    "jpeg": encoded(film(2, 260, 300), "JPEG", quality=95),
    "16 bit": encoded(film(3, 300, 300).astype(np.uint16) * 257),
    "rgba": encoded(np.dstack([film(4, 300, 280)] * 3 + [np.full((300, 280), 255, np.uint8)])),
    "dicom": dicom(film(5, 320, 280).astype(np.uint16) * 16, PhotometricInterpretation="MONOCHROME1"),
}
BAD = {
    b"no film at all": (415, "UNKNOWN_FORMAT"),
    FILMS["png"][:2000]: (422, "DAMAGED_IMAGE"),
    dicom(film(), bits=8, Modality="CT"): (422, "NOT_A_RADIOGRAPH"),
    b'{"data": "%%%"}': (400, "BAD_BASE64"),
}


@dataclasses.dataclass(frozen=True)
class Served:
    """A running server and what its model says of the films in this process."""

    server: Server
    predictor: Predictor
    alone: dict[str, Prediction]

    @property
    def url(self) -> str:
        return f"{self.server.url}/predictions/pneumonia"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    run = tmp_path_factory.mktemp("run")
    torch.manual_seed(0)
    network = lively(build("resnet152", 2))
    with torch.no_grad():  # random weights blow up through 50 blocks; this keeps the logits of a trained model's size
        network.fc.weight.mul_(1e-9)
    save_model(run, network, arch="resnet152", preprocessing=Preprocessing())
    predictor = Predictor.load(run, "cpu")
    alone = {name: predictor.predict([decode(data).pixels])[0] for name, data in FILMS.items()}
    with fresh_server() as server:
        package(run, "1.0.0", server.store)
        # One worker, so that what it wrote before an answer is written; and batches, which a CPU would not make.
        started = server.call("--detach", "--device", "cpu", "--workers", "1", *BATCHES)
        assert started.returncode == 0, started.stderr
        yield Served(server, predictor, alone)


def close_to(reply: requests.Response, prediction: Prediction) -> None:
    assert reply.status_code == 200, reply.text
    body = reply.json()
    assert body["probabilities"]["PNEUMONIA"] == pytest.approx(prediction.probabilities[1], abs=1e-5)
    scale = max(1.0, float(np.abs(prediction.logits).max()))
    target = body["logits"][body["cam"]["target"]]
    assert np.mean(body["cam"]["grid"]) + body["cam"]["bias"] == pytest.approx(target, abs=1e-4 * scale)


@pytest.mark.parametrize("name", list(FILMS))
def test_every_kind_of_film_gets_the_evaluations_answer(served: Served, name: str) -> None:
    close_to(requests.post(served.url, data=FILMS[name], timeout=60), served.alone[name])


def test_forms_and_json_carry_the_same_film(served: Served) -> None:
    data = FILMS["dicom"]
    text = base64.b64encode(data).decode()
    close_to(requests.post(served.url, files={"film": data}, timeout=60), served.alone["dicom"])
    close_to(requests.post(served.url, json={"data": text}, timeout=60), served.alone["dicom"])
    uri = f"data:application/dicom;base64,{text}"
    close_to(requests.post(f"{served.url}/1.0.0", json={"data": uri}, timeout=60), served.alone["dicom"])


def test_bad_films_never_change_the_answers_beside_them(served: Served) -> None:
    """Sixty requests at once, so that batches of good and bad films form in every mixture."""
    requests_sent = [*FILMS.items(), *((None, data) for data in BAD)] * 7
    with ThreadPoolExecutor(24) as pool:
        replies = list(pool.map(lambda one: requests.post(served.url, data=one[1], timeout=120), requests_sent))
    for (name, data), reply in zip(requests_sent, replies, strict=True):
        if name is not None:
            close_to(reply, served.alone[name])
        else:
            problem = reply.json()
            assert (reply.status_code, problem["code"]) == BAD[data]
            assert reply.headers["content-type"] == "application/problem+json"
    ids = [reply.json()["request_id"] for reply in replies]
    assert len(set(ids)) == len(ids)


def test_the_overlay_over_rest_is_the_one_drawn_here(served: Served) -> None:
    headers = {"Accept": "image/png", "Cxr-Target": "contrast"}
    reply = requests.post(served.url, data=FILMS["png"], headers=headers, timeout=60)
    assert reply.headers["content-type"] == "image/png"
    grid = served.alone["png"].explain("contrast").grid
    expected = png(overlay(decode(FILMS["png"]).pixels, grid, "contrast", served.predictor.spec.cam_scale))
    shown, drawn = (decode_rgb(picture) for picture in (reply.content, expected))
    assert shown.shape == drawn.shape
    assert np.abs(shown - drawn).max() <= 1


def test_explanations_answer_with_an_overlay(served: Served) -> None:
    reply = requests.post(f"{served.server.url}/explanations/pneumonia", data=FILMS["png"], timeout=60).json()
    assert decode_rgb(base64.b64decode(reply["cam"]["png"])).shape == (300, 260 + 96, 3)


def test_metrics_are_for_prometheus(served: Served) -> None:
    text = requests.get(f"http://127.0.0.1:{served.server.ports[1]}/metrics", timeout=60).text
    assert "ts_inference_requests_total" in text


def test_nothing_of_an_upload_is_in_the_logs(served: Served) -> None:
    canary = "CANARY-7f3a"
    requests.post(
        served.url, data=dicom(film(), bits=8, PatientName=canary, PatientID=canary, Modality="CT"), timeout=60
    )
    requests.post(served.url, files={canary: (f"{canary}.png", f"{canary} is no film".encode())}, timeout=60)
    requests.post(served.url, json={"data": canary, "cam": canary}, timeout=60)
    forged = f"{canary}\n[METRICS]Forged.Count:1|#ModelName:pneumonia\n[PID]1".encode()
    crafted = dicom(film(), bits=8, SpecificCharacterSet="C" * len(forged)).replace(b"C" * len(forged), forged)
    assert requests.post(served.url, data=crafted, timeout=60).status_code == 200
    assert requests.post(served.url, data=FILMS["png"], timeout=60).status_code == 200  # after it, all is written
    assert canary not in requests.get(f"http://127.0.0.1:{served.server.ports[1]}/metrics", timeout=60).text
    with ManagementClient(served.server.run_dir.socket) as management:
        assert all(worker.pid > 1 for state in management.ready("pneumonia").versions for worker in state.workers)
    logs = list(served.server.run_dir.logs.rglob("*.log"))
    assert logs
    assert [path.name for path in logs if canary in path.read_text(encoding="utf-8", errors="replace")] == []


def decode_rgb(data: bytes) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(np.int64)
