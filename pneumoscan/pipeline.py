"""From films to an archive and its first answers: what `pneumoscan demo` and `make model` go through.

Each step is a command of its own (docs/training.md). One whose files stand and are newer than what they were made of is
left out, so that a run goes on where it ended; training and packing find out for themselves whether what stands is what
is requested.
"""

from __future__ import annotations

import csv
import json
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from PIL import Image, ImageDraw, ImageFont

from cxr.model.classes import CLASSES
from cxr.model.spec import SPEC_FILE
from cxr.serving.card import AUDIT_FILE, METRICS_FILE
from cxr_training.data.toy.files import write_toy_data
from cxr_training.runs import CALIBRATION, CARD_FILES, PREDICTIONS, RUN_FILE, check_predictions
from pneumoscan import cli
from pneumoscan.errors import DemoError
from pneumoscan.model_store import archive_name

TOY_DATA: Final = Path("data/toy")
_TOY_PATIENTS: Final = 80
_TOY_SEED: Final = 0
_FILMS_PER_CLASS: Final = 12
_SHEET_PER_CLASS: Final = 4
_SHEET_HEIGHT: Final = 300
_TOLERANCE: Final = 1e-5  # between a film scored in any two batches, in float32


@dataclass(frozen=True, kw_only=True)
class ModelPlan:
    """What a model is made from, and where it goes.

    Parameters
    ----------
    run
        Folder of the training run.
    data
        Folder of films; None makes synthetic ones in `TOY_DATA`.
    weights, arch, device
        As `pneumoscan train` takes them.
    or_random
        Go on with random weights where those of ImageNet cannot be had.
    version, store
        Of the archive.
    train, calibrate
        Further options of `pneumoscan train` and `pneumoscan calibrate`.
    """

    run: Path
    data: Path | None
    weights: str
    arch: str
    device: str
    or_random: bool
    version: str
    store: Path
    train: tuple[str, ...] = ()
    calibrate: tuple[str, ...] = ()

    @property
    def films(self) -> Path:
        """Folder of the films that are used."""
        return TOY_DATA if self.data is None else self.data

    @property
    def archive(self) -> Path:
        """The archive that is packed."""
        return self.store / archive_name(self.version)


@dataclass(frozen=True)
class _Step:
    """A command, the file it writes last and those that it is made of; without the latter it always runs."""

    name: str
    arguments: Sequence[str]
    makes: Path
    of: tuple[Path, ...] = ()

    @property
    def stands(self) -> bool:
        """Whether what it makes is there and as new as all it is made of."""
        if not self.of or not self.makes.is_file():
            return False
        made = self.makes.stat().st_mtime_ns
        return all(source.is_file() and source.stat().st_mtime_ns <= made for source in self.of)


def make_model(plan: ModelPlan) -> Path:
    """Make a run and pack it; give the archive.

    Raises
    ------
    DemoError
        A step ended with an error, which it has written to stderr.
    """
    if plan.data is None and not (TOY_DATA / "manifest.csv").is_file():
        made = write_toy_data(TOY_DATA, _TOY_PATIENTS, _TOY_SEED)
        print(f"{made.out}: {made.films} synthetic films of {made.patients} patients")
    steps = _steps(plan)
    for number, step in enumerate(steps, start=1):
        if step.stands:
            print(f"[{number}/{len(steps)}] {step.name}: {step.makes} stands", file=sys.stderr, flush=True)
            continue
        print(f"[{number}/{len(steps)}] {step.name}", file=sys.stderr, flush=True)
        if cli.main([step.name, *step.arguments]):
            raise DemoError(f"{step.name} failed, see above")
        sys.stdout.flush()
    return plan.archive


def _steps(plan: ModelPlan) -> list[_Step]:
    run = ("--run", str(plan.run))
    with_films = (*run, "--data", str(plan.films), "--device", plan.device)
    record, calibration, spec = plan.run / RUN_FILE, plan.run / CALIBRATION, plan.run / SPEC_FILE
    metrics, audited, card = plan.run / METRICS_FILE, plan.run / AUDIT_FILE, plan.run / CARD_FILES[0]
    trained = [*with_films, "--weights", plan.weights, "--arch", plan.arch, *plan.train, "--resume"]
    packed = [*run, "--version", plan.version, "--store", str(plan.store)]
    return [
        _Step("train", [*trained, *["--or-random"] * plan.or_random], record),
        _Step("calibrate", [*with_films, *plan.calibrate], calibration, (record,)),
        _Step("export", run, spec, (calibration,)),
        _Step("evaluate", with_films, metrics, (spec,)),
        _Step("audit", with_films, audited, (spec,)),
        _Step("card", run, card, (metrics, audited)),
        _Step("pack", packed, plan.archive),
    ]


def demo(plan: ModelPlan) -> None:
    """Make a model, serve it, ask it about test films over REST, keep what it answers.

    Leaves `predictions.json`, the overlays and a sheet of them in `<run>/served/`.

    Raises
    ------
    DemoError
        A step failed, not every film was answered, or a served probability is not the one that `pneumoscan evaluate`
        measured.
    """
    serve_and_compare(plan.run, plan.films, make_model(plan), plan.device)


