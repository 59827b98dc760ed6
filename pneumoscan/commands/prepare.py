"""``pneumoscan prepare``: make a data folder for training from public collections and own films."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cxr_training.errors import TrainingError
from pneumoscan.options import Option

if TYPE_CHECKING:
    from cxr_training.data.prepare.output import Report


def _fractions(text: str) -> tuple[float, float, float]:
    try:
        train, val, test = (float(part) for part in text.split("/"))
    except ValueError:
        raise ValueError(f"{text!r} is not three numbers such as 0.7/0.15/0.15") from None
    if min(train, val, test) < 0 or not math.isclose(train + val + test, 1.0, abs_tol=1e-6):
        raise ValueError(f"{text!r} must be three shares that add up to 1")
    return train, val, test


@dataclass(frozen=True, kw_only=True)
class Options:
    """Make a data folder for training from public collections and own films.

    Every film is decoded as the server would; each exposure is kept once, also across sources; splits are by patient.
    The same arguments give the same bytes. OUT gets manifest.csv, images/, boxes.csv, report.md and report.json, which
    say what was left out and why. Images are copied unchanged, with all their tags.
    """

    out: Annotated[
        Path, Option("folder to make; must be empty, absent, or an identical earlier result", "OUT", positional=True)
    ]
    rsna: Annotated[
        Path | None, Option("RSNA Pneumonia Detection Challenge, unpacked (stage_2_train_images/…)", "DIR")
    ] = None
    covid: Annotated[Path | None, Option("ieee8023/covid-chestxray-dataset (metadata.csv, images/)", "DIR")] = None
    folder: Annotated[Path | None, Option("own films: manifest.csv, or train|val|test/CLASS/*, or CLASS/*", "DIR")] = (
        None
    )
    other: Annotated[
        Literal["keep", "negative"],
        Option(
            "films that are abnormal without pneumonia: keep as OTHER, which training leaves out, or count as NORMAL"
        ),
    ] = "keep"
    fractions: Annotated[
        tuple[float, float, float],
        Option("of train/val/test, by patient (default: 0.7/0.15/0.15)", "SHARES", read=_fractions),
    ] = (0.7, 0.15, 0.15)
    seed: Annotated[int, Option("of the split", "S")] = 0
    resplit: Annotated[bool, Option("split again what has a split")] = False
    json: Annotated[bool, Option("print the report as JSON")] = False


OPTIONS = Options


def run(options: Options) -> int:
    """Prepare the folder, or find that it is there already."""
    from cxr_training.data.collections.covid import read_covid
    from cxr_training.data.collections.own import read_folder
    from cxr_training.data.collections.rsna import read_rsna
    from cxr_training.data.prepare.films import Settings, prepare_films
    from cxr_training.data.prepare.output import check_out, write_output

    readers = ((read_rsna, options.rsna), (read_covid, options.covid), (read_folder, options.folder))
    sources = [(read, folder) for read, folder in readers if folder is not None]
    if not sources:
        raise TrainingError("nothing to prepare: give --rsna, --covid or --folder")
    check_out(options.out, [folder for _, folder in sources])
    settings = Settings(options.seed, options.fractions, options.other, options.resplit)
    report, new = write_output(prepare_films([read(folder) for read, folder in sources], settings), options.out)
    if options.json:
        print(json.dumps({"out": str(options.out), "new": new, **asdict(report)}))
    else:
        print(_sentence(options.out, report, new))
    return 0


def _sentence(out: Path, report: Report, new: bool) -> str:
    from cxr_training.data.records import SPLITS

    films = dict.fromkeys(SPLITS, 0)
    for entry in report.counts:
        films[entry.split] += entry.films
    splits = ", ".join(f"{split} {count}" for split, count in films.items())
    before = "" if new else " is there already and identical"
    return (
        f"{out}{before}: {report.films} films of {report.patients} patients ({splits}), "
        f"{report.films_dropped} left out; see {out / 'report.md'}"
    )
