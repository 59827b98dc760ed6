"""Faults of the machine and not of the film: no memory left, or a GPU that no longer answers."""

from __future__ import annotations

import gc
import traceback
from collections.abc import Sequence
from typing import Final

import torch

from cxr.errors import CxrError
from cxr.films.film import Pixels
from cxr.predict import Prediction, Predictor

# How torch 2.12 words a failed allocation that it raises as a plain RuntimeError; the primitives are those of oneDNN,
# which tells no cause.
_NO_MEMORY: Final = (
    "can't allocate memory",
    "not enough memory",
    "CUDA error: out of memory",
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUBLAS_STATUS_NOT_INITIALIZED",
    "could not create a primitive",
    "could not execute a primitive",
)


class DeviceLostError(CxrError):
    """The GPU fails every call from now on; only a new process gets it back."""


def predict_each(predictor: Predictor, films: Sequence[Pixels]) -> list[Prediction | Exception]:
    """One prediction for each film, or what went wrong with it; a batch that fails is tried again by halves.

    A batch can be too large for the memory where each half is not, and a fault of one film must not cost the others
    their answers.

    Raises
    ------
    DeviceLostError
        If the device does not answer any more.
    """
    try:
        return list(predictor.predict(films))
    except Exception as error:  # whatever torch and its libraries raise
        # The place instead of the traceback, which keeps the tensors of the failed pass alive.
        error.add_note(where(error))
        fault = error.with_traceback(None)
    gc.collect()
    if predictor.device.type == "cuda":
        torch.cuda.empty_cache()
    if not is_alive(predictor.device):
        raise DeviceLostError(f"{predictor.device} fails every call: the worker has to start anew") from fault
    if len(films) == 1:
        return [fault]
    half = len(films) // 2
    return predict_each(predictor, films[:half]) + predict_each(predictor, films[half:])


def is_out_of_memory(error: Exception) -> bool:
    """Whether an allocation failed, on the CPU or on a GPU."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(message in str(error) for message in _NO_MEMORY)


def is_alive(device: torch.device) -> bool:
    """Whether a device still adds two numbers.

    After an illegal access or a failed assertion every later CUDA call of the process fails too (CUDA Runtime API,
    section on error handling: "sticky" errors).
    """
    if device.type != "cuda":
        return True
    try:
        return float((torch.ones(1, device=device) + 1.0).cpu()[0]) == 2.0
    except torch.OutOfMemoryError:  # it is full, with which halves of the batch may do
        return True
    except RuntimeError:
        return False


def where(error: BaseException) -> str:
    """Function and line that raised an error, by its traceback or, where that was dropped, by what is noted of it."""
    frames = traceback.extract_tb(error.__traceback__)
    if frames:
        return f"{frames[-1].name}:{frames[-1].lineno}"
    return next(iter(getattr(error, "__notes__", ())), "an unknown place")
