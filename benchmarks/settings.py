"""The options of ``pneumoscan bench``: a dataclass for each measurement, read without what it measures."""

from __future__ import annotations

import dataclasses
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pneumoscan.errors import UsageError
from pneumoscan.options import Option, at_least

STARTING: Final = ("workers", "threads", "batch_size", "batch_delay", "queue")  # options of pneumoscan serve
_PYTHON: Final = Path(sys.prefix) / "peers" / "bin" / "python"  # where `make bench-peers` puts it

Arch = Annotated[
    Literal["resnet10", "resnet18", "resnet34", "resnet50", "resnet101", "resnet152"], Option("the network")
]
Device = Annotated[str, Option("auto, cpu or cuda")]
_AS_SERVE: Final = Option("as of pneumoscan serve (default: its own)", "N", check=at_least(1))


def _above_0(value: float) -> str | None:
    return None if 0 < value < 1e6 else f"{value} is not above 0"


@dataclass(frozen=True, kw_only=True)
class Output:
    """Where the result of a measurement goes."""

    json: Annotated[bool, Option("JSON instead of a table")] = False
    out: Annotated[Path | None, Option("write the JSON there as well", "FILE.json")] = None
    force: Annotated[bool, Option("replace files that exist")] = False

    def conditions(self) -> dict[str, Any]:
        """What was measured under, for the record: every option but those of the output."""
        output = {field.name for field in dataclasses.fields(Output)} | {"plot"}
        return {name: value for name, value in dataclasses.asdict(self).items() if name not in output}


@dataclass(frozen=True, kw_only=True)
class RawSettings(Output):
    """Time the network alone by each engine, and what the heat map costs beside it."""

    arch: Arch = "resnet152"
    device: Device = "auto"
    batch: Annotated[int, Option("films in a pass", "N", check=at_least(1))] = 8
    repeats: Annotated[int, Option("rounds", "N", check=at_least(1))] = 15
    run: Annotated[
        Path | None, Option("an exported run to time, its int8 too (default: random weights of --arch)", "DIR")
    ] = None


@dataclass(frozen=True, kw_only=True)
class CamSettings(Output):
    """Time what a heat map costs, beside grad-cam's GradCAM."""

    arch: Arch = "resnet152"
    device: Device = "auto"
    rounds: Annotated[int, Option("rounds", "N", check=at_least(1))] = 15


@dataclass(frozen=True, kw_only=True)
class DecodeSettings(Output):
    """Time the way from a file's bytes to the network's input, beside the well-known tutorial's."""

    rounds: Annotated[int, Option("rounds", "N", check=at_least(1))] = 30


@dataclass(frozen=True, kw_only=True)
class SyntaxSettings(Output):
    """Time a DICOM film by its transfer syntax, in processor time beside a pass of the network.

    A drawn film of 2500 x 2048 pixels and 12 bits in every transfer syntax that is read.
    """

    arch: Arch = "resnet152"
    rounds: Annotated[int, Option("rounds", "N", check=at_least(1))] = 9


@dataclass(frozen=True, kw_only=True)
class RenderingSettings(Output):
    """Score the same films rendered otherwise: another depth, window, brightness or gamma, DICOM and its inverted twin.

    Nothing is timed. Films of each source and label are taken in turn, so that the small ones are there.
    """

    run: Annotated[tuple[Path, ...], Option("exported or calibrated runs, one table each", "DIR")]
    data: Annotated[Path, Option("the data folder they were trained on", "DIR")]
    split: Annotated[Literal["train", "val", "test"], Option("whose films")] = "test"
    films: Annotated[int, Option("how many", "N", check=at_least(2))] = 200
    seed: Annotated[int, Option("that draws them", "N")] = 0


@dataclass(frozen=True, kw_only=True)
class ScreenSettings(Output):
    """Count the films that the screen of views refuses or flags, as they are and under drawn changes.

    The films of validation and test: in frames, askew on a sheet, in a viewer's window, turned, two in one picture ….
    """

    data: Annotated[Path, Option("the data folder", "DIR")]
    run: Annotated[
        Path | None,
        Option("an exported run whose screen is measured (default: one is fitted)", "DIR"),
    ] = None
    every: Annotated[int, Option("take every N-th film", "N", check=at_least(1))] = 1


@dataclass(frozen=True, kw_only=True)
class TrainBenchmarkSettings(Output):
    """Time training beside the well-known tutorial's loop, and compare how good both models are."""

    data: Annotated[Path, Option("the data folder", "DIR")]
    weights: Annotated[
        str, Option("imagenet, random, or a file with a state dict; as of pneumoscan train", "imagenet|random|FILE")
    ] = "imagenet"
    normalisation: Annotated[Literal["imagenet", "unit"], Option("how the weights saw pictures")] = "imagenet"
    size: Annotated[int, Option("side of the network's input", "PIXELS", check=at_least(1))] = 224
    views: Annotated[int, Option("augmented views of our training, of the head alone", "N", check=at_least(0))] = 1
    rounds: Annotated[int, Option("of timing, each of one batch in every way", "N", check=at_least(1))] = 5
    epochs: Annotated[
        int, Option("of the tutorial's loop, to compare results; 0 only times", "N", check=at_least(0))
    ] = 0
    films: Annotated[
        int, Option("of each source and label in a split, at most, to compare results", "N", check=at_least(1))
    ] = 150
    seed: Annotated[int, Option("of both trainings", "N")] = 0
    arch: Arch = "resnet152"
    device: Device = "auto"


