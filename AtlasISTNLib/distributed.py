"""Many processes: the same training on several GPUs or machines under `torchrun`, in step with one process.

Every process goes through the same batches and takes its share of each; gradients, losses and atlas sums are added up,
so that all processes hold the same weights and the same atlas after every step. The sums are exact whatever the shares,
also where the last batch is smaller than the number of processes; a wrapper that averages over processes is not.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from .errors import ConfigError, DeviceError

#: The others wait as long as this for the first process, which prepares the cases.
_PATIENCE = timedelta(days=1)


@dataclass(frozen=True)
class Processes:
    """This process among those that train together.

    Attributes:
        rank: its number, from 0; the first one writes.
        count: how many there are.
        device: where it computes.
    """

    rank: int
    count: int
    device: torch.device

    @property
    def first(self) -> bool:
        """Whether this process is the one that writes."""
        return self.rank == 0

    def share(self, batch: Tensor) -> Tensor:
        """This process's part of the indices of a batch; may be empty."""
        return batch[self.rank :: self.count]

    def add_up(self, tensors: Sequence[Tensor]) -> None:
        """Replace tensors of one type by their sums over all processes, in one message."""
        if self.count == 1 or not tensors:
            return
        flat = torch.cat([t.reshape(-1) for t in tensors])
        dist.all_reduce(flat)
        for tensor, part in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
            tensor.copy_(part.view_as(tensor))

    def wait(self) -> None:
        """Go on when all processes have come here."""
        if self.count > 1:
            dist.barrier()

    def from_first(self, value: Any) -> Any:
        """The plain value (as JSON has them) that the first process holds."""
        if self.count == 1:
            return value
        text = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8).to(self.device)
        size = torch.tensor([len(text) if self.first else 0], device=self.device)
        dist.broadcast(size, 0)
        data = text if self.first else torch.empty(int(size), dtype=torch.uint8, device=self.device)
        dist.broadcast(data, 0)
        return json.loads(bytes(data.cpu().tolist()))


@contextlib.contextmanager
def processes(device: torch.device) -> Iterator[Processes]:
    """Join the other processes of a `torchrun` for the time of a block; alone if there are none.

    Args:
        device: where to compute; "cuda" without a number becomes this process's own GPU.

    Raises:
        DeviceError: a machine has fewer GPUs than processes.
        ConfigError: this torch cannot talk to other processes.
    """
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        yield Processes(0, 1, device)
        return
    if not dist.is_available():
        raise ConfigError("this build of torch has no torch.distributed", "train in one process, without torchrun")
    if device.type == "cuda" and device.index is None:
        local = int(os.environ.get("LOCAL_RANK", "0"))
        if local >= torch.cuda.device_count():
            found = torch.cuda.device_count()
            raise DeviceError(f"there is no GPU {local} among the {found} of this machine", "start fewer processes")
        device = torch.device("cuda", local)
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=_PATIENCE)
    try:
        yield Processes(dist.get_rank(), dist.get_world_size(), device)
    finally:
        dist.destroy_process_group()


__all__ = ["Processes", "processes"]
