"""Everything from nothing: films, a trained and measured model, its archive, and films answered by it over REST.

Without --data, synthetic films are made in data/toy. A run goes on where it ended. Leaves the run with its report and
model card, the archive in the store, and what was answered in RUN/served.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from pneumoscan.errors import DemoError
from pneumoscan.pipeline import ModelPlan, demo, make_model


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; give the exit status: 0 done, 1 failed, 2 wrong usage."""
    plan = ModelPlan()
    parser = argparse.ArgumentParser(prog="scripts.demo", description=__doc__)
    parser.add_argument(
        *("--run", "--out"), type=Path, default=plan.run, metavar="DIR", help="folder of the run (default %(default)s)"
    )
    parser.add_argument("--data", type=Path, metavar="DIR", help="folder of films (default: synthetic ones are made)")
    parser.add_argument("--weights", default=plan.weights, help="imagenet, random or a file (default %(default)s)")
    parser.add_argument("--arch", default=plan.arch, help="architecture of the network (default %(default)s)")
    parser.add_argument("--device", default=plan.device, help="auto, cpu or cuda (default %(default)s)")
    parser.add_argument("--version", default=plan.version, help="of the archive (default %(default)s)")
    parser.add_argument(
        "--store", type=Path, default=plan.store, metavar="DIR", help="where the archive goes (default %(default)s)"
    )
    parser.add_argument(
        "--or-random",
        action=argparse.BooleanOptionalAction,
        default=plan.or_random,
        help="where the ImageNet weights cannot be had, go on with random ones and say so (default: yes)",
    )
    parser.add_argument("--model-only", action="store_true", help="end once the archive is packed: serve nothing")
    arguments = parser.parse_args(argv)
    plan = ModelPlan(**{name: value for name, value in vars(arguments).items() if name != "model_only"})
    try:
        if arguments.model_only:
            make_model(plan)
        else:
            demo(plan)
    except (DemoError, OSError) as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