@dataclass(frozen=True, kw_only=True)
class ServeSettings(Output):
    """Measure our server under load: latency, throughput, processor time and memory.

    Closed loop, open loop with latency counted from when a film was due, a lone client beside the call in process, and
    films a second served beside unserved in the same layout.
    """

    archive: Annotated[
        Path | None,
        Option("start a server with this archive, and stop it", "FILE.mar", exclusive="server", required=True),
    ] = None
    url: Annotated[
        str | None,
        Option("a running server; closed and open loop alone", "http://HOST:PORT", exclusive="server", required=True),
    ] = None
    films: Annotated[Path | None, Option("films to send (default: made-up ones of four sizes)", "DIR")] = None
    clients: Annotated[tuple[int, ...], Option("of the closed loop, one measurement each", "N", check=at_least(1))] = (
        1,
        4,
        16,
        64,
    )
    rate: Annotated[
        tuple[float, ...],
        Option("of the open loop, as parts of the closed loop's highest rate", "PART", check=_above_0),
    ] = (0.25, 0.5, 0.8, 1.0, 1.5, 3.0)
    seconds: Annotated[float, Option("of each measurement", "SECONDS", check=_above_0)] = 20.0
    deadline: Annotated[float, Option("what a client waits", "SECONDS", check=_above_0)] = 60.0
    pairs: Annotated[
        int, Option("of the lone client's film and the same film in process; 0 for none", "N", check=at_least(0))
    ] = 160
    rounds: Annotated[int, Option("of served and unserved throughput in turn; 0 for none", "N", check=at_least(0))] = 5
    device: Annotated[Literal["auto", "cpu", "cuda"], Option("of the server")] = "auto"
    plot: Annotated[Path | None, Option("draw latency over load", "FILE.png")] = None
    workers: Annotated[int | None, _AS_SERVE] = None
    threads: Annotated[int | None, _AS_SERVE] = None
    batch_size: Annotated[int | None, _AS_SERVE] = None
    batch_delay: Annotated[int | None, _AS_SERVE] = None
    queue: Annotated[int | None, _AS_SERVE] = None

    def starting_options(self) -> list[str]:
        """The options that `pneumoscan serve` is started with.

        Raises
        ------
        UsageError
            If there are some for a server that runs already.
        """
        given = [(name.replace("_", "-"), getattr(self, name)) for name in STARTING if getattr(self, name) is not None]
        if given and self.url:
            raise UsageError(f"--{given[0][0]} is for a server that is started: leave out --url")
        return ["--device", self.device, *(word for name, value in given for word in (f"--{name}", str(value)))]


@dataclass(frozen=True, kw_only=True)
class PeerSettings(Output):
    """Measure our server beside LitServe, BentoML and TorchServe with other handlers.

    Films a second and latency of each server in turn, with no model and with the same weights, on the CPU: workers =
    cores, one thread each.
    """

    archive: Annotated[Path, Option("ours; all have its weights", "FILE.mar")]
    python: Annotated[
        str,
        Option(
            "an interpreter with litserve, bentoml and captum; what it lacks is skipped (default: that of make "
            "bench-peers, else this one)",
            "FILE",
        ),
    ] = str(_PYTHON if _PYTHON.is_file() else sys.executable)
    parts: Annotated[tuple[Literal["null", "model"], ...], Option("null: no model")] = ("null", "model")
    rounds: Annotated[int, Option("in each every server is measured once", "N", check=at_least(1))] = 5
    seconds: Annotated[float, Option("of each measurement", "SECONDS", check=_above_0)] = 8.0
    clients: Annotated[int, Option("with no model; with one there are two for each worker", "N", check=at_least(1))] = (
        16
    )
    films: Annotated[
        Path | None,
        Option(
            "films for the servers with the model, saved as colour JPEG for all of them (default: drawn ones)", "DIR"
        ),
    ] = None
    restart: Annotated[bool, Option("start a server for each measurement instead of keeping all at once")] = False


@dataclass(frozen=True, kw_only=True)
class PageSettings:
    """Put results into docs/performance.md."""

    results: Annotated[tuple[Path, ...], Option("written by --out", "FILE.json", positional=True)]
    page: Annotated[Path, Option("the page", "FILE.md")] = Path("docs/performance.md")


MEASUREMENTS: Final[dict[str, type[Any]]] = {
    "raw": RawSettings,
    "cam": CamSettings,
    "decode": DecodeSettings,
    "syntaxes": SyntaxSettings,
    "renderings": RenderingSettings,
    "screen": ScreenSettings,
    "train": TrainBenchmarkSettings,
    "serve": ServeSettings,
    "peers": PeerSettings,
    "page": PageSettings,
}
