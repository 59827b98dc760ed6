"""Engines: each gives the reference's answers as closely as it claims, whatever is in the batch."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision.models.resnet import ResNet

from cxr.engines.cuda import CudaEngine, _tuned_cudnn
from cxr.engines.load import Engine, ReferenceEngine, load_engine
from cxr.engines.openvino import OpenVinoEngine, core, graph_of, openvino, ops
from cxr.errors import ModelError
from cxr.model.network import build, features
from cxr.model.parity import ENGINES
from cxr.model.preprocess import normalise
from cxr.model.spec import Preprocessing
from tests.cxr.networks import SMALL, lively, small_network

ROOT = Path(__file__).parents[3]
CPU = torch.device("cpu")
BFLOAT16 = "BF16" in core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


@pytest.fixture
def films() -> torch.Tensor:
    generator = torch.Generator().manual_seed(5)
    return torch.randint(0, 256, (5, SMALL.size, SMALL.size), dtype=torch.uint8, generator=generator)


def apart(engine: Engine, network: ResNet, films: torch.Tensor) -> float:
    """The largest difference from torch, as a share of the largest feature."""
    with torch.inference_mode():
        expected = features(network, normalise(films, SMALL))
        return float((engine.features(films) - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize("arch", ["resnet10", "resnet34", "resnet50"])
def test_openvinos_float32_differs_from_torch_by_rounding(arch: str, films: torch.Tensor) -> None:
    network = lively(build(arch, 2))
    assert apart(load_engine("openvino-float32", network, SMALL, CPU), network, films) < 1e-5


def test_the_graph_is_for_the_size_of_the_spec() -> None:
    model = graph_of(small_network(), 96)
    assert list(model.input(0).shape) == [1, 3, 96, 96]
    assert list(model.output(0).shape) == [1, 512, 3, 3]


def test_making_the_graph_leaves_the_network_as_it_is() -> None:
    network = small_network()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    graph_of(network, 64)
    after = network.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


@pytest.mark.parametrize(("reach", "is_beyond"), [(1.0, False), (1.001, True), (math.nan, True)])
def test_a_film_whose_graph_tells_that_it_reaches_too_far_gets_no_features(
    reach: float, is_beyond: bool, films: torch.Tensor
) -> None:
    film = ops.parameter([1, 3, SMALL.size, SMALL.size], np.float32)
    told = ops.constant(np.float32(reach))
    told.output(0).set_names({"reach"})
    model = openvino.Model([ops.result(ops.relu(film)), ops.result(told)], [film])
    features = OpenVinoEngine("openvino-float32", model, SMALL).features(films[:2])
    assert bool(features.isnan().all()) == is_beyond
    assert bool(features.isfinite().all()) != is_beyond


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_a_film_gets_the_same_features_alone_and_in_any_batch(threads: int, films: torch.Tensor) -> None:
    usual = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        engine = load_engine("openvino-float32", small_network(), SMALL, CPU)
    finally:
        torch.set_num_threads(usual)
    together = engine.features(films)
    for index in range(len(films)):
        assert torch.equal(engine.features(films[index : index + 1])[0], together[index])


@pytest.mark.skipif(not BFLOAT16, reason="this processor has no bfloat16 arithmetic")
def test_bfloat16_is_near_and_not_the_same(films: torch.Tensor) -> None:
    network = small_network()
    assert 1e-5 < apart(load_engine("openvino-bfloat16", network, SMALL, CPU), network, films) < 3e-2


def test_the_gpus_engine_pads_a_batch_and_gives_each_film_its_own_answer(films: torch.Tensor) -> None:
    network = small_network()
    engine = CudaEngine("cuda-float32", network, SMALL, CPU, sizes=(1, 2, 4, 8))
    assert engine.max_batch == 8
    assert apart(engine, network, films) < 1e-5
    for count in (1, 2, 4, 3, 5):  # three after four: what those left behind is not seen
        assert apart(engine, network, films[:count]) < 1e-5


@pytest.mark.parametrize("name", ["cuda-bfloat16", "cuda-float16"])
def test_the_gpus_engine_gives_float32_to_the_head_whatever_it_multiplies(name: str, films: torch.Tensor) -> None:
    network = small_network()
    engine = CudaEngine(name, network, SMALL, CPU, sizes=(8,))
    assert engine.features(films).dtype == torch.float32
    assert 1e-5 < apart(engine, network, films) < 3e-2


class Seen(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Collects the names of the operations that are carried out."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))


def test_a_pass_that_is_recorded_makes_no_tensor_of_pythons_numbers(films: torch.Tensor) -> None:
    """Such a tensor is copied from the host, and the copy is waited for: CUDA refuses both while it records."""
    engine = CudaEngine("cuda-float32", small_network(), SMALL, CPU, sizes=(8,))
    with torch.inference_mode():
        with Seen() as seen:
            normalise(films, SMALL)
        assert "aten.lift_fresh.default" in seen.names  # what the next lines would find
        with Seen() as seen:
            engine._forward(films)
    assert any("conv" in name for name in seen.names)
    assert "aten.lift_fresh.default" not in seen.names


def test_passes_are_recorded_with_cudnn_and_without_tf32() -> None:
    cudnn = torch.backends.cudnn
    with _tuned_cudnn():
        assert (cudnn.enabled, cudnn.benchmark, cudnn.allow_tf32) == (True, True, False)


def test_a_gpu_without_room_for_the_engine_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> CudaEngine:
        raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 2 GiB")

    monkeypatch.setattr("cxr.engines.cuda.CudaEngine", fail)
    with pytest.raises(ModelError, match=r"out of memory\.\): start fewer workers, or export with --cuda-engine torch"):
        load_engine("cuda-float32", small_network(), SMALL, torch.device("cuda"))


@pytest.mark.gpu
def test_recorded_passes_of_all_sizes_one_right_after_another_do_not_disturb_each_other(films: torch.Tensor) -> None:
    gpu = torch.device(f"cuda:{torch.cuda.device_count() - 1}")  # not the current one, where there are several
    network = small_network().to(gpu)
    engine = CudaEngine("cuda-float32", network, SMALL, gpu, sizes=(1, 2, 4, 8))
    reference = ReferenceEngine(network, SMALL, gpu)
    counts = (5, 1, 4, 3, 2, 5, 5, 1)
    batches = [films.roll(turn, 0)[:count] for turn, count in enumerate(counts)]
    with torch.inference_mode():
        got = [engine.features(batch) for batch in batches]
        expected = [reference.features(batch) for batch in batches]
    for one, other in zip(got, expected, strict=True):
        assert float((one - other).abs().max() / other.abs().max()) < 1e-5


@pytest.mark.gpu
@pytest.mark.parametrize("name", [name for name, kind in ENGINES.items() if kind.devices == ("cuda",)])
def test_a_recorded_pass_gives_what_torch_gives(name: str, films: torch.Tensor) -> None:
    gpu = torch.device("cuda")
    network = small_network().to(gpu)
    engine = load_engine(name, network, SMALL, gpu)
    with torch.inference_mode():
        expected = ReferenceEngine(network, SMALL, gpu).features(films)
        got = engine.features(films)
    limit = 1e-5 if name == "cuda-float32" else 3e-2
    assert float((got - expected).abs().max() / expected.abs().max()) < limit


def test_a_process_that_had_several_engines_still_answers_a_signal() -> None:
    code = (
        "import os, signal, torch\n"
        "from cxr.engines.load import load_engine\n"
        "from tests.cxr.networks import SMALL, small_network\n"
        "def load(): return load_engine('openvino-float32', small_network(), SMALL, torch.device('cpu'))\n"
        "first, second = load(), load()\n"
        "del first; del second\n"
        "signal.signal(signal.SIGTERM, lambda *_: print('asked to stop'))\n"
        "os.kill(os.getpid(), signal.SIGTERM)\n"
    )
    paths = {**os.environ, "PYTHONPATH": f"{ROOT / 'handler'}"}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=paths, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "asked to stop\n"), done.stderr


def test_an_engine_is_refused_where_it_does_not_run() -> None:
    with pytest.raises(ModelError, match="does not run on cpu"):
        load_engine("cuda-float32", small_network(), SMALL, CPU)
    with pytest.raises(ModelError, match="known are torch-float32, openvino-float32"):
        load_engine("tensorrt", small_network(), SMALL, CPU)


def test_int8_without_its_files_says_what_makes_them(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"pneumoscan quantise"):
        load_engine("openvino-int8", small_network(), SMALL, CPU, tmp_path)


def test_the_reference_sees_what_a_tensor_of_floats_would_hold() -> None:
    preprocessing = Preprocessing(size=32)
    grey = torch.arange(256, dtype=torch.uint8).repeat(4).reshape(1, 32, 32)
    expected = [
        (grey[0].numpy() / np.float32(255.0) - m) / s
        for m, s in zip(preprocessing.mean, preprocessing.std, strict=True)
    ]
    np.testing.assert_allclose(normalise(grey, preprocessing)[0].numpy(), expected, atol=1e-6)
