"""The synthetic films that ship: an archive's golden ones and the reading page's examples, drawn when needed."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image

from cxr_training.data.toy.anatomy import draw_anatomy
from cxr_training.data.toy.files import dicom_bytes, png_bytes
from cxr_training.data.toy.films import ToyFilm, draw_film
from pneumoscan.files import write_bytes

_GOLDEN_SEED: Final = 20
_EXAMPLES_SEED: Final = 2027
_THUMB: Final = 104  # pixels, for screens of any density


def golden_films() -> dict[str, bytes]:
    """Films for an archive's self-check, one of each class and of each way to store grey values."""
    films: dict[str, bytes] = {}
    for seed, (label, form) in enumerate([("NORMAL", 8), ("PNEUMONIA", 16)]):
        rng = np.random.default_rng([_GOLDEN_SEED, seed])
        films[f"{label.lower()}.png"] = png_bytes(draw_film(rng, draw_anatomy(rng), label, (256, 256)), form)
    return films


def write_examples(folder: Path) -> None:
    """Write the films of `cxr_webapp.views.EXAMPLES` and their small pictures; the same bytes every time."""
    opacity, clear = _drawn(1, "PNEUMONIA", (512, 480)), _drawn(2, "NORMAL", (512, 470))
    faint, dicom = _drawn(3, "PNEUMONIA", (320, 300)), _drawn(4, "NORMAL", (320, 300))
    films = {
        "opacity.jpg": _jpeg(_grey(opacity), 92),
        "opacity.thumb.jpg": _jpeg(_small(opacity), 80),
        "clear.jpg": _jpeg(_grey(clear), 92),
        "clear.thumb.jpg": _jpeg(_small(clear), 80),
        "faint.png": png_bytes(faint, 16),
        "faint.thumb.jpg": _jpeg(_small(faint), 80),
        "clear-dicom.thumb.jpg": _jpeg(_small(dicom), 80),
        "clear.dcm": dicom_bytes(dicom, "MONOCHROME1", patient_id="SYN0004", age=50, sex="O", uid_seed="example"),
    }
    for name, data in films.items():
        write_bytes(folder / name, data)


def _jpeg(picture: Image.Image, quality: int) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, format="JPEG", quality=quality)
    return stream.getvalue()


def _drawn(seed: int, label: str, size: tuple[int, int]) -> ToyFilm:
    anatomy = draw_anatomy(np.random.default_rng([_EXAMPLES_SEED, 0, seed]))
    return draw_film(np.random.default_rng([_EXAMPLES_SEED, 1, seed]), anatomy, label, size)


def _grey(film: ToyFilm) -> Image.Image:
    return Image.fromarray(np.rint(film.pixels * 255).astype(np.uint8))


def _small(film: ToyFilm) -> Image.Image:
    """A square out of the middle."""
    grey = _grey(film)
    side = min(grey.size)
    left, top = (grey.width - side) // 2, (grey.height - side) // 2
    return grey.crop((left, top, left + side, top + side)).resize((_THUMB, _THUMB), Image.Resampling.LANCZOS)
