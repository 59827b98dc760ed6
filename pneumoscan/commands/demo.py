"""``pneumoscan demo``: everything from nothing, ending in films answered over REST."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pneumoscan.options import Option


@dataclass(frozen=True, kw_only=True)
class Options:
    """Everything from nothing: films, a trained and measured model, its archive, and films answered by it over REST.

    Without --data, synthetic films are made in data/toy. A run goes on where it ended. Leaves the run with its report
    and model card, the archive in the store, and what was answered in OUT/served.
    """

    out: Annotated[Path, Option("folder of the run", "DIR")] = Path("runs/demo")
    data: Annotated[Path | None, Option("folder of films (default: synthetic ones are made)", "DIR")] = None
    weights: Annotated[str, Option("starting weights", "imagenet|random|FILE")] = "imagenet"
    arch: Annotated[str, Option("architecture of the network")] = "resnet152"
    device: Annotated[str, Option("auto, cpu or cuda")] = "auto"
    version: Annotated[str, Option("of the archive")] = "1.0.0"
    store: Annotated[Path, Option("where the archive goes", "DIR")] = Path("model_store")
    train: Annotated[
        str, Option("further options of `pneumoscan train`, in one text: --train='--boxes --greys field'", "OPTIONS")
    ] = ""
    calibrate: Annotated[str, Option("further options of `pneumoscan calibrate`, likewise", "OPTIONS")] = ""
    only_imagenet: Annotated[
        bool, Option("end where the ImageNet weights cannot be had, instead of going on with random ones")
    ] = False
    model_only: Annotated[bool, Option("end once the archive is packed: serve nothing")] = False


OPTIONS = Options


def run(options: Options) -> int:
    """Make the model, and unless it is all that is wanted, serve it and ask it."""
    from pneumoscan.pipeline import ModelPlan, demo, make_model

    plan = ModelPlan(
        run=options.out,
        data=options.data,
        weights=options.weights,
        arch=options.arch,
        device=options.device,
        or_random=not options.only_imagenet,
        version=options.version,
        store=options.store,
        train=tuple(shlex.split(options.train)),
        calibrate=tuple(shlex.split(options.calibrate)),
    )
    if options.model_only:
        make_model(plan)
    else:
        demo(plan)
    return 0
