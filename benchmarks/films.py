"""Films of the sizes that are really sent, as the bytes of their files."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image

from cxr.films.decode import decode
from cxr.films.film import Pixels
from cxr_training.data.toy.anatomy import draw_anatomy
from cxr_training.data.toy.files import LABELS, dicom_bytes, png_bytes
from cxr_training.data.toy.films import ToyFilm, draw_film
from pneumoscan.errors import UsageError
from pneumoscan.film_files import find_films

LARGE: Final = (2500, 2000)  # rows and columns of a computed radiography film
MIDDLE: Final = (1024, 1024)  # of the public data sets
SMALL: Final = (224, 224)  # of the network's input
_SEED: Final = 50
_QUALITY: Final = 90


def _drawn(size: tuple[int, int], number: int) -> ToyFilm:
    rng = np.random.default_rng([_SEED, *size, number])
    return draw_film(rng, draw_anatomy(rng), LABELS[number % 2], size)


def _grey(size: tuple[int, int], number: int) -> Pixels:
    return np.rint(_drawn(size, number).pixels * 255).astype(np.uint8)


def _jpeg(pixels: Pixels, mode: str = "L") -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(stream, "JPEG", quality=_QUALITY)
    return stream.getvalue()


def _dicom(film: ToyFilm) -> bytes:
    return dicom_bytes(film, "MONOCHROME2", patient_id="SYN0001", age=50, sex="O", uid_seed="benchmark")


def drawn_dicom(size: tuple[int, int]) -> bytes:
    """An uncompressed DICOM film of 12 bits, MONOCHROME2, of so many rows and columns."""
    return _dicom(_drawn(size, 0))


KINDS: Final[dict[str, Callable[[int], bytes]]] = {
    "JPEG 2000x2500": lambda number: _jpeg(_grey(LARGE, number)),
    "PNG 1024x1024": lambda number: png_bytes(_drawn(MIDDLE, number), 8),
    "DICOM 2000x2500": lambda number: _dicom(_drawn(LARGE, number)),
    "JPEG 224x224": lambda number: _jpeg(_grey(SMALL, number)),
}
DECODED: Final[dict[str, Callable[[int], bytes]]] = {
    **KINDS,
    "JPEG 1024x1024": lambda number: _jpeg(_grey(MIDDLE, number)),
}


def made_up_films(count: int = 2) -> dict[str, bytes]:
    """`count` drawn films of each kind, by name; the kinds take turns."""
    return {f"{kind} #{number}": make(number) for number in range(count) for kind, make in KINDS.items()}


def small_films(count: int = 4) -> dict[str, bytes]:
    """Drawn JPEG films at the size of the network's input."""
    return {f"JPEG 224x224 #{number}": KINDS["JPEG 224x224"](number) for number in range(count)}


def colour_films(folder: Path | None) -> dict[str, bytes]:
    """Films saved as colour JPEG, which every server that is compared can read.

    They are those of a folder, each at its own size, or four drawn ones of 1024x1024 where None is given.
    """
    if folder is None:
        return {f"colour JPEG 1024x1024 #{number}": _jpeg(_grey(MIDDLE, number), "RGB") for number in range(4)}
    return {name: _jpeg(decode(data).pixels, "RGB") for name, data in films_of(folder).items()}


def grey_films(count: int, side: int) -> npt.NDArray[np.uint8]:
    """Drawn films at the size of a network's input: (count, side, side)."""
    return np.stack([_grey((side, side), number) for number in range(count)])


def films_of(folder: Path | None) -> dict[str, bytes]:
    """The films of a folder, or made-up ones where None is given."""
    if folder is None:
        return made_up_films()
    found = {str(path): path.read_bytes() for path in find_films([folder]).films}
    if not found:
        raise UsageError(f"{folder} holds no film: give a folder of JPEG, PNG or DICOM files, or leave --films out")
    return found
