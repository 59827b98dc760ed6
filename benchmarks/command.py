"""Measure how fast this machine is, in ratios of things timed in turn within one run.

``raw``: the network alone by each engine, and what the heat map costs beside it.
``serve``: latency, throughput, processor time and memory of our server, and what it adds to the model alone.
``peers``: our server beside LitServe, BentoML and TorchServe with other handlers.
``decode``: from a file's bytes to the network's input, beside the well-known tutorial's way.
``cam``: what a heat map costs, beside grad-cam's GradCAM.
``page``: puts results into docs/performance.md.
``train``: what a hundred epochs cost here and by the well-known tutorial's loop, and how good both models are.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import raw, train
from benchmarks.arguments import add_serving
from benchmarks.output import may_write, write_result
from benchmarks.servers import BenchmarkError, WrongUsage
from cxr.errors import CxrError
from cxr.model.network import ARCHITECTURES
from cxr.predict import resolve_device
from cxr_training.data.records import load_films
from cxr_training.fit.settings import TrainSettings
from cxr_training.fit.weights import NORMALISATIONS, THREE_WAYS
from pneumoscan.errors import NoJavaError
from pneumoscan.options import not_negative, positive


def _raw(arguments: argparse.Namespace) -> tuple[dict[str, Any], str]:
    device = resolve_device(arguments.device)
    result = raw.benchmark_raw(arguments.arch, device, arguments.batch, arguments.repeats, arguments.run)
    return result, raw.table_of(result)


def _train(arguments: argparse.Namespace) -> tuple[dict[str, Any], str]:
    settings = TrainSettings(
        weights=arguments.weights,
        arch=arguments.arch,
        normalisation=arguments.normalisation,
        size=arguments.size,
        views=arguments.views,
        seed=arguments.seed,
    )
    result = train.benchmark_training(
        load_films(arguments.data),
        settings,
        resolve_device(arguments.device),
        rounds=arguments.rounds,
        epochs=arguments.epochs,
        per_group=arguments.films,
    )
    return result, train.table_of(result)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="scripts.benchmark", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    what = parser.add_subparsers(dest="what", required=True)
    raw = what.add_parser("raw", help="the network alone, and what the heat map costs")
    raw.add_argument("--batch", type=positive, default=8, help="films in a pass (default %(default)s)")
    raw.add_argument("--repeats", type=positive, default=15, help="rounds (default %(default)s)")
    raw.add_argument("--run", type=Path, help="an exported run to time, its int8 too; by default random weights")
    raw.set_defaults(measure=_raw)

    train = what.add_parser("train", help="training beside the well-known tutorial's loop")
    train.add_argument("--data", type=Path, required=True, help="the data folder")
    train.add_argument("--weights", default="imagenet", metavar="imagenet|random|FILE", help=THREE_WAYS)
    train.add_argument("--normalisation", default="imagenet", choices=list(NORMALISATIONS))
    train.add_argument("--size", type=positive, default=224, help="side of the network's input (default %(default)s)")
    train.add_argument("--views", type=not_negative, default=1, help="augmented views here (default %(default)s)")
    train.add_argument("--rounds", type=positive, default=5, help="of timing (default %(default)s)")
    train.add_argument(
        "--epochs",
        type=not_negative,
        default=0,
        help="of the tutorial's loop, to compare results; 0 only times (default)",
    )
    train.add_argument(
        "--films", type=positive, default=150, help="of each source and label, to compare results (default %(default)s)"
    )
    train.add_argument("--seed", type=int, default=0)
    train.set_defaults(measure=_train)
    for command in (raw, train):
        command.add_argument("--arch", choices=list(ARCHITECTURES), default="resnet152")
        command.add_argument("--device", default="auto", help="auto, cpu or cuda")
        command.add_argument("--json", action="store_true", help="JSON instead of a table")
        command.add_argument("--out", type=Path, metavar="FILE.json", help="write the JSON there as well")
        command.add_argument("--force", action="store_true", help="replace a file that exists")
    add_serving(what)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    try:
        may_write(arguments.out, force=arguments.force)
    except WrongUsage as error:
        parser.error(str(error))
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)  # servers are stopped as after Ctrl-C
    try:
        result, table = arguments.measure(arguments)
    except (CxrError, OSError, WrongUsage) as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 2
    except (BenchmarkError, NoJavaError) as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"{parser.prog}: interrupted; nothing was written", file=sys.stderr)
        return 1
    finally:
        signal.signal(signal.SIGTERM, before)
    if arguments.out:
        write_result(arguments.out, result)
    print(json.dumps(result) if arguments.json else table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
