"""Several processes that train one model together, as torchrun starts them; one process alone is the same with less.

torchrun says who is who through the environment: RANK, WORLD_SIZE, LOCAL_RANK. Gloo connects processes on CPUs, NCCL
those on GPUs. All of them see the same folders.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

import torch
import torch.distributed as dist
from torch import nn

from cxr.predict import resolve_device
from cxr_training.errors import TrainingError

_PATIENCE: Final = timedelta(hours=2)  # a process may wait while another extracts features of a whole data folder


@dataclass(frozen=True, slots=True)
class Processes:
    """This process among the others.

    Parameters
    ----------
    device
        Where this process computes.
    rank
        Its number, from 0; the first one writes files and prints.
    count
        How many there are.
    """

    device: torch.device
    rank: int = 0
    count: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this is the one that writes."""
        return self.rank == 0

    def wait(self) -> None:
        """Go on when all processes have come here."""
        if self.count > 1:
            dist.barrier()

    def agree(self, network: nn.Module, name: str) -> str:
        """Give every process the first one's weights, in place, and the name it has for them."""
        if self.count == 1:
            return name
        names = [name]
        dist.broadcast_object_list(names)
        network.to(self.device)
        for tensor in network.state_dict().values():
            dist.broadcast(tensor, 0)
        return names[0]

    def total(self, tensor: torch.Tensor) -> torch.Tensor:
        """The sum of a tensor over all processes, in place."""
        if self.count > 1:
            dist.all_reduce(tensor)
        return tensor


@contextmanager
def joined(device: str) -> Iterator[Processes]:
    """Join the processes torchrun started, or be the only one; leave them at the end.

    Parameters
    ----------
    device
        ``auto``, ``cpu`` or ``cuda``; several processes on GPUs take one each.

    Raises
    ------
    TrainingError
        If there are fewer GPUs than processes on this machine.
    """
    count = int(os.environ.get("WORLD_SIZE", "1"))
    where = resolve_device(device)
    if count == 1:
        yield Processes(where)
        return
    if where.type == "cuda":
        local = int(os.environ["LOCAL_RANK"])
        if local >= torch.cuda.device_count():
            raise TrainingError(
                f"process {local} has no GPU of its own, {torch.cuda.device_count()} are there: start fewer "
                "(--nproc-per-node), or take --device cpu"
            )
        where = torch.device("cuda", local)
        torch.cuda.set_device(where)
    on_gpu = where.type == "cuda"
    dist.init_process_group("nccl" if on_gpu else "gloo", timeout=_PATIENCE, device_id=where if on_gpu else None)
    yield Processes(where, dist.get_rank(), count)
    dist.destroy_process_group()  # not where this process fails: NCCL would wait for the others, who wait for it
