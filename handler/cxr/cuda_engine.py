"""The network on a GPU: BatchNorm folded, channels last, in float32, bfloat16 or float16.

Batches are padded to one of a few sizes, and each size is one CUDA graph that is recorded before the first film comes:
hundreds of small kernels are then started by one call. Films travel as bytes, from pinned memory, and become tensors on
the GPU.

This has not been run on a GPU; on the CPU, where nothing is recorded, its padding and arithmetic are tested.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import torch
from torchvision.models.resnet import ResNet

from cxr.gate import kind_of
from cxr.model import features, folded, use_exact_float32
from cxr.preprocess import normalise
from cxr.spec import Preprocessing

SIZES: Final = (1, 2, 4, 8, 16, 32, 64)  # films in one pass
_WARMING: Final = 3  # passes before one is recorded: cuDNN tries its algorithms in the first


class CudaEngine:
    """One recorded pass for each size of batch.

    Parameters
    ----------
    name
        One of `cxr.gate.ENGINES`.
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
        self._preprocessing = preprocessing
        self._device = device
        self._dtype: torch.dtype = getattr(torch, kind_of(name).precision)
        self._network = folded(network).to(device, self._dtype, memory_format=torch.channels_last)
        use_exact_float32()
        with torch.inference_mode():
            self._passes = {size: self._prepare(size) for size in reversed(sizes)}  # the largest takes the memory

    def features(self, grey: torch.Tensor) -> torch.Tensor:
        """As `cxr.engines.Engine.features`."""
        use_exact_float32()
        size = min(size for size in self._passes if size >= len(grey))
        with torch.inference_mode():
            return self._passes[size](grey)[: len(grey)].float().clone()

    def _prepare(self, size: int) -> Callable[[torch.Tensor], torch.Tensor]:
        """A pass for batches of up to `size` films."""
        side = self._preprocessing.size
        on_gpu = self._device.type == "cuda"
        host = torch.zeros(size, side, side, dtype=torch.uint8, pin_memory=on_gpu)
        films = torch.zeros_like(host, device=self._device)
        run = self._record(films) if on_gpu else lambda: self._forward(films)

        def step(grey: torch.Tensor) -> torch.Tensor:
            host[: len(grey)].copy_(grey)  # what an earlier batch left behind it is computed and thrown away
            films.copy_(host, non_blocking=on_gpu)
            return run()

        return step

    def _forward(self, films: torch.Tensor) -> torch.Tensor:
        tensors = normalise(films, self._preprocessing)
        return features(self._network, tensors.to(self._dtype, memory_format=torch.channels_last))

    def _record(self, films: torch.Tensor) -> Callable[[], torch.Tensor]:
        """The pass over `films` as one CUDA graph, by the recipe of torch's notes on CUDA graphs."""
        aside = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        aside.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(aside), torch.backends.cudnn.flags(benchmark=True, allow_tf32=False):
            for _ in range(_WARMING):
                self._forward(films)
        torch.cuda.current_stream(self._device).wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.backends.cudnn.flags(benchmark=True, allow_tf32=False), torch.cuda.graph(graph):
            out = self._forward(films)

        def replay() -> torch.Tensor:
            graph.replay()
            return out

        return replay
