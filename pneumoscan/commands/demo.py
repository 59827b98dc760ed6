"""The last leg of `make demo`: serve a fresh archive, ask it about test films over REST, keep what it answers.

Leaves `predictions.json`, the overlays and a sheet of them in `<run>/served/`. Fails unless every film is answered and
every served probability is the one that `training.evaluate` measured.
"""

from __future__ import annotations

import argparse
import csv
import json
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from PIL import Image, ImageDraw, ImageFont

from cxr import NOTICE
from cxr.model.spec import CLASSES

_FILMS_PER_CLASS: Final = 12
_SHEET_PER_CLASS: Final = 4
_SHEET_HEIGHT: Final = 300
_TOLERANCE: Final = 1e-5  # between a film scored in any two batches, in float32


class DemoError(Exception):
    """A step of the demo did not do what it should."""


def choose_films(run: Path) -> dict[str, dict[str, str]]:
    """Rows of the run's `predictions.csv` by file name, the first few of each class."""
    with (run / "predictions.csv").open(newline="", encoding="utf-8") as stream:
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
        command = [sys.executable, "-m", "scripts.serve", "--run-dir", str(run_dir)]
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
    command = [sys.executable, "-m", "scripts.predict", "--url", url, "--json", "--cam", "overlay"]
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
    """Overlays side by side, a row for each true class, with what the model said under each."""
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
            said = f"true {name}, P(PNEUMONIA) {reply['probabilities']['PNEUMONIA']:.2f}"
            ImageDraw.Draw(tile).text((6, _SHEET_HEIGHT + 6), said, fill="black", font=font)
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


def demo(run: Path, data: Path, archive: Path, device: str) -> None:
    """Serve, ask, compare, draw.

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
    print(NOTICE)


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="scripts.demo", description=__doc__)
    parser.add_argument("--run", type=Path, required=True, help="a run folder that was evaluated")
    parser.add_argument("--data", type=Path, required=True, help="the data folder it was evaluated on")
    parser.add_argument("--archive", type=Path, required=True, help="the archive packed from the run")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    arguments = parser.parse_args(argv)
    try:
        demo(arguments.run, arguments.data, arguments.archive, arguments.device)
    except (DemoError, OSError) as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
