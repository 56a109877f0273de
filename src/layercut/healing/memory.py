"""The memory and disk that training takes, counted without it.

The model is laid out without numbers (torch's fake tensors), and a step runs on it: the forward pass, the loss and the
backward pass as training has them, with adapters, the teacher, autocast and layers that are computed again. Every
tensor counts from its creation until it is freed. What optimizers keep is known by formula. A model that cannot run
without numbers is counted from the headers of its weight files, by a rule of thumb.

Not counted: Python and its libraries, what the allocator cannot use, masks of padded batches (T x T numbers a row), and
buffers of several processes.

The count decides ``gradient_checkpointing`` auto on a CPU: a GPU that is full says so, but where a machine's own memory
is full, the system kills the process without a word.
"""

# Shapes: B rows, T tokens, N tokens in the loss, P columns that have any, V vocabulary.

from __future__ import annotations

import math
import warnings
import weakref
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from layercut.engine.cost import DTYPE_BYTES, WeightCounts, weight_counts
from layercut.engine.handle import ModelHandle
from layercut.healing.examples import Data
from layercut.healing.logits import Places, lazy_logits, over_rows, token_losses
from layercut.healing.optimizers import optimizer_bytes
from layercut.healing.settings import TrainSettings
from layercut.healing.trainable import make_trainable
from layercut.models.placement import pick_device
from layercut.models.quiet import quiet_transformers
from layercut.models.structure import auto_class, config_of
from layercut.models.weights import read_config
from layercut.progress import Say


def dtype_of(handle: ModelHandle) -> str:
    """The dtype of a model in memory."""
    weights = weight_counts(handle)
    stored = "float32" if weights.stored_bytes >= 4 * weights.parameters else "bfloat16"
    return handle.dtype if handle.dtype in DTYPE_BYTES else stored


PARTS = ("weights", "gradients", "optimizer", "activations", "logits", "teacher")


class Shape(NamedTuple):
    """The largest micro batch."""

    rows: int
    tokens: int
    """Of a row, prompt and completion."""
    in_loss: int
    """Of a row."""


class Where(NamedTuple):
    """Device and dtypes of a step."""

    on_gpu: bool
    has_bfloat16: bool
    """True if ``precision`` auto means bfloat16."""
    dtype: str
    """Of the base of adapters."""
    teacher_dtype: str


def training_bytes(
    cut: Path, teacher: Path | None, settings: TrainSettings, shape: Shape, where: Where, *, accumulation: int = 1
) -> dict[str, int]:
    """Bytes of each of PARTS when a training step takes most memory.

    Args:
        cut: folder of the pruned model; of its files only config.json is read.
        teacher: folder of the model whose distributions are needed in training; None without one.
        settings: of the training.
        shape: of a micro batch.
        where: device and dtypes.
        accumulation: micro batches of a step.

    Raises:
        Exception: transformers cannot run this model without numbers, for any reason of its own.
    """
    shaped_as = "lora" if settings.method == "qlora" else settings.method
    base = settings.weights if settings.method in ("full", "last-k") else where.dtype
    with torch.random.fork_rng(), quiet_transformers():
        model = make_trainable(_without_numbers(cut, base), settings.replace(method=shaped_as))
        uncut = None if teacher is None else _without_numbers(teacher, where.teacher_dtype)
    trained = [tuple(one.shape) for one in model.parameters() if one.requires_grad]
    vocabulary = model.get_output_embeddings().weight.shape[0]
    with FakeTensorMode(), Meter(vocabulary, trained) as meter:
        for part, tree in (("weights", model), ("teacher", uncut)):
            if tree is not None:
                for tensor in _as_fake(tree):
                    meter.label(tensor, part)
        model.train()
        if settings.checkpoints(on_gpu=where.on_gpu):
            with warnings.catch_warnings(action="ignore"):  # the method has a new name in newer transformers
                model.gradient_checkpointing_enable({"use_reentrant": False})
        autocasts = settings.autocasts(has_bfloat16=where.on_gpu and where.has_bfloat16)
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.register_post_accumulate_grad_hook(lambda one: meter.label(one.grad, "gradients"))
        for _ in range(min(accumulation, 2)):
            with torch.autocast("cpu", torch.bfloat16) if autocasts else nullcontext():
                loss = _loss(model, uncut, settings, shape)
            with meter.gradients():
                loss.backward()  # type: ignore[no-untyped-call]
            del loss
        found = Counter(meter.fullest)
        at_rest = Counter({part: meter.live[part] for part in ("weights", "gradients", "teacher")})
    state, step = optimizer_bytes(settings, trained, on_gpu=where.on_gpu)
    found["optimizer"] += state
    at_rest["optimizer"] += state + step
    fullest = max(found, at_rest, key=lambda parts: parts.total())
    if settings.method == "qlora":
        fullest["weights"] += _packed(model) - sum(one.nbytes for one in _base_of(model))
    return {part: fullest[part] for part in PARTS}


