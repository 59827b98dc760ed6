"""Small films and files for tests, made on the spot."""

from __future__ import annotations

import io
import tempfile
from pathlib import Path
from typing import Any

import gdcm
import numpy as np
import numpy.typing as npt
from PIL import Image
from pydicom import dcmread
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import (
    UID,
    ComputedRadiographyImageStorage,
    ExplicitVRLittleEndian,
    JPEGLossless,
    JPEGLosslessSV1,
    generate_uid,
)

Grey = npt.NDArray[np.uint8]


def film(seed: int = 0, height: int = 96, width: int = 80) -> Grey:
    """A smooth grey film with the whole range from 0 to 255: (height, width) uint8."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (6, 5), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), dtype=np.float64)
    low, high = smooth.min(), smooth.max()
    return np.rint((smooth - low) / (high - low) * 255).astype(np.uint8)


def encoded(picture: npt.NDArray[Any] | Image.Image, form: str = "PNG", **options: Any) -> bytes:
    """A picture as the bytes of a file."""
    stream = io.BytesIO()
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    image.save(stream, format=form, **options)
    return stream.getvalue()


def dicom(stored: npt.NDArray[Any], *, bits: int = 12, syntax: UID = ExplicitVRLittleEndian, **tags: Any) -> bytes:
    """An uncompressed single-frame CR film; `tags` add to the data set, or take out what is None."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = ComputedRadiographyImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=["test"])
    meta.TransferSyntaxUID = syntax
    dataset = FileDataset(
        "film.dcm", {}, file_meta=meta, preamble=b"\0" * 128, is_little_endian=syntax.is_little_endian
    )
    dataset.SOPClassUID = meta.MediaStorageSOPClassUID
    dataset.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
    dataset.Modality = "CR"
    dataset.BodyPartExamined = "CHEST"
    dataset.ViewPosition = "PA"
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.Rows, dataset.Columns = stored.shape[-2:]
    dataset.BitsAllocated = 8 if bits <= 8 else 16
    dataset.BitsStored = bits
    dataset.HighBit = bits - 1
    dataset.PixelRepresentation = int(np.issubdtype(stored.dtype, np.signedinteger))
    dataset.PixelData = stored.astype(stored.dtype.newbyteorder("<")).tobytes()
    for name, value in tags.items():
        if value is None:
            delattr(dataset, name)
        else:
            setattr(dataset, name, value)
    stream = io.BytesIO()
    dataset.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def compressed(data: bytes, syntax: UID, **options: Any) -> bytes:
    """An uncompressed DICOM file in a compressed transfer syntax; `options` are pydicom's for its encoder."""
    if syntax in (JPEGLossless, JPEGLosslessSV1):
        return _compressed_by_gdcm(data, syntax)
    dataset = dcmread(io.BytesIO(data))
    dataset.compress(syntax, generate_instance_uid=False, **options)
    stream = io.BytesIO()
    dataset.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def _compressed_by_gdcm(data: bytes, syntax: UID) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "plain.dcm"), Path(folder, "compressed.dcm")
        source.write_bytes(data)
        reader = gdcm.ImageReader()
        reader.SetFileName(str(source))
        assert reader.Read()
        change = gdcm.ImageChangeTransferSyntax()
        change.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.GetTSType(str(syntax))))
        change.SetInput(reader.GetImage())
        assert change.Change()
        writer = gdcm.ImageWriter()
        writer.SetFileName(str(target))
        writer.SetFile(reader.GetFile())
        writer.SetImage(change.GetOutput())
        assert writer.Write()
        return target.read_bytes()
