"""The network on a CPU by OpenVINO, in float32, bfloat16 or int8.

A graph in int8 can hold no activation beyond what the films reached that its ranges were made with, and tells when one
is: such a film, about one in a hundred, gets NaN instead of features.

Every film is a pass of its own: a batch gains nothing on a CPU, and so a film's answer cannot depend on what else is in
it. As many passes run side by side as torch has threads.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
import openvino
import torch
from torchvision.models.resnet import ResNet

from cxr.engines.openvino_graph import graph_of
from cxr.errors import ModelError
from cxr.model.network import backbone_digest
from cxr.model.parity import INT8_FILES, kind_of
from cxr.model.preprocess import normalise
from cxr.model.spec import Preprocessing

DIGEST_KEY: Final = "backbone_sha256"
# int8: what is not quantised stays in float32, on every processor alike.
_HINTS: Final = {"float32": "f32", "bfloat16": "bf16", "int8": "f32"}


@functools.cache
def core() -> openvino.Core:
    """OpenVINO's entry, one for the whole process.

    On Linux each core with a CPU plugin gives the thread a stack for its signal handlers, and unmaps it at its end
    (OpenVINO 2026.4, pull request 11894). When two end in the order in which they were made, the thread is left with
    a stack that is not there, and the next SIGINT or SIGTERM is a segmentation fault.
    """
    return openvino.Core()


class OpenVinoEngine:
    """One compiled graph with a request for each thread.

    Parameters
    ----------
    name
        One of `cxr.model.parity.ENGINES`.
    model
        From (1, 3, S, S) float32 to the feature map; with a second output, the share of its range that a film reaches.
    preprocessing
        How films become tensors.
    """

    max_batch: int = 32  # so that what waits for a reply stays bounded
    sizes: Sequence[int] = (1,)

    def __init__(self, name: str, model: openvino.Model, preprocessing: Preprocessing) -> None:
        self.name = name
        self._preprocessing = preprocessing
        precision = kind_of(name).precision
        if precision == "bfloat16" and "BF16" not in core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            raise ModelError(
                f"engine {name!r} needs a processor with bfloat16 arithmetic (AVX-512 BF16 or AMX), and this one has "
                "none: export with --cpu-engine openvino-float32"
            )
        if precision == "int8" and not adds_int8_exactly():
            raise ModelError(
                f"engine {name!r} needs a processor with VNNI, and this one has none, so that sums of 8-bit products "
                "would overflow: export with --cpu-engine openvino-float32"
            )
        streams = torch.get_num_threads()
        settings = {
            "INFERENCE_PRECISION_HINT": _HINTS[precision],
            "INFERENCE_NUM_THREADS": streams,
            "NUM_STREAMS": streams,
            # Each process would pin its first thread to the same core.
            "ENABLE_CPU_PINNING": False,
        }
        compiled = core().compile_model(model, "CPU", settings)
        self._shape = tuple(compiled.output(0).shape)[1:]
        self._watched = len(compiled.outputs) > 1
        self._requests = [compiled.create_infer_request() for _ in range(streams)]

    @classmethod
    def load(cls, name: str, network: ResNet, preprocessing: Preprocessing, folder: Path | None) -> OpenVinoEngine:
        """An engine on a network; one in int8 reads its graph from `folder`.

        Raises
        ------
        ModelError
            If the graph is missing, of other weights, or the processor cannot run it.
        """
        if kind_of(name).precision != "int8":
            return cls(name, graph_of(network, preprocessing.size), preprocessing)
        if folder is None or not all((folder / file).is_file() for file in INT8_FILES):
            raise ModelError(f"{folder} has no {' and '.join(INT8_FILES)}: run pneumoscan quantise, which makes them")
        try:
            model = core().read_model(folder / INT8_FILES[0])
            digest = str(model.get_rt_info(DIGEST_KEY).value)
            model.output("reach")
        except RuntimeError as error:
            raise ModelError(f"{folder / INT8_FILES[0]} cannot be read: run pneumoscan quantise again") from error
        if digest != backbone_digest(network):
            raise ModelError(f"{folder / INT8_FILES[0]} is of other weights: run pneumoscan quantise again")
        return cls(name, model, preprocessing)

    def features(self, grey: torch.Tensor) -> torch.Tensor:
        """As `cxr.engines.load.Engine.features`."""
        films = normalise(grey, self._preprocessing).numpy()
        out = np.empty((len(films), *self._shape), dtype=np.float32)
        for start in range(0, len(films), len(self._requests)):
            busy = list(zip(self._requests, range(start, len(films)), strict=False))
            for request, index in busy:
                request.set_input_tensor(openvino.Tensor(films[index : index + 1], shared_memory=True))
                request.start_async()
            for request, index in busy:
                request.wait()
                # Written so that a NaN is beyond too.
                is_beyond = self._watched and not request.get_output_tensor(1).data <= 1
                out[index] = np.nan if is_beyond else request.get_output_tensor(0).data[0]
        return torch.from_numpy(out)


def adds_int8_exactly() -> bool:
    """Whether the processor adds products of 8-bit numbers in 32 bits; x86 before VNNI adds pairs of them in 16."""
    able = torch.cpu.get_capabilities()
    return able["architecture"] != "x86_64" or any(able.get(one) for one in ("avx512_vnni", "avx_vnni", "amx_int8"))
