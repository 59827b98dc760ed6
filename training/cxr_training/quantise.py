"""Make the network in int8 for a CPU: convolutions in 8 bits, calibrated on training films, the head left out of it.

Leaves `int8.xml` and `int8.bin` in the run. Whether it may serve is decided by pneumoscan calibrate with --engine
openvino-int8, which compares it with the reference on the validation films.

How it is quantised was chosen by its heat maps. The residual stream, which every block adds to, keeps its bits, because
its rounding would add up over fifty blocks; so do the parts named by --keep. Ranges reach to the largest activation
of any of the films: NNCF's default, the mean of the films' largest, cuts off what a few films stand out by. All
channels of an activation share one step of rounding, which the widest of them sets; the narrow ones would be left with
a few of the 256 levels. So each channel is first divided by a factor of its own, and the weights that read it, which
have a step for each output channel and bits to spare, are multiplied by it: the network computes the same.

References
----------
Nagel, van Baalen, Blankevoort, Welling (2019): Data-Free Quantization Through Weight Equalization and Bias Correction.
ICCV, section 4.1: factors that pass through a ReLU. Xiao, Lin, Seznec, Wu, Demouth, Han (2023): SmoothQuant. ICML,
equation 4: how much of the unevenness goes into the weights.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import shutil
import sys
import tempfile
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

from cxr.errors import ModelError
from cxr.model.network import backbone_digest, features, folded
from cxr.model.parity import INT8_FILES
from cxr.model.preprocess import to_tensor
from cxr.predict import Predictor
from cxr_training.data.progress import progress_bar
from cxr_training.data.records import Record
from cxr_training.errors import TrainingError
from pneumoscan.files import write_whole

SHARE: Final = 0.65  # of the unevenness that goes into the weights; 0.5 and 0.75 were tried too and are little worse
_LEAST: Final = 1e-3  # of the widest channel: narrower ones count as this

Ranges = Mapping[str, torch.Tensor]


def ranges_of(plain: ResNet, tensors: Iterable[torch.Tensor]) -> dict[str, torch.Tensor]:
    """The largest size of each channel that a convolution in a block reads, or that a block gives, over some films.

    Parameters
    ----------
    plain
        As `cxr.model.network.folded` gives it, on the CPU.
    tensors
        Each (1, 3, S, S) float32.

    Returns
    -------
    (C,) for each, by the name of the convolution or the block.
    """
    found: dict[str, torch.Tensor] = {}

    def note(name: str, x: torch.Tensor) -> None:
        widest = x.abs().amax((0, 2, 3))
        found[name] = torch.maximum(found[name], widest) if name in found else widest

    hooks = [
        module.register_forward_hook(
            lambda module, inputs, output, name=name: note(name, inputs[0] if isinstance(module, nn.Conv2d) else output)
        )
        for name, module in plain.named_modules()
        if "." in name and isinstance(module, nn.Conv2d | BasicBlock | Bottleneck)
    ]
    with torch.inference_mode():
        for tensor in tensors:
            features(plain, tensor)
    for hook in hooks:
        hook.remove()
    return found


def equalise(plain: ResNet, ranges: Ranges, keep: Collection[str] = ()) -> dict[str, torch.Tensor]:
    """Change the weights of a folded network in place, so that its channels are more even.

    Parameters
    ----------
    plain
        As for `ranges_of`; afterwards it computes what it did only with the factors that are given back.
    ranges
        Of `ranges_of`.
    keep
        Stages that are left as they are: ``layer1`` to ``layer4``.

    Returns
    -------
    By name of the block, the factors its input has to be multiplied by before `conv1` and `downsample` read it, (C,);
    the shortcut takes it as it is. Inside a block no factor is left over.
    """
    left: dict[str, torch.Tensor] = {}
    with torch.no_grad():
        for name, block in plain.named_modules():
            if not isinstance(block, BasicBlock | Bottleneck) or name.partition(".")[0] in keep:
                continue
            parts = ["conv1", "conv2", *(["conv3"] if isinstance(block, Bottleneck) else [])]
            chain = [getattr(block, part) for part in parts]
            for writer, reader, part in zip(chain, chain[1:], parts[1:], strict=False):
                factors = _factors(ranges[f"{name}.{part}"], [reader])
                writer.weight *= factors[:, None, None, None]
                writer.bias *= factors
            readers = [chain[0]] if block.downsample is None else [chain[0], block.downsample]
            left[name] = _factors(ranges[f"{name}.conv1"], readers)
    return left


def _factors(widths: torch.Tensor, readers: Collection[nn.Conv2d]) -> torch.Tensor:
    """What the channels are multiplied by, (C,), once the weights that read them have been divided by it."""
    weights = torch.stack([reader.weight.abs().amax((0, 2, 3)) for reader in readers]).amax(0)
    factors = _bounded(weights) ** (1 - SHARE) / _bounded(widths) ** SHARE
    factors /= factors.log().mean().exp()
    for reader in readers:
        reader.weight /= factors[None, :, None, None]
    return factors


def _bounded(widths: torch.Tensor) -> torch.Tensor:
    return widths.clamp_min(max(float(widths.max()) * _LEAST, torch.finfo(torch.float32).tiny))


# Blocks whose output tells that a film reaches further than the films the ranges were made with: the first of a stage.
_WATCHED: Final = ("layer2.0", "layer3.0", "layer4.0")
_SEED: Final = 20


@torch.inference_mode()
def quantise(predictor: Predictor, records: Sequence[Record], run: Path, keep: Sequence[str], films: int) -> None:
    """Write the graph in int8 into the run folder.

    Parameters
    ----------
    predictor
        Of the checkpoint, by the reference, on the CPU.
    records
        Training films; `films` of them, drawn at random, set the ranges of the activations.
    keep
        Names of modules of the network that stay as they are.

    Raises
    ------
    TrainingError
        If NNCF is not installed.
    ModelError
        If `keep` names no module.
    """
    unknown = [name for name in keep if not hasattr(predictor.network, name)]
    if unknown:
        raise ModelError(f"--keep names {', '.join(unknown)}: parts of a ResNet are conv1, layer1 to layer4")
    try:
        import nncf  # after `cxr.engines`, which `cxr.predict` imports: it has nobody to tell
        import openvino
        from nncf.quantization.range_estimator import RangeEstimatorParametersSet

        from cxr.engines.openvino import DIGEST_KEY, graph_of_folded, int8_mark, watch
    except ImportError as error:
        raise TrainingError(f"int8 needs NNCF and OpenVINO ({error}): pip install 'pneumoscan[quantise]'") from error
    size = predictor.spec.preprocessing.size
    chosen = np.random.default_rng(_SEED).permutation(len(records))[:films]
    tensors = _Tensors([records[index] for index in chosen], predictor)
    plain = folded(predictor.network)
    ranges = ranges_of(plain, map(torch.from_numpy, progress_bar(tensors, "ranges", "film")))
    factors = equalise(plain, ranges, keep)
    kept = [r".*\.add", *(rf"{name}[.].*|{name}" for name in keep)]
    nncf.set_log_level(logging.WARNING)
    with contextlib.redirect_stdout(sys.stderr):  # its progress bars
        model: Any = nncf.quantize(
            graph_of_folded(plain, size, factors),
            nncf.Dataset(tensors),
            preset=nncf.QuantizationPreset.MIXED,
            subset_size=len(chosen),
            ignored_scope=nncf.IgnoredScope(patterns=kept, validate=False),
            advanced_parameters=nncf.AdvancedQuantizationParameters(
                # Weights of 7 bits would keep processors without VNNI from overflowing.
                overflow_fix=nncf.OverflowFix.DISABLE,
                activations_range_estimator_params=RangeEstimatorParametersSet.MINMAX,
                disable_bias_correction=True,  # with ranges as wide as these it made maps a little worse
            ),
        )
    watch(model, {name: float(ranges[name].max()) for name in _WATCHED if float(ranges[name].max()) > 0})
    model.set_rt_info(backbone_digest(predictor.network), DIGEST_KEY)
    with tempfile.TemporaryDirectory(prefix="cxr-int8-") as folder:
        graph, weights = (Path(folder) / name for name in INT8_FILES)
        openvino.serialize(model, graph, weights)
        with graph.open("ab") as stream:
            stream.write(int8_mark(graph.read_bytes(), weights.read_bytes()))
        for made in (weights, graph):  # the graph last: where it is, its weights are
            write_whole(run / made.name, functools.partial(shutil.copyfile, made))


class _Tensors:
    """The films as tensors, read at each pass: (1, 3, S, S) float32."""

    def __init__(self, records: Sequence[Record], predictor: Predictor) -> None:
        self._records = records
        self._preprocessing = predictor.spec.preprocessing

    def __len__(self) -> int:
        return len(self._records)

    def __iter__(self) -> Iterator[npt.NDArray[np.float32]]:
        for record in self._records:
            pixels = record.read(self._preprocessing.least_side)
            yield to_tensor(pixels, self._preprocessing)[None].numpy()
