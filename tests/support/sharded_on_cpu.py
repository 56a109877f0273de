"""``python sharded_on_cpu.py heal ...``: layercut, sharded over CPU processes where a launcher asks for it.

accelerate has FSDP on accelerators alone and trains on as plain data parallel otherwise, without a word. All that is
changed here is this one decision; the sharding is PyTorch's, over gloo. DeepSpeed needs no change. What each process
holds is told on stderr.
"""

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
        shards = [one.to_local() for one in parts if isinstance(one, DTensor)]  # FSDP2
        shards += [one.ds_tensor for one in parts if hasattr(one, "ds_tensor")]  # ZeRO-3
        here = sum(one.numel() for one in shards)
        print(f"sharded {len(shards)} of {len(parts)}, {here} elements here", file=sys.stderr, flush=True)


def make(self: Trainer, *args: Any, **kwargs: Any) -> None:
    _make(self, *args, **kwargs)
    self.add_callback(Teller())


if __name__ == "__main__":
    AcceleratorState.__init__ = start
    Trainer.__init__ = make
    main()
