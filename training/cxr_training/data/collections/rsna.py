"""The RSNA Pneumonia Detection Challenge of 2018: DICOM films, classes and boxes by radiologists.

References
----------
Shih et al., Augmenting the National Institutes of Health Chest Radiograph Dataset with Expert Annotations of Possible
Pneumonia, Radiology: Artificial Intelligence 1(1), 2019, doi 10.1148/ryai.2019180041.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, TypeVar

from pydicom import dcmread

from cxr_training.data.collections.candidates import (
    Box,
    Candidate,
    Collected,
    Dropped,
    boxes_by,
    read_table,
    sex_letter,
    years,
)
from cxr_training.data.records import IGNORED_LABEL
from cxr_training.errors import TrainingError

LABELS: Final = {
    "Lung Opacity": "PNEUMONIA",
    "Normal": "NORMAL",
    "No Lung Opacity / Not Normal": IGNORED_LABEL,
}
_TARGETS: Final = {"0": False, "0.0": False, "1": True, "1.0": True}
_IMAGES: Final = "stage_2_train_images"
_BOXES: Final = "stage_2_train_labels.csv"
_CLASSES: Final = "stage_2_detailed_class_info.csv"
_LICENCE: Final = "RSNA challenge terms: attribution; images from NIH Clinical Center"
_TAGS: Final = ("PatientID", "PatientAge", "PatientSex")

Value = TypeVar("Value")


def read_rsna(folder: Path) -> Collected:
    """The films of the challenge's training set. Rows repeat, one for each box; a study is one film.

    A study is left out where its rows disagree: two classes, or a class other than Lung Opacity with a target or a box.

    Raises
    ------
    TrainingError
        If a table is missing or holds a class, target or box that the challenge does not have.
    """
    class_rows = read_table(folder / _CLASSES, ("patientid", "class"))
    box_rows = read_table(folder / _BOXES, ("patientid", "x", "y", "width", "height", "target"))
    classes = _values(class_rows, "class", LABELS, folder / _CLASSES)
    targets = _values(box_rows, "target", _TARGETS, folder / _BOXES)
    boxes = boxes_by("patientid", box_rows, folder / _BOXES)
    candidates: list[Candidate] = []
    dropped: list[Dropped] = []
    images = {path.stem: path for path in (folder / _IMAGES).glob("*.dcm")}
    for study in sorted(classes.keys() | targets.keys() | images.keys()):
        name = f"{_IMAGES}/{study}.dcm"
        if study not in images:
            dropped.append(Dropped(f"rsna/{name}", "image_missing"))
        elif study not in classes or study not in targets:
            dropped.append(Dropped(f"rsna/{name}", "not_in_table"))
        elif len(classes[study]) > 1 or _positive(study, targets, boxes) != {"PNEUMONIA" in classes[study]}:
            dropped.append(Dropped(f"rsna/{name}", "labels_disagree"))
        else:
            (label,) = classes[study]
            candidates.append(_candidate(images[study], name, study, label, boxes.get(study, ())))
    return Collected(tuple(candidates), tuple(dropped))


def _values(
    rows: Sequence[Mapping[str, str]], column: str, known: Mapping[str, Value], path: Path
) -> dict[str, set[Value]]:
    """What the rows of each study say in one column."""
    found: dict[str, set[Value]] = defaultdict(set)
    for row in rows:
        if row[column] not in known:
            raise TrainingError(f"{path}: {column} of {row['patientid']!r} is {row[column]!r}: known are {list(known)}")
        found[row["patientid"]].add(known[row[column]])
    return found


def _positive(study: str, targets: Mapping[str, set[bool]], boxes: Mapping[str, tuple[Box, ...]]) -> set[bool]:
    """What targets and boxes say of lung opacity; a single value where they agree."""
    return targets[study] | ({True} if study in boxes else set())


def _candidate(path: Path, name: str, study: str, label: str, boxes: tuple[Box, ...]) -> Candidate:
    """A film with the patient, age and sex of its tags; no other tag is read, the patient's name least of all."""
    try:
        tags = dcmread(path, stop_before_pixels=True, specific_tags=list(_TAGS))
        patient, age, sex = (str(tags.get(tag) or "").strip() for tag in _TAGS)
    except Exception:  # pydicom 3.0 raises whatever the damage leads to; decoding the film will say what is wrong
        patient = age = sex = ""
    return Candidate(
        collection="rsna",
        source="rsna",
        name=name,
        path=path,
        label=label,
        patient_id=f"rsna:{patient or study}",
        label_source="rsna-radiologist",
        age=years(age),
        sex=sex_letter(sex),
        licence=_LICENCE,
        boxes=boxes,
    )
