"""One pass over films: in order, each opened once, with few in memory."""

from __future__ import annotations

import gc
import weakref
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from cxr.films.film import Pixels
from cxr.model.preprocess import resize
from cxr.model.spec import Preprocessing
from cxr_training.data.records import Record, load_films
from cxr_training.errors import TrainingError
from cxr_training.measure.scoring import KeptFilms, ReadFilm, read_films, score, scored_films, unchanged
from tests.commands import run_command
from tests.cxr.networks import predictor, save_model
from tests.cxr_training.folders import write_manifest
from tests.films import encoded, film


@pytest.fixture
def records(tmp_path: Path) -> tuple[Record, ...]:
    return load_films(write_manifest(tmp_path / "data", 11, ("test",))).of("test")


def flipped(pixels: Pixels) -> Pixels:
    return np.ascontiguousarray(pixels[:, ::-1])


def count_opens(data: Path, monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each film of a data folder is read from now on, by its name."""
    opened: Counter[str] = Counter()
    read_bytes = Path.read_bytes

    def counted(path: Path) -> bytes:
        if path.parent == data:
            opened[path.name] += 1
        return read_bytes(path)

    monkeypatch.setattr(Path, "read_bytes", counted)
    return opened


def test_films_come_in_order_with_what_the_model_says_of_each(tmp_path: Path, records: tuple[Record, ...]) -> None:
    save_model(tmp_path)
    model = predictor(tmp_path)
    found = [*scored_films(model, records, changes=(unchanged, flipped))]
    assert [film.record for film in found] == list(records)
    for one in found:
        pixels = one.record.read()
        np.testing.assert_array_equal(one.pixels, pixels)
        for prediction, changed in zip(one.predictions, (pixels, flipped(pixels)), strict=True):
            np.testing.assert_allclose(prediction.logits, model.predict([changed])[0].logits, atol=1e-5)
    for said, film_of in zip(score(model, records), found, strict=True):
        np.testing.assert_array_equal(said.logits, film_of.prediction.logits)


def test_of_a_film_that_the_model_reads_reduced_every_pixel_is_there_where_it_is_needed(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(encoded(film(0, 800, 640), "JPEG", quality=90))
    record = Record(path, "a.jpg", "NORMAL", "p", "test", "")
    preprocessing = Preprocessing(size=64, decode="reduced")
    reduced = record.read(preprocessing.least_side)
    assert reduced.shape < (800, 640)
    for whole, expected in ((True, record.read()), (False, reduced)):
        (((one,)),) = read_films([record], preprocessing, whole=whole)
        np.testing.assert_array_equal(one.pixels, expected)
        np.testing.assert_array_equal(one.input, resize(reduced, preprocessing))
        assert (one.info.height, one.info.width) == (800, 640)


def test_a_film_that_cannot_be_decoded_is_named(records: tuple[Record, ...]) -> None:
    records[9].file.write_bytes(b"no film")
    passing = read_films(records, Preprocessing(size=64))
    assert len(next(passing)) == 8
    with pytest.raises(TrainingError, match=records[9].file.name):
        next(passing)


def test_no_more_than_a_few_batches_of_films_are_in_memory(tmp_path: Path) -> None:
    data = write_manifest(tmp_path / "data", 40, ("test",))
    seen: list[weakref.ref[Pixels]] = []
    most = 0

    def noted(pixels: Pixels) -> Pixels:
        nonlocal most
        seen.append(weakref.ref(pixels))
        most = max(most, sum(one() is not None for one in seen))
        return pixels

    for _ in read_films(load_films(data).of("test"), Preprocessing(size=64), changes=(noted,)):
        gc.collect()
    assert most <= 4 * 8  # the batch in use, the one before it that the loop still names, two that are prepared


def test_the_films_that_are_kept_are_those_with_the_smallest_keys() -> None:
    rng = np.random.default_rng(3)
    for most, count in ((3, 20), (6, 4)):
        kept = KeptFilms(most, lambda pixels: pixels[:1])
        keys = [(float(rng.integers(0, 5)), place) for place in rng.permutation(count).tolist()]
        for key in keys:
            record = Record(Path(), str(key[1]), "NORMAL", "", "test", "")
            kept.offer(key, ReadFilm(record, None, np.full((2, 2), key[1], dtype=np.uint8), ()))  # type: ignore[arg-type]
        found = kept.by_name()
        assert list(found) == [str(place) for _, place in sorted(keys)[:most]]
        assert all(pixels.tolist() == [[int(name)] * 2] for name, pixels in found.items())


def test_calibrate_evaluate_and_audit_open_each_film_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Errors, films with boxes, the screen and the drift reference are there, and none of them reads a film again."""
    data, run = write_manifest(tmp_path / "data", 16), tmp_path / "run"
    boxes = [f"test-PNEUMONIA-{i}.png,{i},10,30,20" for i in range(14)]
    (data / "boxes.csv").write_text("\n".join(["file,x,y,width,height", *boxes]) + "\n", encoding="utf-8")
    common = ["--run", str(run), "--data", str(data), "--device", "cpu"]
    small = ["--arch", "resnet10", "--weights", "random", "--epochs", "1", "--size", "64", "--views", "0"]
    assert run_command("train", [*common, *small]) == 0
    by_split = {
        split: {record.file.name for record in load_films(data).of(split)} for split in ("train", "val", "test")
    }
    for step, splits in (
        ("calibrate", ("train", "val")),
        ("evaluate", ("test",)),
        ("audit", ("train", "val", "test")),
    ):
        with monkeypatch.context() as patch:
            opened = count_opens(data, patch)
            assert run_command(step, common) == 0
        assert opened == Counter({name: 1 for split in splits for name in by_split[split]}), step
        if step == "calibrate":
            assert run_command("export", ["--run", str(run)]) == 0
            assert (run / "drift.json").is_file()
    assert len([*(run / "localisation").iterdir()]) == 12
    assert [*(run / "errors").iterdir()]
