"""What a prepared data folder holds and what was left out of it. Names of files, none of patients."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, Final

from cxr.errors import CODES
from cxr.model.spec import CLASSES
from training.data import IGNORED_LABEL, SPLITS
from training.prepare.duplicates import NEAR
from training.prepare.films import Preparation, Prepared
from training.sources.candidates import REASONS

_LABELS: Final = (*CLASSES, IGNORED_LABEL)
_SHOWN: Final = 5  # file names for each reason


def summarise(done: Preparation, manifest_sha256: str) -> dict[str, Any]:
    """The content of `report.json`; the same films and settings give the same."""
    films = done.films
    cells = Counter((film.candidate.source, film.candidate.label, film.split, film.view) for film in films)
    return {
        "films": len(films),
        "patients": len({film.patient_id for film in films}),
        "patients_by_split": {
            split: len({film.patient_id for film in films if film.split == split}) for split in SPLITS
        },
        "films_dropped": len(done.dropped),
        "settings": {**asdict(done.settings), "near_duplicate_correlation": NEAR},
        "manifest_sha256": manifest_sha256,
        "counts": [
            dict(zip(("source", "label", "split", "view", "films"), (*cell, count), strict=True))
            for cell, count in sorted(cells.items())
        ],
        "licences": dict(sorted(Counter(film.candidate.licence or "not stated" for film in films).items())),
        "boxes": {
            "kept": sum(len(film.boxes) for film in films),
            "outside_their_film": sum(len(film.candidate.boxes) - len(film.boxes) for film in films),
        },
        "patients_united": done.united,
        "films_moved_to_their_patients_split": done.moved,
        "dropped": _dropped(done),
        "notes": notes(films),
    }


def _dropped(done: Preparation) -> dict[str, Any]:
    by_reason: dict[str, list[str]] = defaultdict(list)
    for entry in done.dropped:
        by_reason[entry.reason].append(f"{entry.name} (kept: {entry.instead})" if entry.instead else entry.name)
    return {
        reason: {
            "count": len(names),
            "meaning": REASONS[reason] if reason in REASONS else CODES[reason].title,
            "first": names[:_SHOWN],
        }
        for reason, names in sorted(by_reason.items())
    }


def notes(films: Sequence[Prepared]) -> list[str]:
    """What whoever trains on the films should know."""
    found = []
    for split in SPLITS:
        here = {film.candidate.label for film in films if film.split == split}
        if missing := [label for label in CLASSES if label not in here]:
            found.append(f"Split {split} has no {' and no '.join(missing)} film: training and measuring need both.")
    labels: dict[str, set[str]] = defaultdict(set)
    for film in films:
        labels[film.candidate.source].add(film.candidate.label)
    for source, has in sorted(labels.items()):
        if len(labels) > 1 and len(has & set(CLASSES)) == 1:
            (only,) = has & set(CLASSES)
            found.append(f"All films of {source} in a class are {only}: a model can learn the source for the class.")
    alone = sum(film.candidate.label_source == "folder-name" for film in films)
    if alone:
        found.append(f"{alone} films come from a tree without patients: each counts as a patient of its own.")
    return found


def as_markdown(report: Mapping[str, Any]) -> str:
    """The content of `report.md`."""
    counts = report["counts"]
    settings = report["settings"]
    fractions = "/".join(f"{part:g}" for part in settings["fractions"])
    lines = [
        "# Prepared films",
        "",
        f"{report['films']} films of {report['patients']} patients; {report['films_dropped']} left out. "
        f"Seed {settings['seed']}, fractions {fractions}, OTHER: {settings['other']}"
        f"{', split anew' if settings['resplit'] else ''}.",
        *(f"\n**{note}**" for note in report["notes"]),
        "\n## Films by source and label\n",
        *_table(("source", "label", *SPLITS), _cross(counts, ("source", "label"), "split", SPLITS)),
        "\n## Films by source and view\n",
        *_table(("source", "view", *_LABELS), _cross(counts, ("source", "view"), "label", _LABELS)),
        "\n## Patients by split\n",
        *_table(("split", "patients"), report["patients_by_split"].items()),
        f"\n{report['patients_united']} patients were found to be another one, by a shared exposure. "
        f"{report['films_moved_to_their_patients_split']} films left the split they had, to be with their patient.",
        "\n## Left out\n",
        *_table(
            ("reason", "films", "meaning", "first of them"),
            [(why, of["count"], of["meaning"], ", ".join(of["first"])) for why, of in report["dropped"].items()],
        ),
        "\n## Licences\n",
        *_table(("licence", "films"), report["licences"].items()),
        f"\nBoxes: {report['boxes']['kept']} in `boxes.csv`. {report['boxes']['outside_their_film']} were left out, "
        "as they do not lie on their film.",
    ]
    return "\n".join(lines) + "\n"


def _cross(
    counts: Sequence[Mapping[str, Any]], rows: tuple[str, str], column: str, values: Sequence[str]
) -> list[tuple[Any, ...]]:
    cells: Counter[tuple[str, str, str]] = Counter()
    for entry in counts:
        cells[entry[rows[0]], entry[rows[1]], entry[column]] += entry["films"]
    keys = sorted({key[:2] for key in cells})
    return [
        (first, second or "not stated", *(cells[first, second, value] for value in values)) for first, second in keys
    ]


def _table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> list[str]:
    body = [f"| {' | '.join(str(cell).replace('|', '/') for cell in row)} |" for row in rows]
    return [f"| {' | '.join(header)} |", "|---" * len(header) + "|", *body] if body else ["None."]
