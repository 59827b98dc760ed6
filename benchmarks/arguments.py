"""The command lines of `scripts.benchmark` that measure serving: serve, peers, decode, cam; and page."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from benchmarks import cam, decode, overhead, peers, plot, serve, tables
from benchmarks.output import may_write, read_result
from benchmarks.servers import WrongUsage
from cxr.model.network import ARCHITECTURES
from cxr.predict import resolve_device
from pneumoscan.files import write_text, write_whole
from pneumoscan.options import not_negative, positive

Measured = tuple[dict[str, Any], str]
_PEERS = Path(sys.prefix) / "peers" / "bin" / "python"


def add_serving(what: Any) -> None:
    """Add the commands that measure serving to the sub-commands of a parser."""
    _add_serve(what)
    _add_peers(what)
    _add_decode(what)
    _add_cam(what)
    _add_page(what)


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


def _add_output(command: argparse.ArgumentParser) -> None:
    command.add_argument("--json", action="store_true", help="JSON instead of a table")
    command.add_argument("--out", type=Path, metavar="FILE.json", help="write the JSON there as well")
    command.add_argument("--force", action="store_true", help="replace files that exist")


def _add_serve(what: Any) -> None:
    command = what.add_parser(
        "serve",
        help="our server under load",
        description="Latency, throughput, processor time and memory of our server: closed loop, open loop with latency "
        "counted from when a film was due, a lone client beside the call in process, and films a second served beside "
        "unserved in the same layout.",
    )
    where = command.add_mutually_exclusive_group(required=True)
    where.add_argument("--archive", type=Path, metavar="FILE.mar", help="start a server with this archive, and stop it")
    where.add_argument("--url", metavar="http://HOST:PORT", help="a running server; closed and open loop alone")
    command.add_argument(
        "--films", type=Path, metavar="DIR", help="films to send (default: made-up ones of four sizes)"
    )
    settings = overhead.Settings()
    command.add_argument(
        "--clients",
        type=whole_numbers,
        default=settings.clients,
        metavar="N,…",
        help="of the closed loop (default 1,4,16,64)",
    )
    command.add_argument(
        "--rate",
        type=numbers,
        default=settings.rates,
        metavar="PART,…",
        help="of the open loop, as parts of the highest rate of the closed loop (default 0.25,0.5,0.8,1,1.5,3)",
    )
    command.add_argument("--seconds", type=seconds, default=settings.seconds, help="of a measurement (%(default)g)")
    command.add_argument("--deadline", type=seconds, default=settings.deadline_s, help="a client waits (%(default)g s)")
    command.add_argument("--pairs", type=not_negative, default=settings.pairs, help="of the lone client (%(default)s)")
    command.add_argument("--rounds", type=not_negative, default=settings.rounds, help="beside unserved (%(default)s)")
    command.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="of the server")
    command.add_argument("--plot", type=Path, metavar="FILE.png", help="draw latency over load")
    for name in ("workers", "threads", "batch-size", "batch-delay", "queue"):
        command.add_argument(f"--{name}", type=positive, metavar="N", help="as of scripts.serve (default: its own)")
    _add_output(command)
    command.set_defaults(measure=_serve)


def _serve(arguments: argparse.Namespace) -> Measured:
    may_write(arguments.plot, force=arguments.force)
    names = ("workers", "threads", "batch_size", "batch_delay", "queue")
    given = {name: getattr(arguments, name) for name in names if getattr(arguments, name) is not None}
    if given and arguments.url:
        raise WrongUsage(f"--{next(iter(given)).replace('_', '-')} is for a server that is started: leave out --url")
    options = [word for name, value in given.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    settings = overhead.Settings(
        clients=arguments.clients,
        rates=arguments.rate,
        seconds=arguments.seconds,
        pairs=arguments.pairs,
        rounds=arguments.rounds,
        deadline_s=arguments.deadline,
        device=arguments.device,
        batch=arguments.batch_size or 1,
        options=tuple(options),
    )
    result = serve.benchmark_serve(arguments.archive, arguments.url, arguments.films, settings)
    if arguments.plot:
        write_whole(arguments.plot, lambda path: plot.plot_load(result, path))
    return result, tables.table_of(result)


def _add_peers(what: Any) -> None:
    command = what.add_parser(
        "peers",
        help="our server beside LitServe, BentoML and TorchServe with other handlers",
        description="Films a second and latency of each server in turn, with no model and with the same weights, on "
        "the CPU: workers = cores, one thread each.",
    )
    command.add_argument("--archive", type=Path, required=True, metavar="FILE.mar", help="ours; all have its weights")
    command.add_argument(
        "--python",
        default=str(_PEERS) if _PEERS.is_file() else sys.executable,
        help="an interpreter with litserve, bentoml and captum; what it lacks is skipped (default %(default)s)",
    )
    settings = peers.Settings()
    command.add_argument("--parts", default="null,model", help="null, model or both (default %(default)s)")
    command.add_argument("--rounds", type=positive, default=settings.rounds, help="(default %(default)s)")
    command.add_argument("--seconds", type=seconds, default=settings.seconds, help="of a measurement (%(default)g)")
    command.add_argument("--clients", type=positive, default=settings.null_clients, help="with no model (%(default)s)")
    command.add_argument(
        "--films",
        type=Path,
        metavar="DIR",
        help="films for the servers with the model, saved as colour JPEG for all of them (default: drawn ones)",
    )
    command.add_argument(
        "--restart", action="store_true", help="start a server for each measurement instead of keeping all at once"
    )
    _add_output(command)
    command.set_defaults(measure=_peers)


def _peers(arguments: argparse.Namespace) -> Measured:
    parts = tuple(arguments.parts.split(","))
    if not set(parts) <= {"null", "model"}:
        raise WrongUsage(f"--parts is {arguments.parts!r}: give null, model or null,model")
    settings = peers.Settings(
        rounds=arguments.rounds,
        seconds=arguments.seconds,
        null_clients=arguments.clients,
        films=arguments.films,
        parts=parts,
        restart=arguments.restart,
    )
    result = peers.benchmark_peers(arguments.archive, arguments.python, settings)
    return result, tables.table_of(result)


def _add_decode(what: Any) -> None:
    command = what.add_parser("decode", help="from a file's bytes to the network's input, beside the tutorial's way")
    command.add_argument("--rounds", type=positive, default=30, help="(default %(default)s)")
    _add_output(command)
    command.set_defaults(measure=_decode)


def _decode(arguments: argparse.Namespace) -> Measured:
    result = decode.benchmark_decode(arguments.rounds)
    return result, tables.table_of(result)


def _add_cam(what: Any) -> None:
    command = what.add_parser("cam", help="what a heat map costs, beside grad-cam's GradCAM")
    command.add_argument("--arch", choices=list(ARCHITECTURES), default="resnet152")
    command.add_argument("--device", default="auto", help="auto, cpu or cuda")
    command.add_argument("--rounds", type=positive, default=15, help="(default %(default)s)")
    _add_output(command)
    command.set_defaults(measure=_cam)


def _cam(arguments: argparse.Namespace) -> Measured:
    result = cam.benchmark_cam(arguments.arch, resolve_device(arguments.device), arguments.rounds)
    return result, tables.table_of(result)


def _add_page(what: Any) -> None:
    command = what.add_parser("page", help="put results into docs/performance.md")
    command.add_argument("results", type=Path, nargs="+", metavar="FILE.json", help="written by --out")
    command.add_argument("--page", type=Path, default=Path("docs/performance.md"), help="(default %(default)s)")
    command.set_defaults(measure=_page, json=False, out=None, force=False)


def _page(arguments: argparse.Namespace) -> Measured:
    text = arguments.page.read_text(encoding="utf-8")
    filled = tables.page_with(text, [read_result(path) for path in arguments.results])
    write_text(arguments.page, filled)
    return {}, f"{arguments.page}: {len(arguments.results)} tables"
