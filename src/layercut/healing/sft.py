"""Training with TRL: checkpoints, resuming, held-out loss, early stop.

A killed run resumes from its last complete checkpoint with the same examples in the same order and the same dropout,
and ends with the same weights.
"""

from __future__ import annotations

import json
import logging
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple
from zipfile import ZipFile

import torch
from safetensors import safe_open
from torch import Tensor

from layercut.errors import MissingExtra
from layercut.healing.examples import (
    Data,
    StepsByLength,
    TrainingExample,
    lazy_logits_in_loss,
    mask_of_loss,
    over_rows,
    token_losses,
)
from layercut.healing.settings import BETAS, TrainSettings
from layercut.healing.trainable import CURVE, FINAL
from layercut.models.quiet import quiet_transformers
from layercut.progress import OnProgress
from layercut.runs.atomic import write_json, write_text

try:
    from datasets import Dataset
    from transformers import EarlyStoppingCallback, PrinterCallback, Trainer, TrainerCallback
    from transformers.integrations.deepspeed import unset_hf_deepspeed_config
    from transformers.trainer_pt_utils import safe_globals
    from transformers.training_args import OptimizerNames as OptimizerNames
    from trl import SFTConfig, SFTTrainer  # type: ignore[attr-defined]
except ImportError as error:
    raise MissingExtra("healing by training", "heal") from error

logger = logging.getLogger(__name__)

_DONE = "trained.json"  # written last, so its presence means that the final weights are complete
_COLUMNS = {
    "step": "step", "loss": "loss", "eval_loss": "held_out_loss", "learning_rate": "learning_rate",
    "num_input_tokens_seen": "tokens", "seconds": "seconds", "rollout_tokens": "rollout_tokens",
    "repetition": "repetition", "num_tokens": "tokens", "completions/mean_length": "rollout_tokens", "reward": "reward",
}  # fmt: skip
"""Fields of the Trainer's log, by their names in the loss curve."""


class Trained(NamedTuple):
    """The outcome of training."""

    final: Path  # the trained weights, the best ones where evaluations chose them: a PEFT adapter, or a whole model
    steps: int
    tokens: int  # tokens that the model read, prompts included and padding not; of repeated epochs, every time
    seconds: float  # wall time of training, summed over all processes
    curve: list[dict[str, Any]]  # a line for each step and each held-out evaluation
    stopped_early: bool

    @property
    def held_out(self) -> dict[str, float]:
        """Held-out loss ``before`` the first step, at the ``last`` evaluation and at the ``best``."""
        losses = {line["step"]: line["held_out_loss"] for line in self.curve if "held_out_loss" in line}
        before = {"before": losses.pop(0)} if 0 in losses else {}
        return before | ({"last": losses[max(losses)], "best": min(losses.values())} if losses else {})


