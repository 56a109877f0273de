"""``python sharded_on_cpu.py heal ...``: layercut, sharded over CPU processes where a launcher asks for FSDP.

accelerate shards over accelerators alone and otherwise trains on as plain data parallel, without a word. All that is
changed here is this one decision; the sharding is PyTorch's, over gloo. What each process holds is told on stderr.
"""

from __future__ import annotations

import os
import sys
from typing import Any

from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
from torch.distributed.tensor import DTensor
from transformers import Trainer, TrainerCallback

from layercut.cli.main import main

_start, _make = AcceleratorState.__init__, Trainer.__init__


def start(self: AcceleratorState, *args: Any, **kwargs: Any) -> None:
    is_first = not AcceleratorState._shared_state
    _start(self, *args, **kwargs)
    asked = os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true"
    if is_first and asked and self.distributed_type == DistributedType.MULTI_CPU:
        self.distributed_type = PartialState._shared_state["distributed_type"] = DistributedType.FSDP
        self.fsdp_plugin = kwargs.get("fsdp_plugin") or FullyShardedDataParallelPlugin()


class Teller(TrainerCallback):  # type: ignore[misc]
    def on_train_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        parts = [one for one in model.parameters() if one.requires_grad]
        sharded = [one for one in parts if isinstance(one, DTensor)]
        here = sum(one.to_local().numel() for one in sharded)
        print(f"sharded {len(sharded)} of {len(parts)}, {here} elements here", file=sys.stderr, flush=True)


def make(self: Trainer, *args: Any, **kwargs: Any) -> None:
    _make(self, *args, **kwargs)
    self.add_callback(Teller())


if __name__ == "__main__":
    AcceleratorState.__init__ = start
    Trainer.__init__ = make
    main()
