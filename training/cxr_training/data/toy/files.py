"""A folder of synthetic chest films as a hospital's export would be: PNG of 8 and 16 bits, DICOM, and a manifest."""

from __future__ import annotations

import csv
import hashlib
import io
import os
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import (
    ComputedRadiographyImageStorage,
    DigitalXRayImageStorageForPresentation,
    ExplicitVRLittleEndian,
    generate_uid,
)

from cxr_training.data.progress import progress_bar
from cxr_training.data.toy.films import ToyFilm, draw_anatomy, draw_film

COLUMNS = ("file", "label", "patient_id", "split", "source", "label_source", "view", "age", "sex", "sha256", "boxes")
FORMS = ("png8", "png16", "MONOCHROME2", "MONOCHROME1")
LABELS = ("NORMAL", "PNEUMONIA")
MIN_PATIENTS, MAX_PATIENTS = 6, 9999
MIN_SIZE, MAX_SIZE = 64, 4096

README = """\
Synthetic chest films. Nobody was ever exposed for them: every picture here was drawn by a program.

They are for trying the software out. A model trained on them knows nothing about people.

{films} films of {patients} patients. To make them again:
pneumoscan toy OUT --patients {patients} --seed {seed} --size {size}
manifest.csv: one line per film. `boxes` are the drawn opacities, `x y w h` in pixels of the film, `;` between them.
films/: grey PNG of 8 and of 16 bits, and DICOM of 12 bits, MONOCHROME2 and MONOCHROME1.
"""


@dataclass(frozen=True)
class FilmPlan:
    """What one film will be: the ``number``-th (from 1) of a ``patient`` (from 1), and the ``form`` of its file."""

    patient: int
    number: int
    split: str
    label: str
    form: str

    @property
    def patient_id(self) -> str:
        """The synthetic patient's name."""
        return f"SYN{self.patient:04d}"

    @property
    def file(self) -> str:
        """Path below the folder; it tells neither class nor split."""
        return f"films/{self.patient_id}_{self.number}.{'png' if self.form.startswith('png') else 'dcm'}"


@dataclass(frozen=True)
class ToySummary:
    """What was written: ``splits`` counts films by split and label, ``forms`` by kind of file."""

    out: Path
    patients: int
    films: int
    opacities: int
    seed: int
    size: int
    splits: dict[str, dict[str, int]]
    forms: dict[str, int]


