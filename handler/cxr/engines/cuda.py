"""The network on a GPU: BatchNorm folded, channels last, in float32, bfloat16 or float16.

Batches are padded to one of a few sizes, and each size is one CUDA graph that is recorded before the first film comes:
hundreds of small kernels are then started by one call. Films travel as bytes, from pinned memory, and become tensors on
the GPU. The graphs share their memory, because they never run at the same time.

This has not been run on a GPU; on the CPU, where nothing is recorded, its padding and arithmetic are tested.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Final

import torch
import torch.nn.functional as F
from torchvision.models.resnet import ResNet

from cxr.model.network import features, folded, use_exact_float32
from cxr.model.parity import kind_of
from cxr.model.preprocess import normalise
from cxr.model.spec import Preprocessing

SIZES: Final = (1, 2, 4, 8, 16, 32)  # films in one pass
_WARMING: Final = 3  # passes before one is recorded: cuDNN tries its algorithms in the first


class CudaEngine:
    """One recorded pass for each size of batch.

    Parameters
    ----------
    name
        One of `cxr.model.parity.ENGINES`.
    network
        In evaluation mode; it is copied.
    preprocessing
        How films become tensors.
    device
        A GPU; on a CPU passes are computed as they come.
    sizes
        Rising numbers of films.
    """

    def __init__(
        self,
        name: str,
        network: ResNet,
        preprocessing: Preprocessing,
        device: torch.device,
        sizes: Sequence[int] = SIZES,
    ) -> None:
        self.name = name
        self.max_batch = max(sizes)
        self.sizes = sizes
        self._side = preprocessing.size
        self._device = device
        dtype: torch.dtype = getattr(torch, kind_of(name).precision)
        # What each grey becomes, (256, 3): a recording refuses numbers that a pass makes into tensors, because they are
        # copied from the host.
        greys = torch.arange(256, dtype=torch.uint8)[:, None, None]
        self._table = normalise(greys, preprocessing)[:, :, 0, 0].to(device, dtype)
        self._network = folded(network).to(device, dtype, memory_format=torch.channels_last)
        use_exact_float32()
        with torch.inference_mode(), _on(device):
            if device.type == "cuda":
                self._aside = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
                self._pool = torch.cuda.graph_pool_handle()
            self._passes = {size: self._prepare(size) for size in reversed(sizes)}  # the largest takes the memory

    def features(self, grey: torch.Tensor) -> torch.Tensor:
        """As `cxr.engines.load.Engine.features`."""
        use_exact_float32()
        size = min(size for size in self._passes if size >= len(grey))
        with torch.inference_mode():
            return self._passes[size](grey)[: len(grey)].to(torch.float32, copy=True)

    def _prepare(self, size: int) -> Callable[[torch.Tensor], torch.Tensor]:
        """A pass for batches of up to `size` films."""
        on_gpu = self._device.type == "cuda"
        host = torch.zeros(size, self._side, self._side, dtype=torch.uint8, pin_memory=on_gpu)
        films = torch.zeros_like(host, device=self._device)
        run = self._record(films) if on_gpu else lambda: self._forward(films)
        copied = torch.cuda.Event() if on_gpu else None  # type: ignore[no-untyped-call]

        def step(grey: torch.Tensor) -> torch.Tensor:
            if copied is not None:
                copied.synchronize()  # the batch before may still be on its way out of `host`
            host[: len(grey)].copy_(grey)  # what an earlier batch left behind it is computed and thrown away
            films.copy_(host, non_blocking=on_gpu)
            if copied is not None:
                copied.record(torch.cuda.current_stream(self._device))
            return run()

        return step

    def _forward(self, films: torch.Tensor) -> torch.Tensor:
        # (B, S, S, 3) seen as (B, 3, S, S) is channels last.
        return features(self._network, F.embedding(films.int(), self._table).permute(0, 3, 1, 2))

    def _record(self, films: torch.Tensor) -> Callable[[], torch.Tensor]:
        """The pass over `films` as one CUDA graph, by the recipe of torch's notes on CUDA graphs."""
        graph = torch.cuda.CUDAGraph()
        with _tuned_cudnn():
            self._aside.wait_stream(torch.cuda.current_stream(self._device))
            with torch.cuda.stream(self._aside):
                for _ in range(_WARMING):
                    self._forward(films)
            torch.cuda.current_stream(self._device).wait_stream(self._aside)
            with torch.cuda.graph(graph, pool=self._pool, stream=self._aside):
                out = self._forward(films)

        def replay() -> torch.Tensor:
            graph.replay()
            return out

        return replay


def _on(device: torch.device) -> AbstractContextManager[object]:
    """Make a GPU the current one: a recording is of the current one, whichever holds the tensors."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def _tuned_cudnn() -> AbstractContextManager[object]:
    """cuDNN with its fastest algorithms, in exact float32; torch 2.12's `flags` switches off what it is not told."""
    return torch.backends.cudnn.flags(enabled=True, benchmark=True, allow_tf32=False)
