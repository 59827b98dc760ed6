"""Films that are the same exposure: the same file, the same pixels, or the same picture resized or compressed again."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from cxr.errors import InputError
from cxr.films.decode import decode
from cxr.films.film import MAX_BYTES, Pixels

# Among 12 million pairs of 4,900 films of children and adults that are known to differ, no two thumbnails correlate by
# more than 0.967. The same film at half the size or as JPEG of quality 30 stays above 0.996, under a gamma of 0.8 or
# 1.3 above 0.993. A cropped or histogram-equalised copy is not found. A difference hash of 64 bits would not do:
# 425 of those pairs share theirs.
NEAR: Final = 0.99
_COARSE: Final = 4  # first looked at are means of 4 x 4 thumbnail pixels, which agree still better
_COARSE_NEAR: Final = 0.985
_BLOCK: Final = 1024  # rows correlated with all others at a time, for the memory's sake


def same_exposures(films: Sequence[Fingerprint]) -> list[list[int]]:
    """Positions of the films, grouped by exposure; a film without a duplicate is a group of its own."""
    pairs = near_pairs(np.stack([film.thumbnail for film in films])) if films else []
    for digests in ([film.sha256 for film in films], [film.pixels_sha256 for film in films]):
        first: dict[str, int] = {}
        pairs += [(first.setdefault(digest, place), place) for place, digest in enumerate(digests)]
    return groups(len(films), pairs)


def near_pairs(thumbnails: Pixels) -> list[tuple[int, int]]:
    """Pairs of thumbnails, (N, 64, 64) uint8, whose grey values correlate by `NEAR` or more."""
    count, side, _ = thumbnails.shape
    blocks = thumbnails.reshape(count, side // _COARSE, _COARSE, side // _COARSE, _COARSE)
    coarse = _standardised(blocks.mean(axis=(2, 4), dtype=np.float32))
    found = []
    for start in range(0, count, _BLOCK):
        alike = coarse[start : start + _BLOCK] @ coarse[start:].T >= _COARSE_NEAR
        for row, column in np.argwhere(np.triu(alike, 1)):
            one, other = start + int(row), start + int(column)
            fine = _standardised(thumbnails[[one, other]].astype(np.float32))
            if fine[0] @ fine[1] >= NEAR:
                found.append((one, other))
    return found


def _standardised(pictures: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Each picture as a row with mean 0 and length 1, so that products of rows are correlations."""
    rows = pictures.reshape(len(pictures), -1)
    rows = rows - rows.mean(axis=1, keepdims=True)
    return np.asarray(rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-6))


def groups(count: int, pairs: Iterable[tuple[int, int]]) -> list[list[int]]:
    """The numbers below `count`, those together that pairs connect, each group and the list of groups in order."""
    ends: npt.NDArray[Any] = np.array(list(pairs), dtype=np.int64).reshape(-1, 2)
    graph = coo_array((np.ones(len(ends)), (ends[:, 0], ends[:, 1])), shape=(count, count))
    _, labels = connected_components(graph, directed=False)
    found: dict[int, list[int]] = defaultdict(list)
    for place, label in enumerate(labels):
        found[int(label)].append(place)
    return sorted(found.values())


THUMBNAIL: Final = 64  # pixels a side, whatever the film's aspect


@dataclass(frozen=True, slots=True, eq=False)
class Fingerprint:
    """A decoded film without its pixels.

    Parameters
    ----------
    sha256, pixels_sha256
        Of the file, and of the decoded grey pixels with their shape.
    thumbnail
        (64, 64) uint8, each pixel the mean of its part of the film.
    format, view
        As the file says; the view is empty where it does not.
    size_bytes
        Of the file.
    """

    sha256: str
    pixels_sha256: str
    thumbnail: Pixels
    format: str
    width: int
    height: int
    view: str
    size_bytes: int


def fingerprint(path: Path) -> Fingerprint:
    """Decode a film as the server would.

    Raises
    ------
    InputError
        With the code that says what is wrong with it.
    """
    if path.stat().st_size > MAX_BYTES:
        raise InputError("TOO_MANY_BYTES", f"more than {MAX_BYTES:,} bytes")
    data = path.read_bytes()
    film = decode(data)
    height, width = film.pixels.shape
    pixels = hashlib.sha256(f"{height} {width} ".encode())
    pixels.update(np.ascontiguousarray(film.pixels).data)
    small = Image.fromarray(film.pixels).resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX)
    return Fingerprint(
        sha256=hashlib.sha256(data).hexdigest(),
        pixels_sha256=pixels.hexdigest(),
        thumbnail=np.asarray(small),
        format=film.info.format,
        width=width,
        height=height,
        view=film.info.view_position or "",
        size_bytes=len(data),
    )
