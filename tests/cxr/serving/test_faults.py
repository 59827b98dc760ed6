"""When memory runs out or the GPU is lost: every film that can be answered is, and the process ends if it has to."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import weakref
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from cxr.films.film import Pixels
from cxr.model.spec import Preprocessing
from cxr.predict import Prediction, Predictor
from cxr.serving.faults import DeviceLostError, is_alive, is_out_of_memory, predict_each, where
from cxr.serving.reply import ModelIdentity
from cxr.serving.service import BatchService, IncomingRequest
from tests.cxr.networks import predictor, save_model
from tests.films import encoded, film

# A process with too little address space for a pass over 32 films, and enough for a few.
SCARCE = """
import json, resource, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from cxr.serving.faults import predict_each
from cxr.predict import Predictor
from tests.films import film
predictor = Predictor.load(Path(sys.argv[1]), "cpu")
films = [film(seed, 224, 224) for seed in range(32)]
alone = [predictor.predict([one])[0] for one in films]
sizes = []
def watched(batch, predict=predictor.predict):
    sizes.append(len(batch))
    return predict(batch)
predictor.predict = watched
now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (now + 80_000_000, -1))
said = predict_each(predictor, films)
print(json.dumps({
    "sizes": sizes,
    "apart": max(abs(float(a.probabilities[1] - b.probabilities[1])) for a, b in zip(alone, said)),
}))
"""


def scarce(predictor: Predictor, most: int, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Let a pass over more than `most` films fail as a GPU's does; the sizes that were tried."""
    sizes: list[int] = []
    real = predictor.predict

    def predict(films: Sequence[Pixels]) -> list[Prediction]:
        sizes.append(len(films))
        if len(films) > most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return real(films)

    monkeypatch.setattr(predictor, "predict", predict)
    return sizes


@pytest.fixture
def small(tmp_path: Path) -> Predictor:
    save_model(tmp_path)
    return predictor(tmp_path)


def test_a_batch_too_large_for_the_memory_is_halved_until_it_fits(
    small: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    films = [film(seed) for seed in range(7)]
    expected = small.predict(films)
    sizes = scarce(small, 2, monkeypatch)
    said = predict_each(small, films)
    assert sizes == [7, 3, 1, 2, 4, 2, 2]
    for one, other in zip(said, expected, strict=True):
        assert isinstance(one, Prediction)
        np.testing.assert_allclose(one.probabilities, other.probabilities, atol=1e-6)


def test_a_film_that_does_not_fit_alone_is_the_only_one_refused(
    small: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, large = small.predict, film(2)

    def predict(films: Sequence[Pixels]) -> list[Prediction]:
        if any(one is large for one in films):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return real(films)

    monkeypatch.setattr(small, "predict", predict)
    first, second, third = predict_each(small, [film(1), large, film(3)])
    assert isinstance(first, Prediction)
    assert isinstance(third, Prediction)
    assert isinstance(second, torch.OutOfMemoryError)
    assert is_out_of_memory(second)


def test_a_failed_pass_leaves_nothing_in_memory(small: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    held: list[weakref.ref[torch.Tensor]] = []

    def predict(_: Sequence[Pixels]) -> list[Prediction]:
        tensor = torch.zeros(10)
        held.append(weakref.ref(tensor))
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(small, "predict", predict)
    gc.disable()
    try:
        said = predict_each(small, [film(1), film(2)])
        assert [one() for one in held] == [None] * 3
    finally:
        gc.enable()
    assert ["predict:" in where(one) for one in said if isinstance(one, Exception)] == [True, True]


def test_a_full_gpu_is_not_taken_for_a_lost_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(error: Exception) -> None:
        def ones(*_: object, **__: object) -> torch.Tensor:
            raise error

        monkeypatch.setattr(torch, "ones", ones)

    fail(torch.OutOfMemoryError("CUDA out of memory."))
    assert is_alive(torch.device("cuda"))
    fail(RuntimeError("CUDA error: an illegal memory access was encountered"))
    assert not is_alive(torch.device("cuda"))


def test_a_film_the_network_fails_on_does_not_cost_the_others_their_answers(
    small: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, bad = small.predict, film(3)

    def predict(films: Sequence[Pixels]) -> list[Prediction]:
        if any(one is bad for one in films):
            raise ValueError("no such film")
        return real(films)

    monkeypatch.setattr(small, "predict", predict)
    said = predict_each(small, [film(1), film(2), bad, film(4)])
    assert [type(one) for one in said] == [Prediction, Prediction, ValueError, Prediction]


@pytest.mark.slow
def test_a_process_that_really_runs_out_of_memory_still_answers_every_film(tmp_path: Path) -> None:
    save_model(tmp_path, preprocessing=Preprocessing())
    done = subprocess.run([sys.executable, "-c", SCARCE, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["sizes"][0] == 32
    assert len(said["sizes"]) > 1, "the memory was enough: the test shows nothing"
    assert said["apart"] <= 1e-5


@pytest.mark.parametrize(
    ("error", "is_memory"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory."), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory: 8 bytes"), True),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), False),
        (ValueError("can't allocate memory"), False),
    ],
)
def test_failed_allocations_are_told_from_other_faults(error: Exception, is_memory: bool) -> None:
    assert is_out_of_memory(error) is is_memory


def lose_the_device(predictor: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    def predict(_: Sequence[Pixels]) -> list[Prediction]:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(predictor, "predict", predict)
    monkeypatch.setattr("cxr.serving.faults.is_alive", lambda _: False)


def test_a_lost_device_is_told_from_a_film_that_fails(small: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    lose_the_device(small, monkeypatch)
    with pytest.raises(DeviceLostError):
        predict_each(small, [film()])
    monkeypatch.setattr("cxr.serving.faults.is_alive", lambda _: True)
    assert [type(one) for one in predict_each(small, [film()])] == [RuntimeError]


def test_the_films_of_a_lost_device_may_be_sent_again(small: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    service = BatchService(small, ModelIdentity.of(small.spec, "pneumonia", "1.0.0"))
    lose_the_device(small, monkeypatch)
    replies = service.answer([IncomingRequest({"body": body}, {}, "id") for body in (encoded(film()), b"GIF89a")])
    bodies = [json.loads(reply.body) for reply in replies]
    assert [(body["code"], body["retryable"]) for body in bodies] == [("WORKER_LOST", True), ("UNKNOWN_FORMAT", False)]
    assert service.is_lost


@pytest.mark.gpu
def test_a_failed_assertion_on_the_gpu_is_a_lost_device() -> None:
    code = (
        "import torch; from cxr.serving.faults import is_alive; gpu = torch.device('cuda'); assert is_alive(gpu)\n"
        "try:\n    torch.zeros(2, device=gpu)[torch.tensor([9], device=gpu)].cpu()\nexcept RuntimeError:\n    pass\n"
        "print('lost' if not is_alive(gpu) else 'alive')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env={**os.environ})
    assert done.stdout.strip() == "lost"