class Watched(Trainer):  # type: ignore[misc]
    """What all trainers add to those of TRL: the loss curve with its seconds, progress, and no model card."""

    def __init__(self, *args: Any, on_progress: OnProgress | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.remove_callback(PrinterCallback)
        self.add_callback(_Watch(Path(str(self.args.output_dir)), on_progress or (lambda done, total: None)))
        self._began = time.monotonic()
        self._seconds_before: float | None = None
        self._noted: dict[str, list[float]] = {}

    def note(self, name: str, value: float) -> None:
        """Add a value to the next line of the curve, which shows the mean."""
        self._noted.setdefault(name, []).append(value)

    def _evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Before the first step without using training's random numbers."""
        with torch.random.fork_rng(enabled=self.state.global_step == 0):
            metrics: dict[str, float] = super()._evaluate(*args, **kwargs)
        return metrics

    def log(self, logs: dict[str, Any], start_time: float | None = None) -> None:
        """Adds the seconds of all processes so far."""
        if self._seconds_before is None:  # of the processes before this one
            self._seconds_before = [0.0, *(line["seconds"] for line in self.state.log_history if "seconds" in line)][-1]
        logs["seconds"] = round(self._seconds_before + time.monotonic() - self._began, 3)
        if "loss" in logs:
            logs |= {name: fmean(values) for name, values in self._noted.items()}
            self._noted.clear()
        super().log(logs, start_time)

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Writes none: a checkpoint of training is no model to be published."""


class HealingTrainer(Watched, SFTTrainer):  # type: ignore[misc]
    """SFTTrainer on examples whose tokens and labels are given, without its templates."""

    @classmethod
    def options(cls, **material: Any) -> dict[str, Any]:
        """Arguments of the constructor beside those of all trainers, from those of ``heal.objective_of``."""
        return {}

    @staticmethod
    def arguments(shared: dict[str, Any], settings: TrainSettings) -> SFTConfig:
        """The arguments of TRL's trainer, from those that all trainers have."""
        return SFTConfig(
            **shared,
            include_num_input_tokens_seen="non_padding",
            dataset_kwargs={"skip_prepare_dataset": True},
            max_length=None,
            completion_only_loss=False,  # the labels have the mask
        )

    @staticmethod
    def dataset(examples: Sequence[TrainingExample]) -> Dataset:
        """The examples as TRL reads them."""
        return Dataset.from_dict({"input_ids": [e.input_ids for e in examples], "labels": [e.labels for e in examples]})

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Sum of the losses over the number of tokens in the whole (accumulated) batch, of all processes."""
        losses_N = self._losses(model, inputs)
        if num_items_in_batch is None:
            return losses_N.sum() / max(len(losses_N), 1)
        # Gradients are averaged over the processes, and num_items_in_batch counts the tokens of all.
        shares = self.accelerator.num_processes if self.args.average_tokens_across_devices else 1
        return losses_N.sum() * shares / torch.as_tensor(num_items_in_batch).clamp(min=1)

    def _losses(self, model: Any, inputs: dict[str, Any]) -> Tensor:
        """(N,) negative log-likelihood of every token in the loss."""
        targets_N = inputs["labels"][:, 1:][mask_of_loss(inputs)]
        return over_rows(token_losses, lazy_logits_in_loss(model, inputs), rows=[targets_N])

    def _get_train_sampler(self, train_dataset: Any = None) -> StepsByLength:
        examples: Any = train_dataset or self.train_dataset
        lengths = [len(ids) for ids in examples["input_ids"]]
        step = self.args.per_device_train_batch_size * self.args.gradient_accumulation_steps * self.args.world_size
        return StepsByLength(lengths, step, self.args.seed)


class _Watch(TrainerCallback):  # type: ignore[misc]
    """Reports the progress of training, and writes the loss curve."""

    def __init__(self, folder: Path, on_progress: OnProgress) -> None:
        self._folder, self._on_progress = folder, on_progress

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._on_progress(state.global_step, state.max_steps)

    on_train_begin = on_step_end

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.is_world_process_zero:
            write_text(self._folder / CURVE, "".join(f"{json.dumps(line)}\n" for line in curve_of(state.log_history)))


def training_record(trained: Trained, settings: TrainSettings) -> dict[str, Any]:
    """The part of a training in plan.json."""
    return {
        "settings": settings.in_effect(),
        "steps": trained.steps,
        "tokens": trained.tokens,
        "seconds": round(trained.seconds, 1),
        "stopped_early": trained.stopped_early,
        "held_out_loss": trained.held_out,
    }


def train_model(
    model: Any,
    tokenizer: Any,
    data: Data,
    settings: TrainSettings,
    folder: Path,
    *,
    trainer: Any = HealingTrainer,
    num_processes: int = 1,
    on_progress: OnProgress | None = None,
    **options: Any,
) -> Trained:
    """Train into ``folder``: checkpoints, the loss curve and ``final``. An earlier training in it continues.

    ``trainer`` is a Watched trainer of TRL, and ``options`` are for its constructor. All processes of a group make the
    same call, with a folder that all of them see.
    """
    if (earlier := finished_training(folder)) is not None:
        return earlier
    with quiet_transformers():
        arguments = shared_arguments(model, settings, folder, bool(data.held_out), num_processes)
        run = trainer(
            model=model,
            args=trainer.arguments(arguments, settings),
            processing_class=tokenizer,
            train_dataset=trainer.dataset(data.train),
            eval_dataset=trainer.dataset(data.held_out) if data.held_out else None,
            callbacks=[EarlyStoppingCallback(settings.patience)] if data.held_out and settings.patience else None,
            on_progress=on_progress,
            **options,
        )
        last = last_checkpoint(folder)
        run.args.eval_on_start = bool(data.held_out) and last is None
        try:
            run.train(resume_from_checkpoint=None if last is None else str(last))
            run.save_model(str(folder / FINAL))
        except Exception:  # such as a full disk, as any library reports it: a torn file only takes space
            torn = [path for path in folder.glob("checkpoint-*") if _damaged_file(path)]
            for path in (folder / FINAL, *torn):
                shutil.rmtree(path, ignore_errors=True)
            raise
        # Else transformers would load every later model as a sharded one.
        unset_hf_deepspeed_config()  # type: ignore[no-untyped-call]
    state, curve = run.state, curve_of(run.state.log_history)
    trained = Trained(
        final=folder / FINAL,
        steps=state.global_step,
        tokens=int(state.num_input_tokens_seen),
        seconds=max((line["seconds"] for line in curve if "seconds" in line), default=0.0),
        curve=curve,
        stopped_early=state.global_step < state.max_steps,
    )
    run.accelerator.wait_for_everyone()
    if run.is_world_process_zero():
        write_json(folder / FINAL / _DONE, {**trained._asdict(), "final": FINAL})
    return trained


def finished_training(folder: Path) -> Trained | None:
    """The result of a training in this folder; None where it has not ended."""
    mark = folder / FINAL / _DONE
    if not mark.is_file():
        return None
    return Trained(**(json.loads(mark.read_text(encoding="utf-8")) | {"final": mark.parent}))


def last_checkpoint(folder: Path) -> Path | None:
    """The latest complete checkpoint; one with damaged files is named in a line and skipped."""
    paths = [path for path in folder.glob("checkpoint-*") if path.name.rpartition("-")[2].isdigit()]
    paths.sort(key=lambda path: int(path.name.rpartition("-")[2]))
    while paths:
        last = paths.pop()
        damaged = _damaged_file(last)
        if damaged is None:
            return last
        before = f"step {paths[-1].name.rpartition('-')[2]}" if paths else "its beginning"
        logger.warning("%s is damaged, so training continues from %s", last / damaged, before)
    return None


def curve_of(log_history: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The lines of the Trainer's log that hold a loss, under our names."""
    lines = [line for line in log_history if "loss" in line or "eval_loss" in line]
    return [{ours: line[theirs] for theirs, ours in _COLUMNS.items() if theirs in line} for line in lines]


def _damaged_file(checkpoint: Path) -> str | None:
    """Name of a file that cannot be loaded; the Trainer would start a missing optimizer anew without a warning.

    An interrupted checkpoint lacks trainer_state.json, which the Trainer writes last. Of a state that is sharded over
    processes, which lies in folders, the files beside them are read.
    """
    files = sorted(checkpoint.iterdir())
    needed = [] if any(path.is_dir() for path in files) else ["optimizer.pt", "scheduler.pt"]
    saved = (path.name for path in files if path.suffix in (".pt", ".pth", ".safetensors"))
    names = dict.fromkeys([*needed, *saved, "trainer_state.json"])
    return next((name for name in names if not _is_readable(checkpoint / name)), None)


def _is_readable(file: Path) -> bool:
    """True if a file of torch has its checksums and is loadable, one of safetensors all its bytes, or is JSON."""
    try:
        if file.suffix == ".json":
            json.loads(file.read_text(encoding="utf-8"))
            return True
        if file.suffix == ".safetensors":
            with safe_open(file, "pt") as weights:  # type: ignore[no-untyped-call]
                weights.keys()
            return True
        with ZipFile(file) as archive:
            if archive.testzip() is not None:
                return False
        with safe_globals():  # type: ignore[no-untyped-call]  # random numbers are kept as numpy's
            torch.load(file, map_location="cpu", mmap=True, weights_only=True)
    except Exception:  # any error of torch, zip, pickle or safetensors means a damaged file
        return False
    return True


def shared_arguments(
    model: Any, settings: TrainSettings, folder: Path, has_held_out: bool, num_processes: int = 1
) -> dict[str, Any]:
    """Arguments that all of TRL's trainers have, by their names there."""
    on_gpu = model.device.type == "cuda"
    micro_batch, accumulation = settings.batches(num_processes)
    same = ("learning_rate", "warmup_steps", "weight_decay", "max_grad_norm", "seed")
    return {
        **{name: getattr(settings, name) for name in same},
        "output_dir": str(folder),
        "per_device_train_batch_size": micro_batch,
        "per_device_eval_batch_size": micro_batch,
        "gradient_accumulation_steps": accumulation,
        "num_train_epochs": settings.epochs,
        "max_steps": settings.max_steps or -1,
        "lr_scheduler_type": "constant_with_warmup" if settings.schedule == "constant" else settings.schedule,
        "optim": settings.optimizer,
        "adam_beta1": BETAS["beta1"],
        "adam_beta2": BETAS["beta2"],
        "data_seed": settings.seed,
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "save_strategy": "steps",
        "save_steps": settings.save_every,
        "save_total_limit": 2,
        "eval_strategy": "steps" if has_held_out else "no",
        "eval_steps": settings.save_every if has_held_out else None,
        "load_best_model_at_end": has_held_out and bool(settings.patience),
        "metric_for_best_model": "eval_loss" if has_held_out else None,
        "restore_callback_states_from_checkpoint": True,
        "bf16": settings.autocasts(has_bfloat16=on_gpu and torch.cuda.is_bf16_supported()),
        "gradient_checkpointing": settings.checkpoints(on_gpu=on_gpu),
        "gradient_checkpointing_kwargs": {"use_reentrant": False},
        "use_cpu": model.device.type == "cpu",
        "dataloader_pin_memory": on_gpu,
        "disable_tqdm": True,
        "report_to": list(settings.report_to) or "none",
    }