def choose_films(run: Path) -> dict[str, dict[str, str]]:
    """Rows of the run's `predictions.csv` by file name, the first few of each class."""
    check_predictions(run / PREDICTIONS)
    with (run / PREDICTIONS).open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    chosen = [row for name in CLASSES for row in [r for r in rows if r["label"] == name][:_FILMS_PER_CLASS]]
    return {row["file"]: row for row in chosen}


@contextmanager
def served(archive: Path, device: str) -> Iterator[str]:
    """The address of a server of one archive, on free ports; stopped at the end whatever happens."""
    with tempfile.TemporaryDirectory(prefix="cxr-demo-") as folder:
        store, run_dir = Path(folder) / "store", Path(folder) / "run"
        store.mkdir()
        (store / archive.name).symlink_to(archive.resolve())
        port, metrics_port = _free_ports()
        command = [sys.executable, "-m", "pneumoscan", "serve", "--run-dir", str(run_dir)]
        start = ["--store", str(store), "--port", str(port), "--metrics-port", str(metrics_port), "--device", device]
        try:
            if subprocess.run([*command, *start, "--detach"], check=False).returncode:
                raise DemoError("TorchServe did not start, see above")
            yield f"http://127.0.0.1:{port}"
        finally:
            subprocess.run([*command, "--stop"], check=False)


def _free_ports() -> list[int]:
    with socket.socket() as one, socket.socket() as two:
        one.bind(("127.0.0.1", 0))
        two.bind(("127.0.0.1", 0))
        return [one.getsockname()[1], two.getsockname()[1]]


def ask(url: str, films: Sequence[Path], out: Path) -> list[dict[str, Any]]:
    """The server's replies to films, in their order; overlays and `predictions.json` are written to `out`."""
    command = [sys.executable, "-m", "pneumoscan", "predict", "--url", url, "--json", "--cam", "overlay"]
    command += ["--target", "contrast", "--out", str(out), *map(str, films)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise DemoError(f"not every film was answered, see above: {done.stdout[:2000]}")
    (out / "predictions.json").write_text(done.stdout, encoding="utf-8")
    replies: list[dict[str, Any]] = json.loads(done.stdout)
    return replies


def largest_difference(replies: Sequence[dict[str, Any]], rows: Sequence[dict[str, str]]) -> float:
    """The largest distance between a served probability and the evaluated one of the same film.

    Raises
    ------
    DemoError
        If it is more than rounding can make: training and serving would not be the same model.
    """
    pairs = zip(replies, rows, strict=True)
    worst = max(abs(one["probabilities"]["PNEUMONIA"] - float(row["probability_PNEUMONIA"])) for one, row in pairs)
    if worst > _TOLERANCE:
        raise DemoError(f"served and evaluated probabilities differ by {worst:.2g}, at most {_TOLERANCE:g} is rounding")
    return float(worst)


def draw_sheet(replies: Sequence[dict[str, Any]], rows: Sequence[dict[str, str]], path: Path) -> None:
    """Overlays side by side, a row for each true class, with the model's answer under each."""
    font = ImageFont.load_default(size=14)
    lines: list[list[Image.Image]] = []
    for name in CLASSES:
        tiles = []
        for reply in [one for one, row in zip(replies, rows, strict=True) if row["label"] == name][:_SHEET_PER_CLASS]:
            with Image.open(reply["cam"]["file"]) as overlay:
                film = overlay.convert("RGB").resize(
                    (round(overlay.width * _SHEET_HEIGHT / overlay.height), _SHEET_HEIGHT)
                )
            tile = Image.new("RGB", (film.width + 6, _SHEET_HEIGHT + 26), "white")
            tile.paste(film, (3, 3))
            caption = f"true {name}, P(PNEUMONIA) {reply['probabilities']['PNEUMONIA']:.2f}"
            ImageDraw.Draw(tile).text((6, _SHEET_HEIGHT + 6), caption, fill="black", font=font)
            tiles.append(tile)
        lines.append(tiles)
    width = max(sum(tile.width for tile in tiles) for tiles in lines)
    sheet = Image.new("RGB", (width, len(lines) * (_SHEET_HEIGHT + 26)), "white")
    for line, tiles in enumerate(lines):
        left = 0
        for tile in tiles:
            sheet.paste(tile, (left, line * tile.height))
            left += tile.width
    sheet.save(path)


def serve_and_compare(run: Path, data: Path, archive: Path, device: str) -> None:
    """Serve an archive, ask it about test films of its run, compare with the evaluation, draw a sheet.

    Raises
    ------
    DemoError
        If any of it did not work.
    """
    chosen = choose_films(run)
    out = run / "served"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    with served(archive, device) as url:
        replies = ask(url, [data / name for name in chosen], out)
    rows = list(chosen.values())
    worst = largest_difference(replies, rows)
    draw_sheet(replies, rows, out / "sheet.png")
    model = replies[0]["model"]
    print(f"\n{len(replies)} films answered over REST by {model['name']} {model['version']} ({model['arch']}, from")
    print(f"{model['pretrained']} weights); served and evaluated probabilities differ by {worst:.1g} at most.\n")
    print(f"  {run / 'report.md'}\n  {out / 'sheet.png'}\n  {out}/*.overlay.png\n  {out / 'predictions.json'}\n")
    if model["pretrained"] == "random":
        print("The weights are RANDOM, only the head was trained: this shows that everything works, and no more.")
    print("Research use only. Not a diagnosis.")
