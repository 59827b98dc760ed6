"""From the bytes of a file to what the network sees: the well-known tutorial's way beside ours, in turn."""

from __future__ import annotations

import io
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any, Final

import numpy as np
import torch
from PIL import Image
from pydicom import dcmread

from benchmarks.films import DECODED
from benchmarks.machine import host
from cxr.films.decode import decode
from cxr.model.preprocess import to_tensor
from cxr.model.spec import Preprocessing
from cxr_training.data.progress import progress_bar

WAYS: Final = ("tutorial", "exact", "reduced")


def tutorial_tensor(data: bytes) -> torch.Tensor:
    """A film as the tutorial's server reads it: colour, resized as a picture, normalised: (3, 224, 224).

    It has no DICOM; such a film is read by pydicom, windowed by its extremes and then treated as a picture.
    """
    from torchvision import transforms

    if data[128:132] == b"DICM":
        stored = dcmread(io.BytesIO(data)).pixel_array.astype(np.float32)
        low, high = stored.min(), stored.max()
        picture = Image.fromarray(((stored - low) / max(high - low, 1) * 255).astype(np.uint8))
    else:
        picture = Image.open(io.BytesIO(data))
    steps = transforms.Compose(
        [
            transforms.Resize((224, 224)),
            transforms.ToTensor(),
            transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
        ]
    )
    tensor = steps(picture.convert("RGB"))
    assert isinstance(tensor, torch.Tensor)
    return tensor


def our_tensor(data: bytes, decode_as: str) -> torch.Tensor:
    """A film as it is served, checked, grey, resized, normalised; `decode_as` is one of `cxr.model.spec.DECODES`."""
    preprocessing = Preprocessing(decode=decode_as)
    return to_tensor(decode(data, preprocessing.least_side).pixels, preprocessing)


def benchmark_decode(rounds: int) -> dict[str, Any]:
    """Medians of `rounds` in which each way reads each film once, on one thread.

    Returns
    -------
    For each kind of film the milliseconds of each of `WAYS`, and how many times as fast as the tutorial's ours are: the
    medians of the rounds' ratios, with their range.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        films = {kind: make(0) for kind, make in DECODED.items()}
        rows = {kind: _rows(data, rounds, kind) for kind, data in films.items()}
    finally:
        torch.set_num_threads(threads)
    return {
        "what": "decode",
        "machine": host(),
        "rounds": rounds,
        "films": {kind: {"bytes": len(films[kind]), **_figures(some)} for kind, some in rows.items()},
    }


def _rows(data: bytes, rounds: int, kind: str) -> list[tuple[float, ...]]:
    """Milliseconds of each of `WAYS` in each round."""
    ways: tuple[Callable[[bytes], object], ...] = (
        tutorial_tensor,
        partial(our_tensor, decode_as="exact"),
        partial(our_tensor, decode_as="reduced"),
    )
    for way in ways:
        way(data)  # warm
    rows = []
    for _ in progress_bar(range(rounds), kind, "round"):
        times = []
        for way in ways:
            start = time.perf_counter()
            way(data)
            times.append((time.perf_counter() - start) * 1000)
        rows.append(tuple(times))
    return rows


def _figures(rows: list[tuple[float, ...]]) -> dict[str, float]:
    figures = {f"{way}_ms": round(statistics.median(row[i] for row in rows), 3) for i, way in enumerate(WAYS)}
    for i, way in enumerate(WAYS[1:], start=1):
        ratios = [row[0] / row[i] for row in rows]
        figures |= {
            f"{way}_ratio": round(statistics.median(ratios), 3),
            f"{way}_lowest": round(min(ratios), 3),
            f"{way}_highest": round(max(ratios), 3),
        }
    return figures