class Meter(TorchDispatchMode):
    """Counts the bytes of all tensors that operations make, while they are alive."""

    def __init__(self, vocabulary: int, trained: list[tuple[int, ...]]) -> None:
        """``vocabulary``: a tensor that ends in this many numbers is logits. ``trained``: shapes of trained weights."""
        super().__init__()  # type: ignore[no-untyped-call]
        self.live: Counter[str] = Counter()
        """Bytes of each part at the moment."""
        self.fullest: dict[str, int] = {}
        """Bytes of each part when there were most."""
        self.most = 0
        """All of those."""
        self._known: dict[int, tuple[str, int]] = {}
        self._vocabulary = vocabulary
        self._trained = set(trained)
        self._in_backward = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(output):
            if isinstance(tensor, Tensor):
                self._see(tensor, partial(self._kind, func, args, tensor))
        return output

    def label(self, tensor: Tensor, part: str) -> None:
        """Count a tensor to a part from now on."""
        key = self._see(tensor, lambda: part)
        before, size = self._known[key]
        self._known[key] = part, size
        self.live[before] -= size
        self.live[part] += size

    @contextmanager
    def gradients(self) -> Iterator[None]:
        """While a backward pass runs, what has the shape of trained weights is their gradient."""
        self._in_backward = True
        yield
        self._in_backward = False

    def _kind(self, func: Any, args: Any, tensor: Tensor) -> str:
        if self._in_backward and tuple(tensor.shape) in self._trained:
            return "gradients"
        if tensor.shape and tensor.shape[-1] == self._vocabulary:
            return "logits"
        if func is torch.ops.aten._to_copy.default:  # autocast makes a copy of a weight in bfloat16
            source, _ = self._known.get(args[0].untyped_storage()._cdata, ("", 0))
            return source if source in ("weights", "teacher") else "activations"
        return "activations"

    def _see(self, tensor: Tensor, kind: Any) -> int:
        storage = tensor.untyped_storage()
        key: int = storage._cdata
        if key not in self._known:
            self._known[key] = kind(), storage.nbytes()
            weakref.finalize(storage, self._freed, key)
            part, size = self._known[key]
            self.live[part] += size
            if self.live.total() > self.most:
                self.most, self.fullest = self.live.total(), dict(self.live)
        return key

    def _freed(self, key: int) -> None:
        part, size = self._known.pop(key)
        self.live[part] -= size


def _loss(model: Any, teacher: Any, settings: TrainSettings, shape: Shape) -> Tensor:
    """The loss of a micro batch of the largest shape, without numbers."""
    count = shape.rows * shape.in_loss

    def at(size: int) -> Tensor:
        return torch.zeros(size, dtype=torch.long)

    inputs = {"input_ids": torch.zeros(shape.rows, shape.tokens, dtype=torch.long)}
    places = Places(at(count), at(count), at(shape.in_loss))
    ours = lazy_logits(model, inputs, places)
    losses_N: Tensor
    if settings.is_graded or settings.objective == "sft":
        losses_N = over_rows(token_losses, ours, rows=[at(count)])
    else:
        kind = "jsd" if settings.objective == "on-policy" else settings.objective
        from layercut.healing.distill import divergence

        with torch.no_grad():
            theirs = lazy_logits(teacher, inputs, places)
        losses_N = over_rows(partial(divergence, kind=kind, alpha=settings.jsd_alpha), ours, theirs)
    return losses_N.sum()