def plan_films(patients: int, seed: int) -> list[FilmPlan]:
    """Every film of a folder, ordered by patient: 1 to 4 each, patients 60/20/20, labels halved in each split.

    A patient's films may differ in label, as before and after an illness. Forms rotate within each split and label, so
    that the kind of file tells nothing about the class.
    """
    rng = np.random.default_rng([seed, 0])
    held_out = round(0.2 * patients)
    splits = rng.permutation(["val"] * held_out + ["test"] * held_out + ["train"] * (patients - 2 * held_out))
    counts = rng.choice([1, 2, 3, 4], patients, p=[0.2, 0.3, 0.3, 0.2])
    films = []
    for turn, split in enumerate(("train", "val", "test")):
        members = np.flatnonzero(splits == split)
        counts[members[0]] = max(2, counts[members[0]])
        keys = [(int(member) + 1, number + 1) for member in members for number in range(counts[member])]
        order = rng.permutation(len(keys))
        for place, key in enumerate(order):
            form = FORMS[(place // 2 + 2 * (place % 2) + turn) % 4]
            patient, number = keys[key]
            films.append(FilmPlan(patient, number, split, LABELS[place % 2], form))
    return sorted(films, key=lambda film: (film.patient, film.number))


def draw_planned(plan: FilmPlan, seed: int, size: int) -> tuple[ToyFilm, int, str]:
    """The film of a plan with its patient's age and sex; its long side is ``size`` pixels, its aspect 7:8 to 8:7."""
    anatomy = draw_anatomy(np.random.default_rng([seed, 1, plan.patient]))
    rng = np.random.default_rng([seed, 2, plan.patient, plan.number])
    short = int(rng.integers(round(size * 0.875), size + 1))
    film = draw_film(rng, anatomy, plan.label, (size, short) if rng.random() < 0.6 else (short, size))
    return film, anatomy.age, anatomy.sex


def png_bytes(film: ToyFilm, bits: int) -> bytes:
    """A grey PNG of 8 or 16 bits over the full range, whose text chunks say that it is synthetic."""
    grey = np.rint(film.pixels * np.float32(2**bits - 1)).astype(np.uint8 if bits == 8 else np.uint16)
    info = PngInfo()
    info.add_text("Source", "synthetic")
    info.add_text("Comment", "synthetic chest film, drawn by a program; not a person")
    buffer = io.BytesIO()
    Image.fromarray(grey).save(buffer, "PNG", pnginfo=info, compress_level=1)
    return buffer.getvalue()


def write_toy_data(out: Path, patients: int, seed: int, size: int = 512, force: bool = False) -> ToySummary:
    """Draw films and write them with ``manifest.csv`` and ``README.txt`` to ``out``, all of it or nothing.

    The same arguments give the same bytes. Films are written to a folder beside ``out`` that takes its name at the end.

    Parameters
    ----------
    size
        Long side of each film, in pixels.
    force
        Whether to replace what ``out`` holds.

    Raises
    ------
    ValueError
        If a number is out of its range.
    FileExistsError
        If ``out`` is a file, holds anything (without ``force``), or is a folder that must not be replaced.
    """
    _check(out, patients, seed, size, force)
    out.parent.mkdir(parents=True, exist_ok=True)
    part = out.with_name(f".{out.name}.{os.getpid()}.part")
    try:
        (part / "films").mkdir(parents=True)
        plans = plan_films(patients, seed)
        rows = [_write_film(part, plan, seed, size) for plan in progress_bar(plans, "films", "film")]
        _write_manifest(part / "manifest.csv", rows)
        readme = README.format(films=len(plans), patients=patients, seed=seed, size=size)
        (part / "README.txt").write_text(readme, encoding="utf-8")
        _put_in_place(part, out)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return _summary(out, plans, rows, patients, seed, size)


def _check(out: Path, patients: int, seed: int, size: int, force: bool) -> None:
    if not MIN_PATIENTS <= patients <= MAX_PATIENTS:
        raise ValueError(f"patients must be {MIN_PATIENTS} to {MAX_PATIENTS}, not {patients}")
    if not MIN_SIZE <= size <= MAX_SIZE:
        raise ValueError(f"size must be {MIN_SIZE} to {MAX_SIZE} pixels, not {size}")
    if seed < 0:
        raise ValueError(f"seed must be 0 or more, not {seed}")
    if out.is_symlink() or (out.exists() and not out.is_dir()):
        raise FileExistsError(f"{out} is not a folder; name another")
    if Path.cwd().is_relative_to(out.resolve()):
        raise FileExistsError(f"{out} holds the current folder; name another")
    if not force and out.is_dir() and any(out.iterdir()):
        raise FileExistsError(f"{out} is not empty; name another folder, or use --force to replace it")


def _write_film(folder: Path, plan: FilmPlan, seed: int, size: int) -> dict[str, str | int]:
    film, age, sex = draw_planned(plan, seed, size)
    if plan.form.startswith("png"):
        data = png_bytes(film, int(plan.form.removeprefix("png")))
    else:
        uid_seed = f"{seed}/{size}/{plan.patient}/{plan.number}"
        data = dicom_bytes(film, plan.form, patient_id=plan.patient_id, age=age, sex=sex, uid_seed=uid_seed)
    (folder / plan.file).write_bytes(data)
    boxes = ";".join(" ".join(map(str, box)) for box in film.boxes)
    values = (plan.file, plan.label, plan.patient_id, plan.split, "synthetic", "synthetic", film.view, age, sex)
    return dict(zip(COLUMNS, (*values, hashlib.sha256(data).hexdigest(), boxes), strict=True))


def _write_manifest(path: Path, rows: Sequence[dict[str, str | int]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def _put_in_place(part: Path, out: Path) -> None:
    old = part.with_suffix(".old")
    if out.exists():
        out.rename(old)
    try:
        part.rename(out)
    except OSError:
        if old.exists():
            old.rename(out)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _summary(
    out: Path, plans: Sequence[FilmPlan], rows: Sequence[dict[str, str | int]], patients: int, seed: int, size: int
) -> ToySummary:
    counts = Counter((plan.split, plan.label) for plan in plans)
    return ToySummary(
        out=out,
        patients=patients,
        films=len(plans),
        opacities=sum(len(str(row["boxes"]).split(";")) for row in rows if row["boxes"]),
        seed=seed,
        size=size,
        splits={split: {label: counts[split, label] for label in LABELS} for split in ("train", "val", "test")},
        forms={form: sum(plan.form == form for plan in plans) for form in FORMS},
    )


STORED_MAX = 4095  # 12 bits
SYNTHETIC_COMMENT = "synthetic chest film, drawn by a program; not a person"


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
    data.ImageComments, data.SeriesDescription = SYNTHETIC_COMMENT, "synthetic chest"
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
