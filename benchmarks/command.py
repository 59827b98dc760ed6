"""Measure how fast this machine is, in ratios of things timed in turn within one run.

``raw``: the network alone by each engine, and what the heat map costs beside it.
``serve``: latency, throughput, processor time and memory of our server, and what it adds to the model alone.
``peers``: our server beside LitServe, BentoML and TorchServe with other handlers.
``decode``: from a file's bytes to the network's input, beside the well-known tutorial's way.
``syntaxes``: what a DICOM film costs by its transfer syntax, in processor time beside a pass of the network.
``cam``: what a heat map costs, beside grad-cam's GradCAM.
``page``: puts results into docs/performance.md.
``train``: what a hundred epochs cost here and by the well-known tutorial's loop, and how good both models are.
"""

from __future__ import annotations

import argparse
import dataclasses
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.peers import PeerSettings, benchmark_peers
from benchmarks.result import Result, check_writable, json_of, page_with, read_result, text_of, write_result
from benchmarks.serve import STARTING, ServeSettings, benchmark_serve, plot_load
from benchmarks.steps import CamSettings, DecodeSettings, RawSettings, benchmark_cam, benchmark_decode, benchmark_raw
from benchmarks.syntaxes import SyntaxSettings, benchmark_syntaxes
from benchmarks.train import TrainBenchmarkSettings, benchmark_training
from cxr.errors import CxrError
from cxr.model.network import ARCHITECTURES
from cxr_training.fit.weights import NORMALISATIONS, THREE_WAYS
from pneumoscan.files import write_text, write_whole
from pneumoscan.options import not_negative, positive

Measure = Callable[[Any], Result]


def numbers(text: str) -> tuple[float, ...]:
    """The numbers of ``1,4,16``, each above 0."""
    found = tuple(float(part) for part in text.split(","))
    if not all(0 < number < 1e6 for number in found):
        raise argparse.ArgumentTypeError(f"{text} has a number that is not above 0")
    return found


def whole_numbers(text: str) -> tuple[int, ...]:
    """The whole numbers of ``1,4,16``, each above 0."""
    return tuple(positive(part) for part in text.split(","))


def seconds(text: str) -> float:
    """A time above 0."""
    return numbers(text)[0]


def names(text: str) -> tuple[str, ...]:
    """The names of ``null,model``."""
    return tuple(text.split(","))


class _Command:
    """One sub-command; its options have the names and the defaults of the fields of its settings."""

    def __init__(
        self, commands: Any, name: str, settings: type[Any], measure: Measure, summary: str, *more: str
    ) -> None:
        self.parser = commands.add_parser(name, help=summary, description=" ".join(more) or summary)
        self.parser.set_defaults(settings=settings, measure=measure, plot=None)
        self.parser.add_argument("--json", action="store_true", help="JSON instead of a table")
        self.parser.add_argument("--out", type=Path, metavar="FILE.json", help="write the JSON there as well")
        self.parser.add_argument("--force", action="store_true", help="replace files that exist")
        self._defaults = {field.name: field.default for field in dataclasses.fields(settings)}

    def option(self, name: str, kind: Callable[[str], object], text: str, group: Any = None, **more: Any) -> None:
        """Add the option of a field; a field without a default has to be given."""
        default = self._defaults[name]
        if default is dataclasses.MISSING:
            more["required"] = True
        elif default is not None:
            shown = ",".join(map(str, default)) if isinstance(default, tuple) else default
            text, more["default"] = f"{text} (default {shown})", default
        (group or self.parser).add_argument(f"--{name.replace('_', '-')}", type=kind, help=text, **more)


def _add_steps(commands: Any) -> None:
    raw = _Command(commands, "raw", RawSettings, benchmark_raw, "the network alone, and what the heat map costs")
    raw.option("batch", positive, "films in a pass")
    raw.option("repeats", positive, "rounds")
    raw.option("run", Path, "an exported run to time, its int8 too; by default random weights", metavar="DIR")
    cam = _Command(commands, "cam", CamSettings, benchmark_cam, "what a heat map costs, beside grad-cam's GradCAM")
    cam.option("rounds", positive, "rounds")
    for command in (raw, cam):
        command.option("arch", str, "the network", choices=list(ARCHITECTURES))
        command.option("device", str, "auto, cpu or cuda")
    summary = "from a file's bytes to the network's input, beside the tutorial's way"
    decode = _Command(commands, "decode", DecodeSettings, benchmark_decode, summary)
    decode.option("rounds", positive, "rounds")
    summary = "what a DICOM film costs by its transfer syntax, in processor time beside a pass of the network"
    syntaxes = _Command(commands, "syntaxes", SyntaxSettings, benchmark_syntaxes, summary)
    syntaxes.option("rounds", positive, "rounds")
    syntaxes.option("arch", str, "the network", choices=list(ARCHITECTURES))


