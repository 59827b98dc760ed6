"""Write what serving needs from a run: the state dict and the spec beside it.

`model.pth` holds tensors under torchvision's own keys and nothing else; `model.json` says what they mean.
"""

from __future__ import annotations

import dataclasses
import functools
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from safetensors.torch import save_file

from cxr.model.network import read_state_dict
from cxr.model.parity import DEVICES, REFERENCE
from cxr.model.spec import SPEC_FILE, ModelSpec, sha256_of
from cxr_training.drift import carry_reference
from cxr_training.errors import TrainingError
from cxr_training.runs import CALIBRATION, CHECKPOINT, RUN_FILE, spec_of
from pneumoscan.files import write_text, write_whole

_FLOAT32: Final = {"cpu": "openvino-float32", "cuda": "cuda-float32"}
WEIGHTS_FILES: Final = {"pth": "model.pth", "safetensors": "model.safetensors"}


def export(run: Path, form: str = "pth", engines: Mapping[str, str | None] | None = None) -> ModelSpec:
    """Write the weights and `model.json` into the run folder, the spec last.

    Parameters
    ----------
    form
        A key of `WEIGHTS_FILES`.
    engines
        What computes the feature map, by device; where none is named, the float32 engine of the device if
        pneumoscan calibrate found it to pass, else the reference.

    Raises
    ------
    TrainingError, ModelError
        If the run has no checkpoint, its calibration belongs to another one, or an engine has not passed the gate.
    """
    spec = spec_of(run)
    named = engines or {}
    spec = dataclasses.replace(spec, engines={name: named.get(name) or _default(spec, name) for name in DEVICES})
    weights = run / WEIGHTS_FILES[form]
    if form == "pth":
        write_whole(weights, functools.partial(shutil.copyfile, run / CHECKPOINT))
        if sha256_of(weights) != spec.weights_sha256:
            raise TrainingError(f"{run / CHECKPOINT} was changed while it was copied: run pneumoscan export again")
    else:
        write_whole(weights, lambda path: save_file(read_state_dict(run / CHECKPOINT), path))
    made_from = {name: sha256_of(run / name) for name in (RUN_FILE, CALIBRATION, CHECKPOINT) if (run / name).is_file()}
    spec = dataclasses.replace(spec, weights_file=weights.name, weights_sha256=sha256_of(weights), made_from=made_from)
    carry_reference(run, spec)
    write_text(run / SPEC_FILE, spec.to_json())
    return spec


def _default(spec: ModelSpec, device: str) -> str:
    name = _FLOAT32[device]
    return name if name in spec.parity and not spec.parity[name].misses else REFERENCE
