"""Write what serving needs from a run: the state dict and the spec beside it.

`model.pth` holds tensors under torchvision's own keys and nothing else; `model.json` says what they mean.
"""

from __future__ import annotations

import argparse
import dataclasses
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from safetensors.torch import save_file

from cxr.model import read_state_dict
from cxr.spec import SPEC_FILE, ModelSpec, sha256_of
from training.command import run_command
from training.runs import CHECKPOINT, spec_of, write_text, write_whole

WEIGHTS_FILES: Final = {"pth": "model.pth", "safetensors": "model.safetensors"}


def export(run: Path, form: str = "pth") -> ModelSpec:
    """Write the weights and `model.json` into the run folder, the spec last.

    Raises
    ------
    TrainingError
        If the run has no checkpoint, or its calibration belongs to another one.
    """
    spec = spec_of(run)
    weights = run / WEIGHTS_FILES[form]
    if form == "pth":
        write_whole(weights, lambda path: _copy(run / CHECKPOINT, path))
    else:
        write_whole(weights, lambda path: save_file(read_state_dict(run / CHECKPOINT), path))
    spec = dataclasses.replace(spec, weights_file=weights.name, weights_sha256=sha256_of(weights))
    write_text(run / SPEC_FILE, spec.to_json())
    return spec


def _copy(source: Path, target: Path) -> None:
    shutil.copyfile(source, target)


def _command(arguments: argparse.Namespace) -> None:
    spec = export(arguments.run, arguments.format)
    print(f"{arguments.run / spec.weights_file} and {SPEC_FILE} (sha256 {spec.weights_sha256[:12]}…)")


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="training.export", description=__doc__)
    parser.add_argument("--run", type=Path, required=True, help="a run folder with a checkpoint")
    parser.add_argument("--format", choices=list(WEIGHTS_FILES), default="pth", help="file type of the weights")
    return run_command(parser, _command, argv)


if __name__ == "__main__":
    sys.exit(main())
