"""The process group of one training, as ``accelerate launch`` or ``torchrun`` starts it, and this process's rank.

The first process does everything that happens once: it owns the run folder, runs the teacher and writes the checkpoint.
The others wait for its examples, train with it, and exit.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import timedelta
from typing import Any, NamedTuple, TypeVar

Shared = TypeVar("Shared")
WAIT = timedelta(days=7)  # longest wait of the others for the teacher's answers


class ProcessGroup(NamedTuple):
    """Rank of this process, and number of processes."""

    rank: int
    size: int

    @classmethod
    def of_this_process(cls, environment: Mapping[str, str] = os.environ) -> ProcessGroup:
        """From the launcher's variables; a group of one without a launcher."""
        return cls(int(environment.get("RANK", 0)), int(environment.get("WORLD_SIZE", 1)))

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def share(self, shared: Shared | None = None) -> Shared:
        """The first process's value, in all of them. It must be serialisable: numbers, texts, tuples, paths."""
        box: list[Any] = [shared]
        if self.size > 1:
            import torch
            import torch.distributed as dist

            if not dist.is_initialized():
                on_gpu = torch.cuda.is_available() and os.environ.get("ACCELERATE_USE_CPU", "").lower() != "true"
                if on_gpu:
                    torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)))
                dist.init_process_group(backend="cuda:nccl,cpu:gloo" if on_gpu else "gloo")
            patient = dist.new_group(backend="gloo", timeout=WAIT)
            dist.broadcast_object_list(box, src=0, group=patient)
        received: Shared = box[0]
        return received

    def leave(self) -> None:
        if self.size > 1:
            import torch.distributed as dist

            if dist.is_initialized():
                dist.destroy_process_group()
