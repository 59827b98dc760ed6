from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cxr.errors import InputError
from cxr_training.data.prepare.duplicates import NEAR, THUMBNAIL, fingerprint, groups, near_pairs, same_exposures
from tests.films import Grey, dicom, encoded, film
from tests.real_films import NEEDS_REAL_FILMS, REAL


def written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def resized(pixels: Grey, width: int, height: int) -> Grey:
    return np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC))


def test_a_film_keeps_its_pixel_digest_in_another_lossless_file(tmp_path: Path) -> None:
    pixels = film(1)
    one = fingerprint(written(tmp_path / "one", encoded(pixels, compress_level=1)))
    other = fingerprint(written(tmp_path / "other", encoded(pixels, compress_level=9)))

    assert one.sha256 != other.sha256
    assert one.pixels_sha256 == other.pixels_sha256
    assert (one.width, one.height, one.format, one.view) == (80, 96, "PNG", "")


def test_the_same_values_in_another_shape_are_other_pixels(tmp_path: Path) -> None:
    pixels = film(1, 96, 80)
    one = fingerprint(written(tmp_path / "one", encoded(pixels)))
    other = fingerprint(written(tmp_path / "other", encoded(pixels.reshape(80, 96))))

    assert one.pixels_sha256 != other.pixels_sha256


def test_a_film_resized_compressed_or_brightened_is_the_same_exposure_and_another_film_is_not(tmp_path: Path) -> None:
    pixels = film(1, 300, 240)
    copies = [
        encoded(pixels),
        encoded(resized(pixels, 120, 150)),
        encoded(pixels, "JPEG", quality=30),
        encoded((pixels * 0.7 + 20).astype(np.uint8)),
        dicom(pixels.astype(np.uint16) << 4, ViewPosition="AP"),
    ]
    others = [encoded(film(seed, 300, 240)) for seed in range(2, 12)]
    prints = [fingerprint(written(tmp_path / str(n), data)) for n, data in enumerate(copies + others)]

    assert prints[4].view == "AP"
    assert same_exposures(prints) == [[0, 1, 2, 3, 4], *([n] for n in range(5, 15))]


def test_pairs_are_those_that_numpy_corrcoef_finds_also_across_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cxr_training.data.prepare.duplicates._BLOCK", 7)
    rng = np.random.default_rng(0)
    plain = np.stack([film(seed, THUMBNAIL, THUMBNAIL) for seed in range(15)])
    noisy = np.clip(plain[::2] + rng.normal(0, 2, plain[::2].shape), 0, 255).astype(np.uint8)
    thumbnails = np.concatenate([plain, noisy])
    correlation = np.corrcoef(thumbnails.reshape(len(thumbnails), -1))

    expected = [tuple(pair) for pair in np.argwhere(np.triu(correlation >= NEAR, 1)).tolist()]

    assert len(expected) == len(noisy)
    assert sorted(near_pairs(thumbnails)) == expected


def test_what_is_linked_through_others_is_one_group() -> None:
    assert groups(6, [(4, 1), (1, 0), (3, 5), (2, 2)]) == [[0, 1, 4], [2], [3, 5]]
    assert groups(0, []) == []
    assert same_exposures([]) == []


def test_a_damaged_film_has_no_fingerprint(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="DAMAGED_IMAGE"):
        fingerprint(written(tmp_path / "film.png", encoded(film(1))[:200]))


def test_a_file_of_too_many_bytes_is_refused_unread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cxr_training.data.prepare.duplicates.MAX_BYTES", 100)

    with pytest.raises(InputError, match="TOO_MANY_BYTES"):
        fingerprint(written(tmp_path / "film.png", encoded(film(1))))


@NEEDS_REAL_FILMS
def test_no_two_of_many_real_films_that_differ_are_called_the_same() -> None:
    with (REAL / "cxr" / "manifest.csv").open(newline="", encoding="utf-8") as stream:
        names = [row["file"] for row in csv.DictReader(stream)][::5]  # every source is in it; all 4,900 give none too

    assert near_pairs(np.stack([fingerprint(REAL / "cxr" / name).thumbnail for name in names])) == []


@NEEDS_REAL_FILMS
def test_each_rebuilt_dicom_film_is_the_same_exposure_as_its_png_at_half_the_size() -> None:
    with (REAL / "rsna-mini" / "nih_map.csv").open(newline="", encoding="utf-8") as stream:
        pairs = [(row["patientId"], Path(row["nih_image"]).stem) for row in csv.DictReader(stream)]
    dicoms = [REAL / "rsna-mini" / "stage_2_train_images" / f"{study}.dcm" for study, _ in pairs]
    halves = [REAL / "cxr" / "images" / "nih-cxr14" / f"{name}.jpg" for _, name in pairs]

    found = near_pairs(np.stack([fingerprint(path).thumbnail for path in (*dicoms, *halves)]))

    assert sorted(found) == [(n, n + len(pairs)) for n in range(len(pairs))]
    assert len(pairs) == 60
