"""Where the backbone starts: the download's real path, its failure, and random weights that carry a signal."""

from __future__ import annotations

import hashlib
import urllib.error
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torchvision.models import ResNet152_Weights

from cxr.model.network import build
from cxr_training import train
from cxr_training.data.records import load_films
from cxr_training.errors import TrainingError
from cxr_training.fit.features import View
from cxr_training.fit.settings import HeadSettings, TrainSettings
from cxr_training.fit.weights import _check_kept, reestimate_batchnorm, starting_point
from tests.cxr.networks import SMALL
from tests.cxr_training.folders import write_manifest

CPU = torch.device("cpu")


def no_network(*_: Any, **__: Any) -> None:
    raise urllib.error.URLError("no route to host")


def test_imagenet_means_torchvisions_best_weights_of_the_architecture(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []

    def get_state_dict(self: ResNet152_Weights, *_: Any, **__: Any) -> dict[str, torch.Tensor]:
        asked.append(self)
        torch.manual_seed(9)
        return build("resnet152", 1000).state_dict()

    monkeypatch.setattr(ResNet152_Weights, "get_state_dict", get_state_dict)
    start = starting_point("imagenet", "resnet152", 0)
    assert asked == [ResNet152_Weights.IMAGENET1K_V2]
    assert start.pretrained == "imagenet"
    assert start.network.fc.out_features == 2


def test_a_failed_download_names_the_three_ways(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.hub.download_url_to_file", no_network)
    monkeypatch.setattr("torch.hub.get_dir", lambda: "/nonexistent-cache")
    monkeypatch.setattr("torch.hub.os.makedirs", lambda *_, **__: None)
    with pytest.raises(TrainingError) as caught:
        starting_point("imagenet", "resnet18", 0)
    for way in ("WEIGHTS=imagenet", "WEIGHTS=FILE.pth", "WEIGHTS=random"):
        assert way in str(caught.value)


def test_only_or_random_goes_on_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("torchvision.models.resnet.ResNet18_Weights.get_state_dict", no_network)
    films = load_films(write_manifest(tmp_path / "data", 4))
    settings = TrainSettings(arch="resnet18", size=64, views=0, head=HeadSettings(epochs=2))
    with pytest.raises(TrainingError, match="could not be downloaded"):
        train.train(films, tmp_path / "run", settings, device="cpu")
    assert not (tmp_path / "run").exists()
    settings = TrainSettings(arch="resnet18", size=64, views=0, head=HeadSettings(epochs=2), or_random=True)
    record = train.train(films, tmp_path / "run", settings, device="cpu")
    assert record.pretrained == "random"
    assert "RANDOM weights" in capsys.readouterr().err


def test_an_architecture_without_imagenet_weights_says_so() -> None:
    with pytest.raises(TrainingError, match="no ImageNet weights for resnet10"):
        starting_point("imagenet", "resnet10", 0)


def test_a_file_that_is_no_state_dict_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    path.write_bytes(b"not weights")
    with pytest.raises(TrainingError, match="not a readable state dict"):
        starting_point(str(path), "resnet10", 0)
    torch.save(build("resnet10", 2), path)  # the pickled model instead of its state dict
    with pytest.raises(TrainingError, match=r"weights\.pth"):
        starting_point(str(path), "resnet10", 0)


def test_a_state_dict_with_keys_left_over_is_refused(tmp_path: Path) -> None:
    state = build("resnet10", 2).state_dict()
    torch.save({**state, "classifier.weight": torch.zeros(2, 512)}, tmp_path / "two-heads.pth")
    with pytest.raises(TrainingError, match=r"classifier\.weight"):
        starting_point(str(tmp_path / "two-heads.pth"), "resnet10", 0)


def test_reestimated_statistics_are_those_of_the_films(tmp_path: Path) -> None:
    records = load_films(write_manifest(tmp_path, 8)).of("train")
    network = starting_point("random", "resnet10", 0).network
    weights = {name: tensor.clone() for name, tensor in network.named_parameters()}
    reestimate_batchnorm(network, records, SMALL, CPU, batch_size=8)
    with torch.inference_mode():
        stem = network.conv1(torch.stack([View().tensor(record, SMALL) for record in records]))
    norm = network.bn1
    assert isinstance(norm, nn.BatchNorm2d)
    assert norm.running_mean is not None
    torch.testing.assert_close(norm.running_mean, stem.mean(dim=(0, 2, 3)), atol=1e-4, rtol=1e-3)
    assert norm.momentum == 0.1
    assert not any(module.training for module in network.modules())
    assert all(torch.equal(tensor, weights[name]) for name, tensor in network.named_parameters())


def test_kept_imagenet_weights_are_held_against_the_digest_in_their_name(tmp_path: Path) -> None:
    data = b"weights"
    right = tmp_path / f"resnet152-{hashlib.sha256(data).hexdigest()[:8]}.pth"
    right.write_bytes(data)
    _check_kept(right)
    right.write_bytes(data[:-1] + b"S")
    with pytest.raises(TrainingError, match=r"damaged.*remove it"):
        _check_kept(right)
