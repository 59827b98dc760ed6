"""Engines: each gives the reference's answers as closely as it claims, whatever is in the batch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import openvino
import pytest
import torch
from torchvision.models.resnet import ResNet

from cxr.cuda_engine import CudaEngine
from cxr.engines import Engine, ReferenceEngine, load_engine
from cxr.errors import ModelError
from cxr.gate import ENGINES
from cxr.model import build, features
from cxr.openvino_graph import graph_of
from cxr.preprocess import normalise
from cxr.spec import Preprocessing
from tests.cxr.networks import SMALL, lively, small_network

CPU = torch.device("cpu")
BFLOAT16 = "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


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
    for count in (1, 2, 3, 5):  # a batch after a larger one: what that left behind is not seen
        assert apart(engine, network, films[:count]) < 1e-5


@pytest.mark.parametrize("name", ["cuda-bfloat16", "cuda-float16"])
def test_the_gpus_engine_gives_float32_to_the_head_whatever_it_multiplies(name: str, films: torch.Tensor) -> None:
    network = small_network()
    engine = CudaEngine(name, network, SMALL, CPU, sizes=(8,))
    assert engine.features(films).dtype == torch.float32
    assert 1e-5 < apart(engine, network, films) < 3e-2


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


def test_an_engine_is_refused_where_it_does_not_run() -> None:
    with pytest.raises(ModelError, match="does not run on cpu"):
        load_engine("cuda-float32", small_network(), SMALL, CPU)
    with pytest.raises(ModelError, match="known are torch-float32, openvino-float32"):
        load_engine("tensorrt", small_network(), SMALL, CPU)


def test_int8_without_its_files_says_what_makes_them(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"training\.quantise"):
        load_engine("openvino-int8", small_network(), SMALL, CPU, tmp_path)


def test_the_reference_sees_what_a_tensor_of_floats_would_hold() -> None:
    preprocessing = Preprocessing(size=32)
    grey = torch.arange(256, dtype=torch.uint8).repeat(4).reshape(1, 32, 32)
    expected = [
        (grey[0].numpy() / np.float32(255.0) - m) / s
        for m, s in zip(preprocessing.mean, preprocessing.std, strict=True)
    ]
    np.testing.assert_allclose(normalise(grey, preprocessing)[0].numpy(), expected, atol=1e-6)
