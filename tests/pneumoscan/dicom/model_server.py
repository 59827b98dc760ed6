"""The service of an archive behind HTTP in this process, with a small model, and films to ask it about.

What TorchServe would add is the way there and back; what is answered is what it would answer.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from pydicom.uid import generate_uid

from cxr.model.spec import Preprocessing
from cxr.predict import Predictor
from cxr.serving.reply import ModelIdentity
from cxr.serving.service import BatchService, IncomingRequest
from tests import films
from tests.cxr.networks import save_model, small_network
from tests.film_server import Answer, Asked, FilmServer, serving

VERSION: Final = "1.0.0"
# Seeds of films that the model answers so.
PNEUMONIA, NORMAL = 4, 5
DOUBTFUL: Final = 1  # within the indeterminate band


@contextmanager
def model_server(folder: Path) -> Iterator[FilmServer]:
    """Serve a ResNet-10 whose map has warm and cold places, until the block ends."""
    network = small_network(1)
    weight = torch.randn(network.fc.weight.shape[1], generator=torch.Generator().manual_seed(1)) * 0.3
    with torch.no_grad():
        network.fc.weight.copy_(torch.stack([-weight, weight]))
        network.fc.bias.zero_()
    spec = save_model(folder, network, preprocessing=Preprocessing(size=224), indeterminate=(0.45, 0.55))
    service = BatchService(Predictor.load(folder, "cpu"), ModelIdentity.of(spec, "pneumonia", VERSION))
    one_at_a_time = threading.Lock()

    def answer(asked: Asked) -> Answer:
        with one_at_a_time:
            request = IncomingRequest({"body": asked.body}, asked.headers, "request-7")
            reply = service.answer([request])[0]
        return Answer(reply.status, reply.body, {"Content-Type": reply.content_type})

    with serving(FilmServer(answer)) as server:
        yield server


def chest_film(seed: int = PNEUMONIA, *, pixels: Any = None, name: str = "", **tags: Any) -> bytes:
    """A CR film of 12 bits of a patient; `name` tells films of the same seed apart, and None leaves a tag out."""
    stored = films.film(seed, 300, 260) if pixels is None else pixels
    uids = {
        keyword: generate_uid(entropy_srcs=[part, str(seed), name])
        for keyword, part in (
            ("StudyInstanceUID", "study"),
            ("SeriesInstanceUID", "series"),
            ("SOPInstanceUID", "film"),
        )
    }
    patient = {
        **{"PatientName": "Doe^Jane", "PatientID": f"PID-{seed}", "PatientBirthDate": "19500101", "PatientSex": "F"},
        **{"StudyDate": "20250102", "StudyTime": "101112", "StudyID": "1", "AccessionNumber": f"ACC-{seed}"},
        **{"ReferringPhysicianName": "Roe^Richard", "PatientOrientation": ["L", "F"]},
    }
    own = {keyword: value for keyword, value in {**uids, **patient}.items() if keyword not in tags}
    added = {keyword: value for keyword, value in tags.items() if value is not None}
    return films.dicom(stored.astype(np.uint16) * 16, **own, **added)
