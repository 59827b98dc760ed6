"""Damaged files of every format: an error of ours or a film, never anything else, and never a word on the output."""

from __future__ import annotations

from collections import Counter
from functools import cache

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from pydicom.uid import JPEG2000Lossless, JPEGLosslessSV1, JPEGLSLossless, RLELossless

from cxr.errors import InputError
from cxr.films.decode import decode
from tests.films import compressed, dicom, encoded, film
from tests.real_films import NEEDS_REAL_FILMS, REAL

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:pydicom")

EXAMPLES = 10_000
_LARGEST = 400_000  # bytes of a real file that is taken as a seed


@cache
def seeds() -> list[bytes]:
    """Whole files: made-up ones of each format, and real ones where there are any."""
    stored = film(3).astype(np.uint16) * 16
    made = [
        encoded(film()),
        encoded(film(1).astype(np.uint16) * 257),
        encoded(np.dstack([film(2)] * 4)),
        encoded(film(), "JPEG"),
        encoded(film(), "JPEG", progressive=True),
        dicom(stored),
        dicom(stored, PhotometricInterpretation="MONOCHROME1", WindowCenter=2000, WindowWidth=3000),
        compressed(dicom(stored), RLELossless),
        compressed(dicom(stored), JPEG2000Lossless),
        dicom(film(4), bits=8),
    ]
    folders = [REAL / "dicom", REAL / "originals", REAL / "rsna-mini" / "stage_2_train_images"]
    real = [path for folder in folders if folder.is_dir() for path in sorted(folder.iterdir())[:6]]
    return made + [path.read_bytes() for path in real if path.stat().st_size <= _LARGEST and path.suffix != ".csv"]


@cache
def seeds_decoded_apart() -> list[bytes]:
    stored = film(3).astype(np.uint16) * 16
    return [compressed(dicom(stored), syntax) for syntax in (JPEGLosslessSV1, JPEGLSLossless, JPEG2000Lossless)]


@st.composite
def mutated(draw: st.DrawFn, apart: bool = False) -> bytes:
    """A whole file with a few bytes changed, put in, taken out or repeated, more often near its start."""
    files = seeds_decoded_apart() if apart else seeds()
    data = bytearray(draw(st.sampled_from(files)))
    for _ in range(draw(st.integers(1, 3))):
        near = draw(st.sampled_from([512, 4096, len(data), len(data)]))
        if not data:
            break
        at = draw(st.integers(0, min(near, len(data)) - 1))
        match draw(st.integers(0, 4)):
            case 0:
                data[at : at + 1] = bytes([draw(st.integers(0, 255))])
            case 1:
                data[at : at + 4] = draw(st.sampled_from([b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x7f\xff\xff\xff"]))
            case 2 if draw(st.booleans()):
                del data[at : at + draw(st.integers(1, 64))]
            case 3 if draw(st.booleans()):
                data[at:at] = data[at : at + draw(st.integers(1, 64))]
            case 4 if draw(st.integers(0, 4)) == 0:
                del data[at:]
            case _:
                data[at] ^= 1 << draw(st.integers(0, 7))
    return bytes(data)


def is_read(data: bytes, least_side: int | None = None) -> bool:
    """Whether a film came out; nothing but a film or an error of ours may."""
    try:
        film_read = decode(data, least_side)
    except InputError:
        return False
    assert film_read.pixels.ndim == 2
    assert film_read.pixels.dtype == np.uint8
    return True


SETTINGS = settings(
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)


@pytest.mark.slow
def test_ten_thousand_mutated_files_are_read_or_refused(capfd: pytest.CaptureFixture[str]) -> None:
    outcomes: Counter[bool] = Counter()

    @settings(SETTINGS, max_examples=EXAMPLES)
    @given(mutated())
    def every(data: bytes) -> None:
        outcomes[is_read(data)] += 1

    every()
    assert capfd.readouterr().out == ""
    print(f"{outcomes[True]} read, {outcomes[False]} refused")
    assert outcomes.total() >= EXAMPLES
    assert min(outcomes.values()) >= EXAMPLES / 20  # neither too much damage nor too little


@pytest.mark.slow
def test_mutated_files_for_decoders_in_a_process_of_their_own(capfd: pytest.CaptureFixture[str]) -> None:
    """Fewer: each that reaches its decoder costs a process. The decoders do end theirs."""

    @settings(SETTINGS, max_examples=600)
    @given(mutated(apart=True), st.sampled_from([None, 24]))
    def every(data: bytes, least_side: int | None) -> None:
        is_read(data, least_side)

    every()
    assert capfd.readouterr().out == ""


def test_a_few_mutated_files_in_every_run() -> None:
    @settings(SETTINGS, max_examples=200)
    @given(mutated())
    def every(data: bytes) -> None:
        is_read(data)

    every()


@NEEDS_REAL_FILMS
def test_real_files_are_among_the_seeds() -> None:
    assert len(seeds()) > 12