def _add_train(commands: Any) -> None:
    summary = "training beside the well-known tutorial's loop"
    train = _Command(commands, "train", TrainBenchmarkSettings, benchmark_training, summary)
    train.option("data", Path, "the data folder", metavar="DIR")
    train.option("weights", str, THREE_WAYS, metavar="imagenet|random|FILE")
    train.option("normalisation", str, "how the weights saw pictures", choices=list(NORMALISATIONS))
    train.option("size", positive, "side of the network's input")
    train.option("views", not_negative, "augmented views of our training, of the head alone")
    train.option("rounds", positive, "of timing, each of one batch in every way")
    train.option("epochs", not_negative, "of the tutorial's loop, to compare results; 0 only times")
    train.option("films", positive, "of each source and label in a split, at most, to compare results")
    train.option("seed", int, "of both trainings")
    train.option("arch", str, "the network", choices=list(ARCHITECTURES))
    train.option("device", str, "auto, cpu or cuda")


def _add_serve(commands: Any) -> None:
    serve = _Command(
        commands,
        "serve",
        ServeSettings,
        benchmark_serve,
        "our server under load",
        "Latency, throughput, processor time and memory of our server: closed loop, open loop with latency counted",
        "from when a film was due, a lone client beside the call in process, and films a second served beside unserved",
        "in the same layout.",
    )
    where = serve.parser.add_mutually_exclusive_group(required=True)
    serve.option("archive", Path, "start a server with this archive, and stop it", where, metavar="FILE.mar")
    url = "a running server; closed and open loop alone"
    serve.option("url", str, url, where, metavar="http://HOST:PORT")
    serve.option("films", Path, "films to send (default: made-up ones of four sizes)", metavar="DIR")
    serve.option("clients", whole_numbers, "of the closed loop, one measurement each", metavar="N,…")
    serve.option("rate", numbers, "of the open loop, as parts of the closed loop's highest rate", metavar="PART,…")
    serve.option("seconds", seconds, "of each measurement")
    serve.option("deadline", seconds, "what a client waits, in seconds")
    serve.option("pairs", not_negative, "of the lone client's film and the same film in process; 0 for none")
    serve.option("rounds", not_negative, "of served and unserved throughput in turn; 0 for none")
    serve.option("device", str, "of the server", choices=("auto", "cpu", "cuda"))
    serve.parser.add_argument("--plot", type=Path, metavar="FILE.png", help="draw latency over load")
    for name in STARTING:
        serve.option(name, positive, "as of pneumoscan serve (default: its own)", metavar="N")


def _add_peers(commands: Any) -> None:
    peers = _Command(
        commands,
        "peers",
        PeerSettings,
        benchmark_peers,
        "our server beside LitServe, BentoML and TorchServe with other handlers",
        "Films a second and latency of each server in turn, with no model and with the same weights, on the CPU:",
        "workers = cores, one thread each.",
    )
    peers.option("archive", Path, "ours; all have its weights", metavar="FILE.mar")
    peers.option("python", str, "an interpreter with litserve, bentoml and captum; what it lacks is skipped")
    peers.option("parts", names, "null (no model), model or both")
    peers.option("rounds", positive, "in each every server is measured once")
    peers.option("seconds", seconds, "of each measurement")
    peers.option("clients", positive, "with no model; with one there are two for each worker")
    films = "films for the servers with the model, saved as colour JPEG for all of them (default: drawn ones)"
    peers.option("films", Path, films, metavar="DIR")
    restart = "start a server for each measurement instead of keeping all at once"
    peers.parser.add_argument("--restart", action="store_true", help=restart)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="pneumoscan bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="what", required=True)
    for add in (_add_steps, _add_train, _add_serve, _add_peers):
        add(commands)
    page = commands.add_parser("page", help="put results into docs/performance.md")
    page.add_argument("results", type=Path, nargs="+", metavar="FILE.json", help="written by --out")
    page.add_argument("--page", type=Path, default=Path("docs/performance.md"), help="(default %(default)s)")
    return parser


def _measure(arguments: argparse.Namespace) -> str:
    """Measure, write what was requested, and give what is shown."""
    for path in (arguments.out, arguments.plot):
        check_writable(path, force=arguments.force)
    fields = dataclasses.fields(arguments.settings)
    result: Result = arguments.measure(arguments.settings(**{one.name: getattr(arguments, one.name) for one in fields}))
    if arguments.plot:
        write_whole(arguments.plot, lambda path: plot_load(result, path))
    if arguments.out:
        write_result(arguments.out, result)
    return json_of(result) if arguments.json else text_of(result)


def _fill_page(arguments: argparse.Namespace) -> str:
    results = [read_result(path) for path in arguments.results]
    write_text(arguments.page, page_with(arguments.page.read_text(encoding="utf-8"), results))
    return f"{arguments.page}: {len(results)} tables"


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)  # servers are stopped as after Ctrl-C
    try:
        print(_fill_page(arguments) if arguments.what == "page" else _measure(arguments))
    except (CxrError, OSError) as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return getattr(error, "exit_status", 1)
    except KeyboardInterrupt:
        print(f"{parser.prog}: interrupted; nothing was written", file=sys.stderr)
        return 1
    finally:
        signal.signal(signal.SIGTERM, before)
    return 0


if __name__ == "__main__":
    sys.exit(main())
