"""Two processes that train one model: the result of one process, on CPUs through gloo."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from cxr.model.network import build, read_state_dict
from cxr.model.preprocess import to_tensor
from cxr.model.spec import Preprocessing
from cxr_training.data.records import load_films
from tests.cxr_training.folders import write_manifest

ROOT = Path(__file__).parents[3]


def train(count: int, data: Path, run: Path, *more: str) -> subprocess.CompletedProcess[str]:
    """One training by some processes, with a cache of its own."""
    # without "--" torchrun takes --run for one of its own options
    many = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}", "-m", "--"]
    command = [sys.executable, *(many if count > 1 else ["-m"]), "pneumoscan", "train", "--data", str(data)]
    command += ["--run", str(run), *more]
    command += ["--weights", "random", "--arch", "resnet10", "--size", "64", "--device", "cpu"]
    # torchrun leaves a folder of logs behind
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TMPDIR": str(run.parent)}
    run.parent.mkdir(parents=True, exist_ok=True)
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False)


def scores(run: Path, data: Path) -> tuple[np.ndarray, np.ndarray]:
    """Targets and logit differences of the test films."""
    network = build("resnet10", 2)
    network.load_state_dict(read_state_dict(run / "checkpoint.pth"))
    records = load_films(data).of("test")
    with torch.inference_mode():
        logits = network(torch.stack([to_tensor(record.read(), Preprocessing(size=64)) for record in records]))
    return np.array([record.target for record in records]), (logits[:, 1] - logits[:, 0]).numpy()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("trainable", "more"),
    [
        ("head", []),
        ("layer4", ["--epochs", "3", "--batch-size", "8"]),
        ("all", ["--epochs", "3", "--batch-size", "7", "--balance", "source"]),
    ],
)
def test_two_processes_train_what_one_does(trainable: str, more: list[str], tmp_path: Path) -> None:
    data = write_manifest(tmp_path / "data", 15)
    found = {}
    for count in (1, 2):
        run = tmp_path / f"by-{count}" / "run"
        done = train(count, data, run, "--trainable", trainable, *more)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("best epoch") == count - count // 2  # the first process alone speaks
        assert json.loads((run / "run.json").read_text(encoding="utf-8"))["result"]["processes"] == count
        assert not list(run.glob("*unfinished*"))
        found[count] = scores(run, data)
    targets = found[1][0]
    assert abs(roc_auc_score(targets, found[1][1]) - roc_auc_score(targets, found[2][1])) <= 0.002
    np.testing.assert_allclose(found[2][1], found[1][1], atol=0.02 * np.abs(found[1][1]).max())


@pytest.mark.slow
def test_a_mistake_is_told_and_ends_all_processes(tmp_path: Path) -> None:
    done = train(2, write_manifest(tmp_path / "data", 4), tmp_path / "run", "--learning-rate", "-1")
    assert done.returncode != 0
    assert "learning rate is -1.0" in done.stderr
