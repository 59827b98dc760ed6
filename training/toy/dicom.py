"""A synthetic film as an uncompressed DICOM file that says in several places that it is synthetic."""

from __future__ import annotations

import io

import numpy as np
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import (
    ComputedRadiographyImageStorage,
    DigitalXRayImageStorageForPresentation,
    ExplicitVRLittleEndian,
    generate_uid,
)

from training.toy.films import ToyFilm

STORED_MAX = 4095  # 12 bits
NOTICE = "synthetic chest film, drawn by a program; not a person"


def dicom_bytes(
    film: ToyFilm, photometric_interpretation: str, *, patient_id: str, age: int, sex: str, uid_seed: str
) -> bytes:
    """A DX or CR file, 12 bits stored, with the window that gives the film back; same arguments, same bytes.

    Parameters
    ----------
    photometric_interpretation
        MONOCHROME2 (high values white) or MONOCHROME1 (the stored values inverted).
    uid_seed
        What the UIDs are made from.

    References
    ----------
    DICOM PS3.3 A.26 (DX), A.2 (CR), C.8.11.3 (DX Image), C.11.2.1.2 (windowing).
    """
    rng = np.random.default_rng(list(uid_seed.encode()))
    is_dx = bool(rng.random() < 0.5)
    low, high = int(rng.integers(0, 500)), int(rng.integers(3500, STORED_MAX + 1))
    stored = np.rint(low + film.pixels.astype(np.float64) * (high - low)).astype(np.uint16)
    if photometric_interpretation == "MONOCHROME1":
        stored, low, high = STORED_MAX - stored, STORED_MAX - high, STORED_MAX - low

    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = DigitalXRayImageStorageForPresentation if is_dx else ComputedRadiographyImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=[uid_seed, "instance"])
    data = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    data.SOPClassUID = meta.MediaStorageSOPClassUID
    data.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
    data.StudyInstanceUID = generate_uid(entropy_srcs=[uid_seed, "study"])
    data.SeriesInstanceUID = generate_uid(entropy_srcs=[uid_seed, "series"])
    data.PatientName, data.PatientID, data.PatientBirthDate = "SYNTHETIC^FILM", patient_id, ""
    data.PatientSex, data.PatientAge = sex, f"{age:03d}Y"
    data.StudyDate = data.StudyTime = data.AccessionNumber = data.ReferringPhysicianName = data.StudyID = ""
    data.SeriesNumber = data.InstanceNumber = 1
    data.Modality = "DX" if is_dx else "CR"
    data.Manufacturer, data.ManufacturerModelName = "synthetic", "synthetic film generator"
    data.ImageComments, data.SeriesDescription = NOTICE, "synthetic chest"
    data.ImageType = ["DERIVED", "PRIMARY"]
    data.BodyPartExamined, data.ViewPosition, data.PatientOrientation = "CHEST", film.view, ["L", "F"]
    data.BurnedInAnnotation = "NO"
    data.Rows, data.Columns = stored.shape
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, photometric_interpretation
    data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 12, 11, 0
    # PS3.3 C.11.2.1.2.1: values at c - 0.5 - (w-1)/2 and c - 0.5 + (w-1)/2 are the ends of the window.
    data.WindowCenter, data.WindowWidth = str((low + high + 1) / 2), str(high - low + 1)
    if is_dx:
        data.PresentationIntentType = "FOR PRESENTATION"
        data.PixelIntensityRelationship, data.PixelIntensityRelationshipSign = "LOG", _sign(photometric_interpretation)
        data.RescaleIntercept, data.RescaleSlope, data.RescaleType = "0", "1", "US"
        data.PresentationLUTShape = "INVERSE" if photometric_interpretation == "MONOCHROME1" else "IDENTITY"
        data.LossyImageCompression, data.ImageLaterality = "00", "U"
    data.PixelData = stored.astype("<u2").tobytes()
    buffer = io.BytesIO()
    data.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def _sign(photometric_interpretation: str) -> int:
    """-1 where a higher stored value means less exposure, as on a film (MONOCHROME2); 1 where it means more."""
    return 1 if photometric_interpretation == "MONOCHROME1" else -1
