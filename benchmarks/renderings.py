"""What a model's answers change by where the same films are rendered otherwise: another depth, window, brightness."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from PIL import Image
from pydicom import Dataset, dcmread

from benchmarks.films import drawn_dicom
from benchmarks.host import Host
from benchmarks.result import Column, Figure, Result, Row, Table
from benchmarks.settings import RenderingSettings
from cxr.films.decode import decode
from cxr.films.film import Pixels
from cxr.model.brightness import Brightness
from cxr.model.preprocess import network_film
from cxr.predict import Predictor
from cxr_training.calibrate import of_training_films
from cxr_training.data.progress import progress_bar
from cxr_training.data.records import Films, Record, load_films
from cxr_training.measure.metrics import weighted_figures
from cxr_training.runs import exported_or_checkpoint

_AS_IT_IS: Final = "PNG, 8 bits"
_DEPTH: Final = 12  # bits of the DICOM renderings
_WHOLE: Final = (2048, 4096)  # centre and width of the window that shows all of them
_COLUMNS: Final = (
    Column("labels", "{:6.0f}", "labels"),
    Column("mean", "{:8.4f}", "mean |dP|"),
    Column("largest", "{:8.4f}", "largest"),
    Column("flagged", "{:7.1%}", "flagged"),
    Column("auroc", "{:7.3f}", "AUROC"),
)

Stored = npt.NDArray[np.integer[Any]]


def _png(pixels: npt.NDArray[Any]) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def _gamma(power: float, pixels: Pixels) -> bytes:
    return _png(np.rint(255 * (pixels / 255.0) ** power).astype(np.uint8))


def _windowed(low: int, high: int, pixels: Pixels) -> bytes:
    spread = (pixels.astype(np.float64) - low) * (255 / (high - low))
    return _png(np.clip(np.rint(spread), 0, 255).astype(np.uint8))


def _dicom(stored: Stored, window: tuple[int, int] | None = _WHOLE, **tags: Any) -> bytes:
    dataset = dcmread(io.BytesIO(drawn_dicom((64, 64))))
    dataset.Rows, dataset.Columns = stored.shape
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, _DEPTH, _DEPTH - 1
    dataset.PixelData = stored.astype("<u2").tobytes()
    del dataset.WindowCenter, dataset.WindowWidth
    if window is not None:
        dataset.WindowCenter, dataset.WindowWidth = window
    for keyword, value in tags.items():
        setattr(dataset, keyword, value)
    stream = io.BytesIO()
    dataset.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def _deep(pixels: Pixels) -> Stored:
    """The film in 12 bits, from 0 to 4,080."""
    return np.asarray(pixels.astype(np.uint16) << _DEPTH - 8)


def _inverting_table() -> Dataset:
    table = Dataset()
    table.LUTDescriptor = [1 << _DEPTH, 0, _DEPTH]
    table.LUTData = np.arange(1 << _DEPTH, dtype="<u2")[::-1].tobytes()
    return table


def _twin(pixels: Pixels) -> Stored:
    return (1 << _DEPTH) - 1 - _deep(pixels)


RENDERINGS: Final[dict[str, Callable[[Pixels], bytes]]] = {
    _AS_IT_IS: _png,
    "PNG, 16 bits": lambda pixels: _png(pixels.astype(np.uint16) * 257),
    "DICOM with window": lambda pixels: _dicom(_deep(pixels)),
    "DICOM without window": lambda pixels: _dicom(_deep(pixels), None),
    "MONOCHROME1, inverted": lambda pixels: _dicom(_twin(pixels), PhotometricInterpretation="MONOCHROME1"),
    "inverting VOI LUT": lambda pixels: _dicom(_twin(pixels), None, VOILUTSequence=[_inverting_table()]),
    "half as bright": lambda pixels: _png(pixels // 2),
    "a sixteenth as bright": lambda pixels: _png(pixels // 16),
    "DICOM, a sixteenth, no window": lambda pixels: _dicom(_deep(pixels) >> 4, None),
    "DICOM, a sixteenth in the window": lambda pixels: _dicom(_deep(pixels) >> 4),
    "gamma 0.7": partial(_gamma, 0.7),
    "gamma 1.4": partial(_gamma, 1.4),
    "window from 40 to 229": partial(_windowed, 40, 229),
}


@dataclass(frozen=True, slots=True)
class _Answers:
    """What a model says of films in one rendering: P(PNEUMONIA), the label and the flag of each, (N,)."""

    probabilities: npt.NDArray[np.float64]
    called: npt.NDArray[np.bool_]
    flagged: npt.NDArray[np.bool_]


def benchmark_renderings(settings: RenderingSettings) -> Result:
    """Labels that change, and by how much probabilities do, for each run and rendering."""
    host, films = Host.here(), load_films(settings.data)
    records = _sample(films, settings)
    tables = [_table(path, films, records) for path in settings.run]
    counts = {source: sum(record.extra.get("source", "") == source for record in records) for source in _sources(films)}
    title = (
        f"{len(records)} films of {settings.split}, each rendered otherwise: labels that change at the run's own "
        "threshold, change of P(PNEUMONIA), films flagged unusual_greys, AUROC"
    )
    return Result("renderings", settings.conditions() | {"counts": counts}, host, title, tables)


def _sources(films: Films) -> list[str]:
    return sorted({record.extra.get("source", "") for record in films.records})


def _sample(films: Films, settings: RenderingSettings) -> list[Record]:
    """Films of the split, those of each source and label as even as there are, drawn from the seed."""
    records = films.of(settings.split)
    order = np.random.default_rng(settings.seed).permutation(len(records))
    groups: dict[tuple[str, str], list[Record]] = {}
    for place in order:
        record = records[place]
        groups.setdefault((record.extra.get("source", ""), record.label), []).append(record)
    rounds = max(map(len, groups.values()))
    in_turn = [group[number] for number in range(rounds) for group in groups.values() if number < len(group)]
    return in_turn[: settings.films]


def _table(run: Path, films: Films, records: Sequence[Record]) -> Table:
    predictor = exported_or_checkpoint(run, "cpu")
    spec = predictor.spec
    trained = [record for record in films.records if record.split == "train"]
    brightness = spec.brightness or of_training_films(trained, spec.preprocessing)[1]
    pixels = [record.read() for record in records]
    targets = spec.scheme.is_positive(np.array([record.target for record in records], dtype=np.int64))
    known: dict[bytes, tuple[float, bool]] = {}
    answers: dict[str, _Answers] = {}
    for name, render in progress_bar(RENDERINGS.items(), str(run), "rendering", total=len(RENDERINGS)):
        answers[name] = _answers([render(film) for film in pixels], predictor, brightness, known)
    before = answers[_AS_IT_IS]
    rows = [Row(name, _figures(before, after, targets)) for name, after in answers.items()]
    title = f"{run.name}: greys {spec.preprocessing.greys}, threshold {spec.threshold:.3f}"
    return Table(run.name, _COLUMNS, rows, title, "rendering", width=34)


def _answers(
    files: Sequence[bytes], predictor: Predictor, brightness: Brightness | None, known: dict[bytes, tuple[float, bool]]
) -> _Answers:
    """The answers to some files; what was answered before, by the network's input, is not answered again."""
    spec = predictor.spec
    films = [decode(data, spec.preprocessing.least_side).pixels for data in files]
    seen = [network_film(film, spec.preprocessing) for film in films]
    flagged = [bool(brightness and brightness.outside(one)) for one in seen]
    waiting = {one.tobytes(): film for one, film in zip(seen, films, strict=True) if one.tobytes() not in known}
    for key, prediction in zip(waiting, predictor.predict([*waiting.values()]), strict=True):
        known[key] = (prediction.probability, prediction.is_positive)
    found = [known[one.tobytes()] for one in seen]
    return _Answers(
        np.array([probability for probability, _ in found]),
        np.array([label for _, label in found]),
        np.array(flagged),
    )


def _figures(before: _Answers, after: _Answers, targets: npt.NDArray[np.int64]) -> dict[str, Figure]:
    change = np.abs(after.probabilities - before.probabilities)
    ranked = weighted_figures(targets, after.probabilities, 0.5, np.ones((1, len(targets))))
    return {
        "labels": Figure(float(np.count_nonzero(after.called != before.called)), "films"),
        "mean": Figure(float(change.mean())),
        "largest": Figure(float(change.max())),
        "flagged": Figure(float(after.flagged.mean())),
        "auroc": Figure(float(ranked["auroc"][0])),
    }
