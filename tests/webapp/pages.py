"""Django set up once for these tests, and an inference server whose answers can be told apart."""

from __future__ import annotations

import base64
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import django
import numpy as np
from django.conf import settings
from django.core.management import call_command
from django.test import Client, override_settings
from django.test.utils import setup_test_environment

from cxr.serving.render import evidence_map, heat_map, png
from tests.film_server import Answer, Asked, FilmServer, serving
from tests.films import film

SECRET = "s" * 60
WEIGHTS = "ab" * 32
SCALE = 2.0
FILM = base64.b64encode(png(film())).decode()
CARD = {
    "model": {"name": "pneumonia", "version": "1.0.0", "arch": "resnet10", "weights_sha256": WEIGHTS},
    "intended_use": "Ranking films.",
    "limits": ["Not tested as a medical device."],
    "calibration": {
        "cam_scale": SCALE,
        "cam_cells": "centres",
        "indeterminate": [0.4, 0.6],
        "operating_point": "youden",
    },
    "views": "films are believed",
    "evaluation": {"synthetic": True, "overall": {"films": 9, "patients": 4, "auroc": 0.9, "auroc_ci": [0.8, 0.95]}},
}


# Ends with the process.
_FOLDER = tempfile.TemporaryDirectory(prefix="cxr-history-")


def set_up() -> None:
    """Load Django's settings, once in a process, with a history in a database of its own."""
    if settings.configured:
        return
    folder = _FOLDER.name
    ours = {
        "DJANGO_SETTINGS_MODULE": "cxr_webapp.settings",
        "PNEUMOSCAN_SECRET_KEY": SECRET,
        "PNEUMOSCAN_HTTPS": "no",
        "PNEUMOSCAN_HOSTS": "testserver",
        "PNEUMOSCAN_HISTORY": f"sqlite:///{folder}/history.db",
        "PNEUMOSCAN_EXAMPLES": f"{folder}/examples",
    }
    with mock.patch.dict(os.environ, ours):
        django.setup()
    setup_test_environment()  # pages tell what they were rendered from
    call_command("migrate", verbosity=0)


set_up()

from cxr_webapp import card, history, inference  # noqa: E402, F401 - models can be imported only now, history for tests
from cxr_webapp.models import Result  # noqa: E402
from cxr_webapp.views import EXAMPLES  # noqa: E402, F401 - likewise


def reply_to(body: bytes, **changes: Any) -> dict[str, Any]:
    """A reply as the contract has it: the first byte of the film is its probability, as 255ths."""
    probability = body[0] / 255
    grid = np.full((7, 7), 0.5, dtype=np.float32)
    return {
        "model": CARD["model"],
        "label": "PNEUMONIA" if probability >= 0.5 else "NORMAL",
        "probabilities": {"NORMAL": 1 - probability, "PNEUMONIA": probability},
        "logits": {"NORMAL": -0.25, "PNEUMONIA": 0.25},
        "decision": {"operating_point": "youden", "threshold": 0.5, "indeterminate": False},
        "cam": {
            "target": "contrast",
            "unit": "logit",
            "bias": 0.0,
            "grid": grid.tolist(),
            "png": base64.b64encode(png(heat_map(evidence_map(grid, "contrast", SCALE, 96, 80)))).decode(),
        },
        "image": {"format": "PNG", "width": 80, "height": 96, "bits": 8, "flags": ["clipped"], "png": FILM},
        "notice": "Research use only. Not a diagnosis.",
    } | changes


def scored(asked: Asked) -> Answer:
    """Answer every film."""
    return Answer(body=json.dumps(reply_to(asked.body)).encode(), headers={"Content-Type": "application/json"})


@contextmanager
def page_before(server: FilmServer, folder: Path, **changes: Any) -> Iterator[None]:
    """The page in front of a server, with the model card in a file and an empty history."""
    path = folder / "card.json"
    path.write_text(json.dumps(CARD), encoding="utf-8")
    with serving(server), override_settings(**{"PNEUMOSCAN_URL": server.url, "PNEUMOSCAN_CARD": str(path)} | changes):
        fresh()
        yield
    fresh()


def fresh() -> None:
    """Forget the server, its card and what was kept."""
    inference.client.cache_clear()
    card.forget()
    Result.objects.all().delete()


def reader(**options: Any) -> Client:
    """A browser whose user acknowledged the notice."""
    client = Client(**options)
    page = client.get("/")
    client.post("/acknowledge", {"csrfmiddlewaretoken": page.context["csrf_token"]})
    return client


def post_film(client: Client, film: bytes, query: str = "", **headers: str) -> Any:
    return client.post(f"/films{query}", film, content_type="application/octet-stream", headers=headers)
