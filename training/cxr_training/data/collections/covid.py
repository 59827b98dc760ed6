"""The covid-chestxray-dataset of ieee8023: radiographs and CT from publications, in two forms of its `metadata.csv`.

The final form has 30 columns, the last without a name, and findings as paths such as `Pneumonia/Viral/COVID-19`. The
form of March 2020 has no modality (CT is a view there), a `Patientid`, a ` url` with a space, and findings as words.
The collection's own later revision files those words, ARDS among them, under Pneumonia; so both forms label a film
alike. The early form calls many films PA that the final one calls AP: its views are worth little.

References
----------
Cohen et al., COVID-19 Image Data Collection: Prospective Predictions Are the Future, arXiv 2006.11988.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from cxr_training.data.collections.candidates import (
    Candidate,
    Collected,
    Dropped,
    inside,
    read_table,
    sex_letter,
    years,
)

VIEWS: Final = {"pa": "PA", "ap": "AP", "ap supine": "AP Supine", "aps": "AP Supine", "ap erect": "AP Erect"}
_CT: Final = frozenset({"ct", "axial", "coronal", "sagittal"})  # views of the form without a column for the modality
_PNEUMONIA: Final = frozenset(
    {
        *("pneumonia", "covid-19", "sars", "mers", "mers-cov", "influenza", "varicella", "ards", "lipoid"),
        *("streptococcus", "klebsiella", "legionella", "e.coli", "chlamydophila", "mycoplasma bacterial pneumonia"),
        "pneumocystis",
    }
)
_NEEDED: Final = ("patientid", "finding", "view", "filename")


def read_covid(folder: Path) -> Collected:
    """The frontal radiographs with pneumonia or without finding.

    Raises
    ------
    TrainingError
        If `metadata.csv` is missing or lacks a column that both of its forms have.
    """
    candidates: list[Candidate] = []
    dropped: list[Dropped] = []
    named: set[str] = set()
    for row in read_table(folder / "metadata.csv", _NEEDED):
        name = f"{row.get('folder') or 'images'}/{row['filename']}"
        named.add(name)
        path = inside(folder, name)
        label = label_of(row["finding"])
        if reason := _reason_against(row, label):
            dropped.append(Dropped(f"covid/{name}", reason))
        elif path is None:
            dropped.append(Dropped(f"covid/{name}", "image_missing"))
        elif label is not None:
            candidates.append(_candidate(row, name, path, label))
    present = {f"images/{path.name}" for path in (folder / "images").glob("[!.]*") if path.is_file()}
    dropped += [Dropped(f"covid/{name}", "not_in_table") for name in sorted(present - named)]
    return Collected(tuple(candidates), tuple(dropped))


def label_of(finding: str) -> str | None:
    """PNEUMONIA, NORMAL, or None for what is neither: `Tuberculosis`, `todo`, `Unknown`, or several that disagree."""
    labels = {_label_of_one(part) for part in finding.split(",")}
    return labels.pop() if len(labels) == 1 else None


def _label_of_one(finding: str) -> str | None:
    first = finding.split("/")[0].strip().lower()
    return "NORMAL" if first == "no finding" else "PNEUMONIA" if first in _PNEUMONIA else None


def _reason_against(row: Mapping[str, str], label: str | None) -> str | None:
    """Why a row is no frontal radiograph of a known patient with a label, None where it is one."""
    view = row["view"].lower()
    if row.get("modality", "X-ray").lower() != "x-ray" or view in _CT:
        return "modality"
    if view not in VIEWS:
        return "view"
    if label is None:
        return "finding"
    return None if row["patientid"] else "no_patient_id"


def _candidate(row: Mapping[str, str], name: str, path: Path, label: str) -> Candidate:
    return Candidate(
        collection="covid",
        source="covid-chestxray",
        name=name,
        path=path,
        label=label,
        patient_id=f"covid:{row['patientid']}",
        label_source="covid-chestxray-metadata",
        view=VIEWS[row["view"].lower()],
        age=years(row.get("age", "")),
        sex=sex_letter(row.get("sex", "")),
        licence=row.get("license") or "not stated",
    )
