"""The test files that pydicom brings: single grey frames have the values that pydicom gives them."""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom import Dataset, dcmread
from pydicom.errors import InvalidDicomError

from cxr.films.dicom_codecs import read_stored
from cxr.films.dicom_header import read_header

FOLDER = Path(pydicom.__file__).parent / "data" / "test_files"
# Neither reads these: pixels cut off, a stream cut in two by what looks like the end of a fragment.
UNREADABLE = {"MR_truncated.dcm", "JPEG2000-embedded-sequence-delimiter.dcm"}
pytestmark = pytest.mark.filterwarnings("ignore")


def is_single_grey_frame(dataset: Dataset) -> bool:
    return (
        "PixelData" in dataset
        and "TransferSyntaxUID" in getattr(dataset, "file_meta", {})
        and dataset.SamplesPerPixel == 1
        and str(dataset.PhotometricInterpretation).startswith("MONOCHROME")
        and str(dataset.get("NumberOfFrames") or 1) == "1"
        and dataset.BitsAllocated in (8, 16)
    )


def grey_files() -> list[str]:
    found = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for path in sorted(FOLDER.glob("*.dcm")):
            try:
                if is_single_grey_frame(dcmread(path)):
                    found.append(path.name)
            except (InvalidDicomError, AttributeError):
                continue
    return found


def by_pydicom(data: bytes) -> Any | None:
    try:
        return dcmread(io.BytesIO(data)).pixel_array.astype(int)
    except (RuntimeError, ValueError):  # none of its decoders reads the file
        return None


@pytest.mark.parametrize("name", grey_files())
def test_a_public_file_has_the_values_that_pydicom_gives_it(name: str) -> None:
    data = (FOLDER / name).read_bytes()
    theirs = by_pydicom(data)
    if name in UNREADABLE:
        assert theirs is None
        with pytest.raises(Exception, match="DAMAGED_IMAGE"):
            read_stored(read_header(data))
        return
    ours = read_stored(read_header(data)).values
    assert ours.shape == (dcmread(io.BytesIO(data)).Rows, dcmread(io.BytesIO(data)).Columns)
    if theirs is not None:  # else it was compared with DCMTK's by hand: JPEG-lossy.dcm, 0
        assert np.abs(ours - theirs).max() <= 1


def test_there_are_enough_of_them() -> None:
    assert len(grey_files()) >= 20
