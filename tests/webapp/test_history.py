from __future__ import annotations

import io
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
from django.core.management import call_command
from django.core.management.base import CommandError
from django.test import Client, override_settings
from django.utils import timezone
from PIL import Image

from cxr.serving.render import RGB, blend, evidence_map, heat_map, png
from tests.film_server import FilmServer
from tests.films import encoded, film
from tests.webapp.pages import Result, history, page_before, post_film, reader, scored


def test_only_what_a_reader_asked_to_keep_is_kept_and_only_what_the_server_said(tmp_path: Path) -> None:
    with page_before(FilmServer(scored), tmp_path):
        client = reader()
        assert post_film(client, b"\xccfilm").json()["kept"] is None
        assert Result.objects.count() == 0
        assert post_film(client, b"\xccfilm", "?keep=1").json()["kept"] is not None
        kept = Result.objects.get()
    assert (kept.label, kept.probability, kept.flags) == ("PNEUMONIA", 0.8, ["clipped"])
    assert {field.name for field in Result._meta.get_fields()} == {
        *("id", "answered_at", "label", "probability", "threshold", "indeterminate", "flags", "film_format"),
        *("model_version", "weights_sha256", "thumbnail"),
    }
    with Image.open(io.BytesIO(kept.thumbnail)) as picture:
        assert max(picture.size) <= history.THUMBNAIL_SIDE
        assert picture.size == (80, 96)  # the film and nothing beside it
        assert not picture.getexif()


def test_the_kept_picture_is_coloured_as_the_servers_overlay() -> None:
    grid = np.random.default_rng(3).normal(0, 2, (7, 7)).astype(np.float32)  # some of it beyond full colour
    grey = film(height=140, width=120)
    evidence = evidence_map(grid, "contrast", 3.0, 140, 120)
    with Image.open(io.BytesIO(history.thumbnail_of(png(grey), png(heat_map(evidence))))) as picture:
        kept = np.asarray(picture).astype(int)
    with Image.open(io.BytesIO(jpeg(blend(grey, evidence)))) as picture:
        drawn = np.asarray(picture).astype(int)
    assert kept.shape == drawn.shape
    assert np.abs(kept - drawn).mean() < 1
    assert np.abs(kept - drawn).max() < 16  # 255 steps of a heat map, and what the JPEG makes of them


def jpeg(picture: RGB) -> bytes:
    return encoded(picture, "JPEG", quality=80)


def test_one_entry_or_all_of_them_can_be_deleted(tmp_path: Path) -> None:
    with page_before(FilmServer(scored), tmp_path):
        client = reader()
        numbers = [post_film(client, b"\xccfilm", "?keep=1").json()["kept"] for _ in range(3)]
        assert client.get(f"/history/{numbers[0]}.jpg").headers["Content-Type"] == "image/jpeg"
        client.post("/history/delete", {"number": numbers[0]})
        assert sorted(Result.objects.values_list("pk", flat=True)) == sorted(numbers[1:])
        assert client.get(f"/history/{numbers[0]}.jpg").status_code == 404
        client.post("/history/delete", {"number": "1 or all"})
        assert Result.objects.count() == 2
        client.post("/history/delete", {"all": "1"})
        assert Result.objects.count() == 0
        assert "Nothing is kept." in client.get("/history").content.decode()


def test_what_is_over_its_time_is_gone_before_anyone_sees_it(tmp_path: Path) -> None:
    with page_before(FilmServer(scored), tmp_path, PNEUMOSCAN_RETENTION_DAYS=2.0):
        client = reader()
        for _ in range(2):
            post_film(client, b"\xccfilm", "?keep=1")
        old = Result.objects.first()
        assert old is not None
        old.answered_at = timezone.now() - timedelta(days=2, seconds=1)
        old.save()
        assert len(client.get("/history").context["page"].object_list) == 1
        assert Result.objects.count() == 1


def test_without_a_history_nothing_is_kept_and_there_is_no_page(tmp_path: Path) -> None:
    with page_before(FilmServer(scored), tmp_path):
        with override_settings(PNEUMOSCAN_HISTORY=""):
            client = reader()
            assert post_film(client, b"\xccfilm", "?keep=1").json()["kept"] is None
            assert client.get("/history").status_code == 404
            assert client.post("/history/delete", {"all": "1"}).status_code == 404
            assert "history" not in client.get("/").content.decode().lower()
            with pytest.raises(CommandError, match="PNEUMOSCAN_HISTORY"):
                call_command("purge_history")
        assert Result.objects.count() == 0


def test_a_history_that_cannot_be_written_costs_nobody_an_answer(tmp_path: Path) -> None:
    with page_before(FilmServer(scored), tmp_path):
        client = reader()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("cxr_webapp.history.thumbnail_of", lambda *_: (_ for _ in ()).throw(OSError("full")))
            answer = post_film(client, b"\xccfilm", "?keep=1")
    assert answer.status_code == 200
    assert answer.json()["kept"] is None


@pytest.mark.parametrize(("value", "shown"), [(1.0, ">0.999"), (0.0, "<0.001"), (0.25, "0.250"), (0.999, "0.999")])
def test_no_probability_is_shown_as_certainty(value: float, shown: str) -> None:
    assert Result(probability=value).probability_text == shown


def test_deleting_needs_the_pages_token() -> None:
    assert Client(enforce_csrf_checks=True).post("/history/delete", {"all": "1"}).status_code == 403
