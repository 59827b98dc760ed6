"""Make the network in int8 for a CPU: convolutions in 8 bits, calibrated on training films, the head left out of it.

Leaves `int8.xml` and `int8.bin` in the run. Whether it may serve is decided by pneumoscan calibrate with --engine
openvino-int8, which compares it with the reference on the validation films.

How it is quantised was chosen by its heat maps. The residual stream, which every block adds to, keeps its bits, because
its rounding would add up over fifty blocks; so do the parts named by --keep. Ranges reach to the largest activation
of any of the films: NNCF's default, the mean of the films' largest, cuts off what a few films stand out by. Channels
are evened out before (cxr_training.fit.equalise).
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch

from cxr.errors import ModelError
from cxr.model.network import backbone_digest, folded
from cxr.model.parity import INT8_FILES
from cxr.model.preprocess import to_tensor
from cxr.predict import Predictor
from cxr_training.data.progress import progress_bar
from cxr_training.data.records import Record
from cxr_training.errors import TrainingError
from cxr_training.fit.equalise import equalise, ranges_of
from pneumoscan.files import write_whole

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
    # Its makers count uses of NNCF and OpenVINO over the network; as in their own tests, nothing is sent.
    os.environ["NNCF_CI"] = "1"
    try:
        import nncf
        import openvino
        from nncf.quantization.range_estimator import RangeEstimatorParametersSet

        from cxr.engines.openvino import DIGEST_KEY, graph_of_folded, watch
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
        for made in (weights, graph):  # the graph last: where it is, its weights are
            write_whole(run / made.name, functools.partial(_copy, made))


def _copy(source: Path, target: Path) -> None:
    shutil.copyfile(source, target)


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