def _without_numbers(folder: Path, dtype: str) -> Any:
    """A model on torch's meta device, in a dtype, without gradients."""
    config = config_of(read_config(folder), folder.name)
    with torch.device("meta"):
        model = auto_class(config).from_config(config, dtype=getattr(torch, dtype))
    return model.requires_grad_(False)


def _as_fake(model: Any) -> list[Tensor]:
    """Move a model from the meta device to a CPU without numbers; gives its weights and buffers."""
    made: dict[int, Any] = {}
    for module in model.modules():
        for held in (module._parameters, module._buffers):
            for name, tensor in held.items():
                if tensor is not None:
                    if id(tensor) not in made:
                        fake: Tensor = torch.empty(tensor.shape, dtype=tensor.dtype)
                        is_weight = isinstance(tensor, nn.Parameter)
                        made[id(tensor)] = nn.Parameter(fake, tensor.requires_grad) if is_weight else fake
                    held[name] = made[id(tensor)]
    return list(made.values())


def _base_of(model: Any) -> list[Tensor]:
    return [one for name, one in model.named_parameters() if "lora_" not in name]


def _packed(model: Any) -> int:
    """Bytes of the base of qlora: NF4 with double quantisation in linear layers, float32 elsewhere.

    4 bits a weight, a scale of 8 bits for each 64 of them and of 32 bits for each 256 scales (arXiv:2305.14314).
    """
    packed: int = sum(one.numel() for name, one in model.named_parameters() if ".base_layer.weight" in name)
    others: int = sum(one.numel() for one in _base_of(model)) - packed
    return math.ceil(packed * (1 / 2 + 1 / 64 + 4 / (64 * 256))) + 4 * others


class Longest(NamedTuple):
    """The longest example."""

    tokens: int
    in_loss: int
    """Tokens of its answer."""


def training_parts(
    cut: ModelHandle, teacher: ModelHandle | None, train: TrainSettings, longest: Longest
) -> dict[str, int]:
    """Bytes by part when training takes most; by rule of thumb for a model that cannot run without numbers."""
    batches = train.batches()
    where = Where(is_on_gpu(cut), has_bfloat16(cut), dtype_of(cut), "float32" if teacher is None else dtype_of(teacher))
    try:
        return training_bytes(
            cut.source.path,
            None if teacher is None else teacher.source.path,
            train,
            Shape(batches.micro, longest.tokens, longest.in_loss),
            where,
            accumulation=batches.accumulation * (train.group if train.is_graded else 1),
        )
    except Exception:  # whatever such a model's code does that needs numbers
        return rule_of_thumb(cut, teacher, train, longest)


def rule_of_thumb(
    cut: ModelHandle, teacher: ModelHandle | None, train: TrainSettings, longest: Longest
) -> dict[str, int]:
    """Roughly what ``training_parts`` counts, from the headers of the weights alone."""
    weights, tokens = weight_counts(cut), train.batches().micro * longest.tokens
    trainable = num_trainable(weights, train)
    return {
        "weights": weights.bytes_in_memory if train.method in ("lora", "qlora") else 4 * weights.parameters,
        "gradients": 4 * trainable,
        "optimizer": 8 * trainable,
        # 34 x tokens x hidden size values of two bytes a layer (Korthikanti et al., arXiv:2205.05198)
        "activations": tokens * weights.num_layers * weights.hidden_size * 68,
        "logits": min(tokens * weights.vocabulary, 2**25) * 12,
        "teacher": 0 if teacher is None else weight_counts(teacher).bytes_in_memory,
    }


def num_trainable(weights: WeightCounts, train: TrainSettings) -> int:
    """Number of weights that are trained."""
    if train.method in ("lora", "qlora"):
        return train.rank * weights.adapter_parameters
    if train.method == "full":
        return weights.parameters
    last = weights.layer_parameters * train.last_k // max(weights.num_layers, 1)
    return last + weights.vocabulary * weights.hidden_size


