"""The network on a CPU by OpenVINO, in float32, bfloat16 or int8.

A graph in int8 can hold no activation beyond what the films reached that its ranges were made with, and tells when one
is: such a film, about one in a hundred, gets NaN instead of features.

Every film is a pass of its own: a batch gains nothing on a CPU, and so a film's answer cannot depend on what else is in
it. As many passes run side by side as torch has threads.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import openvino
import torch
from openvino import Model
from openvino import opset13 as ops
from torch import nn
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

from cxr.errors import ModelError
from cxr.model.network import backbone_digest, folded
from cxr.model.parity import INT8_FILES, kind_of
from cxr.model.preprocess import normalise
from cxr.model.spec import Preprocessing

_STAGES: Final = ("layer1", "layer2", "layer3", "layer4")

Node = Any  # the nodes of OpenVINO 2026.4 have no types


def graph_of(network: ResNet, size: int, layer: str = _STAGES[-1]) -> Model:
    """The graph of a network, for one film.

    Parameters
    ----------
    network
        In evaluation mode, on the CPU; it is left as it is.
    size
        Height and width of the tensor, pixels.
    layer
        Whose output it gives.

    Returns
    -------
    A model from ``films``, (1, 3, size, size) float32, to ``features``, (1, C, size/32, size/32) float32; for layer3
    of half the channels and twice the cells.
    """
    return graph_of_folded(folded(network), size, {}, layer)


def graph_of_folded(plain: ResNet, size: int, factors: Mapping[str, torch.Tensor], layer: str = _STAGES[-1]) -> Model:
    """As `graph_of`, of a network as `cxr.model.network.folded` gives it.

    Parameters
    ----------
    factors
        By name of a block, what the channels of its input are multiplied by before its convolutions read it, (C,); its
        shortcut takes the input as it is.
    """
    films = ops.parameter([1, 3, size, size], np.float32, name="films")
    x = ops.relu(_convolution(films, plain.conv1, "conv1"))
    pooling = plain.maxpool
    kernel, stride, padding = (_pair(value) for value in (pooling.kernel_size, pooling.stride, pooling.padding))
    x = ops.max_pool(x, stride, [1, 1], padding, padding, kernel).output(0)
    for stage in _STAGES[: _STAGES.index(layer) + 1]:
        for number, block in enumerate(getattr(plain, stage)):
            name = f"{stage}.{number}"
            x = _block(x, block, name, factors.get(name))
    features = ops.result(x)
    features.set_friendly_name("features")
    return Model([features], [films], "resnet")


def watch(model: Model, limits: Mapping[str, float]) -> None:
    """Add the output ``reach`` to a graph: the largest activation at some places, as a share of what is let pass there.

    Parameters
    ----------
    limits
        By name of a block, the largest output it may give.
    """
    outputs = {node.get_friendly_name(): node.output(0) for node in model.get_ops()}
    axes = ops.constant(np.arange(4))
    shares = [
        ops.divide(ops.reduce_max(outputs[f"{name}.output"], axes, keep_dims=True), ops.constant(np.float32(limit)))
        for name, limit in limits.items()
    ]
    reach = ops.reduce_max(ops.concat(shares, 0), axes, keep_dims=False)
    reach.output(0).set_names({"reach"})
    model.add_results([ops.result(reach)])


def _block(x: Node, block: nn.Module, name: str, factors: torch.Tensor | None) -> Node:
    """One residual block."""
    assert isinstance(block, BasicBlock | Bottleneck)
    parts = ("conv1", "conv2", "conv3") if isinstance(block, Bottleneck) else ("conv1", "conv2")
    read = x
    if factors is not None:
        read = ops.multiply(x, ops.constant(factors.numpy().reshape(1, -1, 1, 1)), name=f"{name}.factors")
    y = read
    for part in parts[:-1]:
        y = ops.relu(_convolution(y, getattr(block, part), f"{name}.{part}"))
    y = _convolution(y, getattr(block, parts[-1]), f"{name}.{parts[-1]}")
    shortcut = x if block.downsample is None else _convolution(read, block.downsample, f"{name}.downsample")
    return ops.relu(ops.add(y, shortcut, name=f"{name}.add"), name=f"{name}.output")


def _convolution(x: Node, convolution: nn.Module, name: str) -> Node:
    """A convolution with its bias; both bear the name of the module."""
    assert isinstance(convolution, nn.Conv2d)
    assert convolution.groups == 1, "no ResNet of torchvision's own kind has groups"
    assert convolution.bias is not None, "a folded BatchNorm leaves a bias"
    padding = _pair(convolution.padding)
    weight = ops.constant(convolution.weight.detach().contiguous().numpy())
    bias = ops.constant(convolution.bias.detach().numpy().reshape(1, -1, 1, 1))
    stride, dilation = _pair(convolution.stride), _pair(convolution.dilation)
    product = ops.convolution(x, weight, stride, padding, padding, dilation, name=name)
    return ops.add(product, bias, name=f"{name}.bias")


def _pair(value: Any) -> list[int]:
    return [value, value] if isinstance(value, int) else list(value)


DIGEST_KEY: Final = "backbone_sha256"
_MARK: Final = b"<!-- sha256 "
# int8: what is not quantised stays in float32, on every processor alike.
_HINTS: Final = {"float32": "f32", "bfloat16": "bf16", "int8": "f32"}


def int8_mark(graph: bytes, weights: bytes) -> bytes:
    """The last line of a graph's file, a comment with the SHA-256 of what stands before it and of its weights."""
    digest = hashlib.sha256(graph)
    digest.update(weights)
    return _MARK + digest.hexdigest().encode() + b" -->\n"


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
        graph, weights = ((folder / file).read_bytes() for file in INT8_FILES)
        body, mark, _ = graph.rpartition(_MARK)
        if mark and graph != body + int8_mark(body, weights):
            raise ModelError(f"{folder}: {' or '.join(INT8_FILES)} is damaged: run pneumoscan quantise again")
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
        return torch.from_numpy(self.compute(normalise(grey, self._preprocessing).numpy()))

    def compute(self, films: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """What the graph gives: (B, 3, S, S) → (B, C, h, w); NaN for a film that it cannot compute."""
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
        return out


def adds_int8_exactly() -> bool:
    """Whether the processor adds products of 8-bit numbers in 32 bits; x86 before VNNI adds pairs of them in 16."""
    able = torch.cpu.get_capabilities()
    return able["architecture"] != "x86_64" or any(able.get(one) for one in ("avx512_vnni", "avx_vnni", "amx_int8"))
