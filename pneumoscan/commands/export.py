"""``pneumoscan export``: write what serving needs from a run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pneumoscan.options import Option

_CHOSEN = (
    "what computes the feature map on a {}; one that `pneumoscan calibrate --engine` found to pass (default: {} if "
)


@dataclass(frozen=True, kw_only=True)
class Options:
    """Write what serving needs from a run: the state dict and the spec beside it."""

    run: Annotated[Path, Option("a run folder with a checkpoint", "DIR")]
    format: Annotated[Literal["pth", "safetensors"], Option("file type of the weights")] = "pth"
    cpu_engine: Annotated[
        Literal["torch-float32", "openvino-float32", "openvino-bfloat16", "openvino-int8"] | None,
        Option(_CHOSEN.format("CPU", "openvino-float32") + "it did, else torch-float32)"),
    ] = None
    cuda_engine: Annotated[
        Literal["torch-float32", "cuda-float32", "cuda-bfloat16", "cuda-float16"] | None,
        Option(_CHOSEN.format("GPU", "cuda-float32") + "it did, else torch-float32)"),
    ] = None


OPTIONS = Options


def run(options: Options) -> int:
    """Export and say which engines were chosen."""
    from cxr.model.spec import SPEC_FILE
    from cxr_training.export import export

    spec = export(options.run, options.format, {"cpu": options.cpu_engine, "cuda": options.cuda_engine})
    chosen = ", ".join(f"{name} on {device}" for device, name in spec.engines.items())
    print(f"{options.run / spec.weights_file} and {SPEC_FILE} (sha256 {spec.weights_sha256[:12]}…; {chosen})")
    return 0