def training_disk(weights: WeightCounts, train: TrainSettings) -> int:
    """Most bytes on disk while a model is trained and then written, without the model that is written.

    A checkpoint of the training holds the adapter, or all weights of the model, and both moments of AdamW. There are
    three while one is saved.
    """
    if train.method == "seam":
        return 0
    trainable = num_trainable(weights, train)
    kept = 4 * (trainable if train.method in ("lora", "qlora") else weights.parameters)
    return 3 * (kept + 8 * trainable)


def is_on_gpu(handle: ModelHandle) -> bool:
    """True if the model will run on a CUDA device."""
    return pick_device(handle.settings.device).type == "cuda"


def has_bfloat16(handle: ModelHandle) -> bool:
    """True if the model will run on a GPU that has it."""
    return is_on_gpu(handle) and torch.cuda.is_bf16_supported()


OF_A_STEP = ("gradients", "optimizer", "activations", "logits")
"""Parts of the memory of a step, without the models, which are loaded by then."""
CGROUP = Path("/sys/fs/cgroup")
_SURE = 8
"""Where this many times the rule of thumb is free, bytes are not counted one by one, which takes seconds."""


def within_memory(
    cut: ModelHandle, teacher: ModelHandle | None, train: TrainSettings, data: Data, say: Say
) -> TrainSettings:
    """The settings of a training whose models are loaded, with gradient checkpointing where a step needs it to fit.

    It changes no number of the training. Where even that is not enough, a line says what would be; training is tried.

    Args:
        cut: the pruned model.
        teacher: the original model, if it is in memory.
        say: called with a line where memory is short.
    """
    if not _on_cpu(cut):
        return train
    free, longest = free_memory(), _longest(train, data)
    if _SURE * _taken(rule_of_thumb(cut, teacher, train, longest)) < free:
        return train
    takes = _taken(training_parts(cut, teacher, train, longest))
    if takes > free and may_checkpoint(cut, train):
        train = train.replace(gradient_checkpointing="on")
        say(f"gradient checkpointing is on: without it a step takes {_gb(takes)}, and {_gb(free)} is free")
        takes = _taken(training_parts(cut, teacher, train, longest))
    if takes > free:
        less = "gradient_checkpointing on" if train.gradient_checkpointing == "off" else "a smaller `max_length`"
        if train.micro_batch > 1:
            less = "micro_batch 1"
        say(f"a training step takes about {_gb(takes)}, and {_gb(free)} is free; if the system ends it, give {less}")
    return train


def may_checkpoint(cut: ModelHandle, train: TrainSettings) -> bool:
    """True if gradient checkpointing goes on where a step does not fit without it."""
    return train.gradient_checkpointing == "auto" and _on_cpu(cut)


def free_memory() -> int:
    """Bytes that are free: of the machine, or of the container (cgroup v2) where that is less."""
    free: int = psutil.virtual_memory().available
    try:
        most, taken = (int((CGROUP / name).read_text()) for name in ("memory.max", "memory.current"))
        parts = dict(line.split() for line in (CGROUP / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):  # no container, or one without a limit
        return free
    return min(free, most - taken + int(parts.get("inactive_file", 0)))  # pages of files that were read are given back


def _on_cpu(handle: ModelHandle) -> bool:
    return pick_device(handle.settings.device).type == "cpu"


def _taken(parts: dict[str, int]) -> int:
    return sum(parts[name] for name in OF_A_STEP)


def _longest(train: TrainSettings, data: Data) -> Longest:
    """The longest example; with answers of the pruned model's own, the longest that may be drawn."""
    own = train.rollout_max if train.answers_itself else 0
    examples = (*data.train, *data.held_out)
    tokens = max(len(one.prompt) + max(len(one.completion), own) for one in examples)
    return Longest(min(tokens, train.max_length), max(own, *(len(one.completion) for one in examples)))


def _gb(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:.1f} GB"
