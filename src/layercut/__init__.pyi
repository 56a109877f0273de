"""Written by docs/generate.py from the fields of the verbs."""

from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from layercut.api import evaluate_task as evaluate_task
from layercut.diagnostics.diagnose import Diagnosed as Diagnosed
from layercut.drafting.assisted import draft_view as draft_view
from layercut.drafting.job import DraftDone as DraftDone
from layercut.engine.plain import PlainEngine as PlainEngine
from layercut.engine.shared import SharedEngine as SharedEngine
from layercut.errors import InputError as InputError
from layercut.evidence.comparison import ComparisonRow as ComparisonRow
from layercut.evidence.paired import Comparison as Comparison
from layercut.evidence.paired import compare_paired as compare_paired
from layercut.healing.prompts import AnswerRecord as AnswerRecord
from layercut.models.loading import LoadedModel as LoadedModel
from layercut.models.loading import load_model as load_model
from layercut.pruning.job import Pruned as Pruned
from layercut.quantising.job import Quantised as Quantised
from layercut.report.reports import write_reports as write_reports
from layercut.selection.sweep import Swept as Swept
from layercut.settings import CalibrationSettings as CalibrationSettings
from layercut.settings import DecodingSettings as DecodingSettings
from layercut.settings import ModelSettings as ModelSettings
from layercut.settings import TaskSettings as TaskSettings
from layercut.study.job import StudyOutcome as StudyOutcome
from layercut.study.settings import StudySettings as StudySettings
from layercut.surgery.checkpoint import cut_checkpoint as cut_checkpoint
from layercut.surgery.plan import CutPlan as CutPlan
from layercut.surgery.remove import bypass as bypass
from layercut.surgery.remove import remove_layers as remove_layers
from layercut.tasks import load_task as load_task
from layercut.tasks.cells import Evaluated as Evaluated
from layercut.tasks.evaluate import TaskResult as TaskResult

__version__: str

def prune(
    model: str | PathLike[str] | ModelSettings | PreTrainedModel,
    tokenizer: Any = None,
    *,
    revision: str | None = None,
    dtype: str = "auto",
    device: str = "auto",
    device_map: str | None = None,
    batch_size: int = 32,
    engine: str = "shared",
    cache_gib: float | str = 2.0,
    engine_pool: str | None = None,
    base_url: str | None = None,
    use: str | None = None,
    tasks: str | Sequence[str] = (),
    max_new_tokens: int | None = None,
    keep: float | str = 0.9,
    units: str = "both",
    smaller: float | str | None = None,
    one_size: bool = False,
    faster: float | str | None = None,
    serve: str = "laptop",
    heal: str = "auto",
    items: int | None = None,
    smallest: bool = False,
    formats: str | Sequence[str] = (),
    versus: str | Sequence[str] = (),
    goal_alone: bool = False,
    no_side_effects: bool = False,
    out: str | PathLike[str] | None = None,
    anyway: bool = False,
    data: Mapping[str, str | PathLike[str]] = {},
    data_dir: str | PathLike[str] | None = None,
    seed: int = 0,
    report_to: str | Sequence[str] = (),
    verbose: bool = False,
    progress: bool = True,
    say: Callable[[str], None] | None = None,
) -> Pruned:
    """Make MODEL smaller for a use, and write the smallest that is shown to keep it.

    ``layercut prune``.

    Args:
        model: Hugging Face id, local Hugging Face folder, .gguf file, or bundled:smollm2-135m (the embedded default).
        revision: Branch, tag or commit on the hub.
        dtype: auto (the checkpoint's own, on a CPU float32), float32, bfloat16 or float16.
        device: auto, cpu, cuda, cuda:1, mps, xpu.
        device_map: Spread a large model over devices, as in transformers: auto, balanced.
        batch_size: Sequences run at once; halved when memory runs out.
        engine: shared: what plans have in common is computed once; plain; vllm; llama.cpp: GGUF files; openai: a server, evaluated unchanged.
        cache_gib: GiB of memory for keys and values: those that plans share (shared), or all (vllm).
        engine_pool: Engines in many processes: local:N here, or ray://HOST:PORT, one for each GPU there (?gpus=K for each).
        base_url: openai: the server, such as http://localhost:8000/v1.
        use: math, code, summarize, classify, chat, copy or all.
        tasks: Tasks in place of a use: names, or a .jsonl or .csv.
        max_new_tokens: Longest answer, of tasks where it can be chosen.
        keep: Share of the score above chance that every task must keep: 0.9 or 90%.
        units: What is removed: layer, one after the other; width, the channels of all MLPs; or both, whichever does less damage at each size. vocab,both removes tokens outside of ASCII first, vocab:44000,both more.
        smaller: Most bytes to remove; 30% if left out.
        one_size: Test that size alone, not those on the way.
        faster: Times as fast a request should be, by forecast.
        serve: laptop, server, batch, or batch=1,prompt=300,new=300; of a GGUF also engine=llama.cpp.
        heal: auto (in closed form, where that may pay), none, seam (in closed form, every plan).
        items: Report items of each task, which decide.
        smallest: Weigh GGUF files too: the smallest that passes is kept.
        formats: Types of these files: q8_0,q4_k_m,q3_k_m if left out.
        versus: Models to weigh: ids, folders, .gguf, MODEL@int8.
        goal_alone: Learn from the goal's tasks, not general requests too.
        no_side_effects: Skip the checks of endings, language and form.
        out: Folder to write to; runs/prune-<model> if left out.
        anyway: Write the best plan's checkpoint even if none passed.
        data: Local data of a task: gsm8k=PATH. May be repeated.
        data_dir: Folder with local data, in a folder for each task, such as gsm8k.
        seed: Random seed.
        report_to: Trackers that get every number: trackio, wandb, tensorboard, mlflow.
        verbose: Print which items choose, too.
        tokenizer: of a model in memory.
        progress: show progress on stderr, also in a notebook.
        say: called with each line for people, in place of stderr.

    Returns:
        model (loaded on first use), plan, kept by task, report, checkpoint and result, all that result.json holds.
    Raises:
        InputError: a value that cannot be used, or a run folder that holds another run.
    """

def select_layers(
    model: str | PathLike[str] | ModelSettings | PreTrainedModel,
    criterion: str | None = None,
    remove: str | PathLike[str] | Sequence[int] | CutPlan = "25%",
    *,
    revision: str | None = None,
    dtype: str = "auto",
    device: str = "auto",
    device_map: str | None = None,
    batch_size: int = 32,
    engine: str = "shared",
    cache_gib: float | str = 2.0,
    engine_pool: str | None = None,
    base_url: str | None = None,
    quantize: str | None = None,
    channels: str = "rms",
    out: str | PathLike[str] | None = None,
    objective: str | Sequence[str | TaskSettings] = (),
    readouts: str | Sequence[str] | None = None,
    limit: int | None = None,
    data: Mapping[str, str | PathLike[str]] = {},
    data_dir: str | PathLike[str] | None = None,
    held_out: int | None = None,
    protect: str | None = None,
    settings: Mapping[str, Any] = {},
    seed: int = 0,
    report_to: str | Sequence[str] = (),
    normalise: str = "raw",
    race: str = "exact",
    calibration: str = "generated",
    calibration_texts: int = 16,
    calibration_tokens: int = 256,
    temperature: float | str = 0.0,
    top_p: float | str = 1.0,
    top_k: int = 0,
    tokenizer: Any = None,
    progress: bool = True,
    say: Callable[[str], None] | None = None,
) -> CutPlan:
    """Choose the layers of MODEL that go, and write plan.json.

    ``layercut select``.

    Args:
        model: Hugging Face id, local Hugging Face folder, .gguf file, or bundled:smollm2-135m (the embedded default).
        revision: Branch, tag or commit on the hub.
        dtype: auto (the checkpoint's own, on a CPU float32), float32, bfloat16 or float16.
        device: auto, cpu, cuda, cuda:1, mps, xpu.
        device_map: Spread a large model over devices, as in transformers: auto, balanced.
        batch_size: Sequences run at once; halved when memory runs out.
        engine: shared: what plans have in common is computed once; plain; vllm; llama.cpp: GGUF files; openai: a server, evaluated unchanged.
        cache_gib: GiB of memory for keys and values: those that plans share (shared), or all (vllm).
        engine_pool: Engines in many processes: local:N here, or ray://HOST:PORT, one for each GPU there (?gpus=K for each).
        base_url: openai: the server, such as http://localhost:8000/v1.
        quantize: Quantise the weights once they are loaded, by torchao: int8, int4 or fp8.
        criterion: How layers are ranked: angular_distance, block_influence, perplexity, random, reverse, task_accuracy, trace_damage; or your own my.module:function.
        remove: How many layers are removed, or which share: '3 layers' or 25%. Also a share of the channels of every MLP: mlp:0.28, or 'mlp:0.1' behind layers or their count.
        channels: How MLP channels are ranked: rms, wanda; on the model's right answers to the objective, or on the calibration text.
        out: Run folder; runs/select-<model> if left out.
        objective: Tasks, separated by commas: names, NAME:5 with five worked examples, lm-eval:NAME for any of lm-eval, suite:quick (builtin, paper) for those of a suite. Their selection items judge a plan, for task_accuracy and trace_damage.
        readouts: How the objective's tasks are read out; each task's first if left out.
        limit: Selection items of each task; 100 if left out.
        data: Local data of a task: gsm8k=PATH. May be repeated.
        data_dir: Folder with local data, in a folder for each task, such as gsm8k.
        held_out: Items of each task that the search never sees and the chosen plan is then scored on; as many as limit if left out, 0 for none.
        protect: Layers that must stay: first:4,last:2,0,7-9, or none. If left out, layer 0 for task_accuracy.
        settings: A setting of the criterion. May be repeated.
        seed: Random seed.
        report_to: Trackers that get every number: trackio, wandb, tensorboard, mlflow.
        normalise: raw (cut / uncut, as the paper) or chance (above chance).
        race: When a candidate stops: exact (it cannot win any more; the same choice from fewer answers), off (never).
        calibration: A file, hub:NAME[:config[:split]], or generated (by the original model itself).
        calibration_texts: How many texts of the calibration.
        calibration_tokens: Longest text, in tokens.
        temperature: 0 is greedy; above, answers are sampled.
        top_p: Nucleus sampling: the likeliest tokens with this probability.
        top_k: Sample from this many most likely tokens; 0 for all.
        tokenizer: of a model in memory.
        progress: show progress on stderr, also in a notebook.
        say: called with each line for people, in place of stderr.

    Returns:
        The plan, its layers in order of removal, with scores per layer (higher means keep) under scores["importance"].
    Raises:
        InputError: a value that cannot be used, or a run folder that holds another run.
    """

def cut(
    model: str | PathLike[str] | ModelSettings | PreTrainedModel,
    remove: str | PathLike[str] | Sequence[int] | CutPlan | None = None,
    out: str | PathLike[str] | None = None,
    *,
    revision: str | None = None,
    dtype: str = "auto",
    device: str = "auto",
    device_map: str | None = None,
    healed: str | PathLike[str] | None = None,
    mergekit: str | PathLike[str] | None = None,
    seed: int = 0,
    verify: bool = True,
    tokenizer: Any = None,
    progress: bool = True,
    say: Callable[[str], None] | None = None,
) -> Path:
    """Write MODEL without some of its decoder layers, as a Hugging Face folder or a GGUF file.

    ``layercut cut``.

    Args:
        model: Hugging Face id, local Hugging Face folder, .gguf file, or bundled:smollm2-135m (the embedded default).
        revision: Branch, tag or commit on the hub.
        dtype: auto (the checkpoint's own, on a CPU float32), float32, bfloat16 or float16.
        device: auto, cpu, cuda, cuda:1, mps, xpu.
        device_map: Spread a large model over devices, as in transformers: auto, balanced.
        remove: Layers to remove, zero-based, ranges inclusive: 3,8,21-24. Or reverse:N or random:N (N may be 25%), or the plan.json of a search. Or how many, chosen by block influence: '3 layers' or 25%; and a share of the channels of every MLP: mlp:0.28, or '6,9 mlp:0.1'. The tokens that stay: vocab:ascii, vocab:latin, vocab:44000, or vocab:FILE of texts. If left out, a GGUF file loses only a copy of its embeddings.
        healed: In place of layers: a checkpoint that was cut from MODEL, a GGUF file, and healed in closed form; its GGUF file is written.
        out: Folder to write to, or a file that ends in .gguf.
        mergekit: Write the plan as a configuration for mergekit, and cut nothing.
        seed: Random seed.
        verify: Compare the result with the original model: logits; of a GGUF file tensors and config.
        tokenizer: of a model in memory.
        progress: show progress on stderr, also in a notebook.
        say: called with each line for people, in place of stderr.

    Returns:
        The folder; or the GGUF file, if out ends in .gguf and the model is one.
    Raises:
        InputError: a value that cannot be used, or a run folder that holds another run.
    """

def evaluate(
    model: str | PathLike[str] | ModelSettings | PreTrainedModel,
    tasks: str | Sequence[str | TaskSettings] = (),
    *,
    revision: str | None = None,
    dtype: str = "auto",
    device: str = "auto",
    device_map: str | None = None,
    batch_size: int = 32,
    engine: str = "shared",
    cache_gib: float | str = 2.0,
    engine_pool: str | None = None,
    base_url: str | None = None,
    quantize: str | None = None,
    remove: str | PathLike[str] | Sequence[int] | CutPlan | None = None,
    out: str | PathLike[str] | None = None,
    readouts: str | Sequence[str] | None = None,
    limit: int | None = None,
    data: Mapping[str, str | PathLike[str]] = {},
    data_dir: str | PathLike[str] | None = None,
    max_new_tokens: int | None = None,
    samples: int = 1,
    seed: int = 0,
    report_to: str | Sequence[str] = (),
    against: str | PathLike[str] | None = None,
    temperature: float | str = 0.0,
    top_p: float | str = 1.0,
    top_k: int = 0,
    tokenizer: Any = None,
    progress: bool = True,
    say: Callable[[str], None] | None = None,
) -> Evaluated:
    """Score MODEL on tasks, whole or without some layers.

    ``layercut eval``.

    Args:
        model: Hugging Face id, local Hugging Face folder, .gguf file, or bundled:smollm2-135m (the embedded default).
        revision: Branch, tag or commit on the hub.
        dtype: auto (the checkpoint's own, on a CPU float32), float32, bfloat16 or float16.
        device: auto, cpu, cuda, cuda:1, mps, xpu.
        device_map: Spread a large model over devices, as in transformers: auto, balanced.
        batch_size: Sequences run at once; halved when memory runs out.
        engine: shared: what plans have in common is computed once; plain; vllm; llama.cpp: GGUF files; openai: a server, evaluated unchanged.
        cache_gib: GiB of memory for keys and values: those that plans share (shared), or all (vllm).
        engine_pool: Engines in many processes: local:N here, or ray://HOST:PORT, one for each GPU there (?gpus=K for each).
        base_url: openai: the server, such as http://localhost:8000/v1.
        quantize: Quantise the weights once they are loaded, by torchao: int8, int4 or fp8.
        tasks: Task names, separated by commas; NAME:5 asks with five worked examples, suite:builtin (offline), suite:quick and suite:paper (arXiv:2602.01997) name several.
        remove: Layers to remove, zero-based, ranges inclusive: 3,8,21-24. Or reverse:N or random:N (N may be 25%), or the plan.json of a search.
        out: Run folder; runs/<model>-<plan> if left out.
        readouts: rank, short, chain; all that a task has if left out.
        limit: At most this many items of each task; shown in every table.
        data: Local data of a task: gsm8k=PATH. May be repeated.
        data_dir: Folder with local data, in a folder for each task, such as gsm8k.
        max_new_tokens: Longest answer, for tasks where it can be chosen.
        samples: Answers drawn for each item; with a temperature above 0, gives pass@k.
        seed: Random seed.
        report_to: Trackers that get every number: trackio, wandb, tensorboard, mlflow.
        against: Finished run of the original model on the same items: print what is kept.
        temperature: 0 is greedy; above, answers are sampled.
        top_p: Nucleus sampling: the likeliest tokens with this probability.
        top_k: Sample from this many most likely tokens; 0 for all.
        tokenizer: of a model in memory.
        progress: show progress on stderr, also in a notebook.
        say: called with each line for people, in place of stderr.

    Returns:
        folder, and metrics, all that metrics.json holds.
    Raises:
        InputError: a value that cannot be used, or a run folder that holds another run.
    """

def generate(
    model: str | PathLike[str] | ModelSettings | PreTrainedModel,
    prompts: str | None = None,
    *,
    revision: str | None = None,
    dtype: str = "auto",
    device: str = "auto",
    device_map: str | None = None,
    batch_size: int = 32,
    engine: str = "shared",
    cache_gib: float | str = 2.0,
    engine_pool: str | None = None,
    base_url: str | None = None,
    quantize: str | None = None,
    prompt: str | Sequence[str] = (),
    remove: str | PathLike[str] | Sequence[int] | CutPlan | None = None,
    out: str | PathLike[str] | None = None,
    preset: str | None = None,
    data: Mapping[str, str | PathLike[str]] = {},
    data_dir: str | PathLike[str] | None = None,
    plain: bool = False,
    seed: int = 0,
    max_new_tokens: int | None = None,
    system: str | None = None,
    limit: int | None = None,
    temperature: float | str = 0.0,
    top_p: float | str = 1.0,
    top_k: int = 0,
    tokenizer: Any = None,
    progress: bool = True,
    say: Callable[[str], None] | None = None,
) -> list[AnswerRecord]:
    """Let MODEL answer prompts, whole or without some layers.

    ``layercut generate``.

    Args:
        model: Hugging Face id, local Hugging Face folder, .gguf file, or bundled:smollm2-135m (the embedded default).
        revision: Branch, tag or commit on the hub.
        dtype: auto (the checkpoint's own, on a CPU float32), float32, bfloat16 or float16.
        device: auto, cpu, cuda, cuda:1, mps, xpu.
        device_map: Spread a large model over devices, as in transformers: auto, balanced.
        batch_size: Sequences run at once; halved when memory runs out.
        engine: shared: what plans have in common is computed once; plain; vllm; llama.cpp: GGUF files; openai: a server, evaluated unchanged.
        cache_gib: GiB of memory for keys and values: those that plans share (shared), or all (vllm).
        engine_pool: Engines in many processes: local:N here, or ray://HOST:PORT, one for each GPU there (?gpus=K for each).
        base_url: openai: the server, such as http://localhost:8000/v1.
        quantize: Quantise the weights once they are loaded, by torchao: int8, int4 or fp8.
        prompts: .txt (one a line), .jsonl, .json, .csv (also .gz) or .parquet; hub:NAME[:config[:split]]; task:NAME, for its selection items. Several with commas between.
        prompt: A prompt; may be repeated. Answers are printed.
        remove: Layers to remove, zero-based, ranges inclusive: 3,8,21-24. Or reverse:N or random:N (N may be 25%), or the plan.json of a search.
        out: Folder to write to.
        preset: paper: system prompt, temperature 0.9, top-p 0.95, answers of 8192 tokens, where not said otherwise.
        data: Local data of a task: gsm8k=PATH. May be repeated.
        data_dir: Folder with local data, in a folder for each task, such as gsm8k.
        plain: Continue the text as it stands, without chat template.
        seed: Random seed.
        max_new_tokens: Longest answer; if left out, the task's own, or 256.
        system: System message for conversations that have none.
        limit: At most this many prompts of each source.
        temperature: 0 is greedy; above, answers are sampled.
        top_p: Nucleus sampling: the likeliest tokens with this probability.
        top_k: Sample from this many most likely tokens; 0 for all.
        tokenizer: of a model in memory.
        progress: show progress on stderr, also in a notebook.
        say: called with each line for people, in place of stderr.

    Returns:
        A record for each answer, in the order of the prompts.
    Raises:
        InputError: a value that cannot be used, or a run folder that holds another run.
    """

def heal(
    model: str | PathLike[str] | ModelSettings | PreTrainedModel,
    teacher: str | PathLike[str] | ModelSettings | PreTrainedModel,
    prompts: str,
    *,
    revision: str | None = None,
    dtype: str = "auto",
    device: str = "auto",
    device_map: str | None = None,
    batch_size: int = 32,
    engine: str = "shared",
    cache_gib: float | str = 2.0,
    engine_pool: str | None = None,
    base_url: str | None = None,
    out: str | PathLike[str],
    preset: str | None = None,
    data: Mapping[str, str | PathLike[str]] = {},
    data_dir: str | PathLike[str] | None = None,
    seed: int = 42,
    max_new_tokens: int | None = None,
    system: str | None = None,
    limit: int | None = None,
    finished_only: bool = True,
    right_only: bool = False,
    method: str = "lora",
    objective: str = "sft",
    rank: int = 64,
    alpha: int = 16,
    dropout: float | str = 0.05,
    last_k: int = 3,
    learning_rate: float | str | None = None,
    schedule: str = "constant",
    warmup_steps: int = 50,
    optimizer: str = "adamw_torch",
    weight_decay: float | str = 0.0001,
    max_grad_norm: float | str = 1.0,
    train_batch: int = 8,
    micro_batch: int = 4,
    epochs: float | str = 1.0,
    max_steps: int | None = None,
    max_length: int = 8000,
    precision: str = "auto",
    gradient_checkpointing: str = "auto",
    held_out: float | str = 0.1,
    save_every: int = 100,
    patience: int = 3,
    rollout_max: int = 512,
    group: int = 8,
    seam: str = "linear",
    report_to: str | Sequence[str] = (),
    responses: str = "self",
    decontaminate: str | Sequence[str] = (),
    save_dtype: str = "auto",
    temperature: float | str = 0.0,
    top_p: float | str = 1.0,
    top_k: int = 0,
    tokenizer: Any = None,
    progress: bool = True,
    say: Callable[[str], None] | None = None,
) -> Path:
    """Train MODEL, a pruned checkpoint, on the original model's answers.

    ``layercut heal``.

    Args:
        model: Hugging Face id, local Hugging Face folder, .gguf file, or bundled:smollm2-135m (the embedded default).
        revision: Branch, tag or commit on the hub.
        dtype: auto (the checkpoint's own, on a CPU float32), float32, bfloat16 or float16.
        device: auto, cpu, cuda, cuda:1, mps, xpu.
        device_map: Spread a large model over devices, as in transformers: auto, balanced.
        batch_size: Sequences run at once; halved when memory runs out.
        engine: shared: what plans have in common is computed once; plain; vllm; llama.cpp: GGUF files; openai: a server, evaluated unchanged.
        cache_gib: GiB of memory for keys and values: those that plans share (shared), or all (vllm).
        engine_pool: Engines in many processes: local:N here, or ray://HOST:PORT, one for each GPU there (?gpus=K for each).
        base_url: openai: the server, such as http://localhost:8000/v1.
        prompts: .txt (one a line), .jsonl, .json, .csv (also .gz) or .parquet; hub:NAME[:config[:split]]; task:NAME, for its selection items. Several with commas between. Or a run folder of generate.
        out: Run folder; the healed model is in DIR/checkpoint.
        teacher: The original model, which answers and grades.
        preset: paper: answers and training as in arXiv:2602.01997.
        data: Local data of a task: gsm8k=PATH. May be repeated.
        data_dir: Folder with local data, in a folder for each task, such as gsm8k.
        seed: Random seed.
        max_new_tokens: Longest answer; if left out, the task's own, or 256.
        system: System message for conversations that have none.
        limit: At most this many prompts of each source.
        finished_only: Drop answers that ran into the length limit: they would teach the model not to stop.
        right_only: Drop answers that the task's grader finds wrong; answers that nothing grades stay.
        method: lora, qlora (4-bit base), full, last-k (the head and the last layers); or seam, which trains nothing.
        objective: sft (the answers' tokens), forward-kl, reverse-kl, on-policy, or grpo (grades of own answers, by TRL's trainer; prompts of tasks; a run that was stopped goes on, to other weights than without).
        rank: Rank of the LoRA adapters.
        alpha: LoRA alpha; updates are scaled by alpha / rank.
        dropout: Dropout before the adapters, in training.
        last_k: last-k: number of last layers to train, with the head.
        learning_rate: Learning rate after the warm-up; by default 1e-5 for full and last-k, else 2e-4.
        schedule: Learning rate after the warm-up: constant, or linear or cosine down to 0.
        warmup_steps: Steps of linear warm-up.
        optimizer: One of transformers' optimizers: adamw_torch, adafactor (a row and a column of moments for each matrix), adamw_bnb_8bit (bitsandbytes), adamw_torch_8bit (torchao), ...
        weight_decay: Weight decay of the optimizer.
        max_grad_norm: Gradients with a larger norm are scaled down to this.
        train_batch: Examples per step, over all devices and accumulation.
        micro_batch: Examples per pass of a device; a batch is accumulated from these.
        epochs: Passes over the examples.
        max_steps: Stop after this many steps, even within the epochs.
        max_length: Drop examples of more tokens, prompt and answer together.
        precision: Products in float32, or bfloat16 (weights and sums stay in float32); auto: bfloat16 on a GPU that has it.
        gradient_checkpointing: Keep only the inputs of layers and compute the rest again in the backward pass: on, off; auto: on a GPU.
        held_out: Share of the examples for evaluation, which are never trained on.
        save_every: Steps between checkpoints, and between evaluations of the held-out loss.
        patience: Stop after this many evaluations without a better held-out loss, and keep the best; 0: never.
        rollout_max: on-policy: last limit of the model's own answers; from 32 tokens it doubles while they do not repeat. grpo: their limit where the task's own is higher.
        group: grpo: answers to each prompt, which are graded against each other.
        seam: seam: linear (a map), or projection (the last matrix of the MLPs next to the cut).
        report_to: Trackers of the Hugging Face Trainer: tensorboard, wandb, ...
        responses: self: the teacher's own answers; original: the data set's answers.
        decontaminate: Tasks whose report items must not be trained on, in addition to the built-in ones and those with data.
        save_dtype: Dtype of the healed weights: float32, bfloat16, float16; auto: that of the pruned checkpoint.
        temperature: 0 is greedy; above, answers are sampled.
        top_p: Nucleus sampling: the likeliest tokens with this probability.
        top_k: Sample from this many most likely tokens; 0 for all.
        tokenizer: of a model in memory.
        progress: show progress on stderr, also in a notebook.
        say: called with each line for people, in place of stderr.

    Returns:
        The folder of the healed checkpoint.
    Raises:
        InputError: a value that cannot be used, or a run folder that holds another run.
    """

def draft(
    model: str | PathLike[str] | ModelSettings | PreTrainedModel,
    tokenizer: Any = None,
    *,
    revision: str | None = None,
    dtype: str = "auto",
    device: str = "auto",
    device_map: str | None = None,
    batch_size: int = 32,
    engine: str = "shared",
    cache_gib: float | str = 2.0,
    engine_pool: str | None = None,
    base_url: str | None = None,
    quantize: str | None = None,
    use: str | None = None,
    tasks: str | Sequence[str] = (),
    max_new_tokens: int | None = None,
    remove: str | PathLike[str] | Sequence[int] | CutPlan | None = None,
    items: int = 16,
    window: int = 8,
    out: str | PathLike[str] | None = None,
    data: Mapping[str, str | PathLike[str]] = {},
    data_dir: str | PathLike[str] | None = None,
    seed: int = 0,
    progress: bool = True,
    say: Callable[[str], None] | None = None,
) -> DraftDone:
    """Find a pruned MODEL that drafts for MODEL and makes it write faster.

    ``layercut draft``.

    Args:
        model: Hugging Face id, local Hugging Face folder, .gguf file, or bundled:smollm2-135m (the embedded default).
        revision: Branch, tag or commit on the hub.
        dtype: auto (the checkpoint's own, on a CPU float32), float32, bfloat16 or float16.
        device: auto, cpu, cuda, cuda:1, mps, xpu.
        device_map: Spread a large model over devices, as in transformers: auto, balanced.
        batch_size: Sequences run at once; halved when memory runs out.
        engine: shared: what plans have in common is computed once; plain; vllm; llama.cpp: GGUF files; openai: a server, evaluated unchanged.
        cache_gib: GiB of memory for keys and values: those that plans share (shared), or all (vllm).
        engine_pool: Engines in many processes: local:N here, or ray://HOST:PORT, one for each GPU there (?gpus=K for each).
        base_url: openai: the server, such as http://localhost:8000/v1.
        quantize: Quantise the weights once they are loaded, by torchao: int8, int4 or fp8.
        use: What the model writes: math, code, summarize, chat or copy; names tasks, as in prune.
        tasks: Tasks in place of a use: names, or a .jsonl or .csv.
        max_new_tokens: Longest answer, of tasks where it can be chosen.
        remove: A plan to measure, in place of a search: 9-12, or a plan.json.
        items: Report items of each task that are answered with and without the draft, and timed.
        window: Most tokens that a draft may propose at once.
        out: Folder to write to; runs/draft-<model> if left out.
        data: Local data of a task: gsm8k=PATH. May be repeated.
        data_dir: Folder with local data, in a folder for each task, such as gsm8k.
        seed: Random seed.
        tokenizer: of a model in memory.
        progress: show progress on stderr, also in a notebook.
        say: called with each line for people, in place of stderr.

    Returns:
        result, all that draft.json holds, and folder.
    Raises:
        InputError: a value that cannot be used, or a run folder that holds another run.
    """

def quantise(
    model: str | PathLike[str] | ModelSettings | PreTrainedModel,
    tokenizer: Any = None,
    *,
    revision: str | None = None,
    dtype: str = "auto",
    device: str = "auto",
    device_map: str | None = None,
    batch_size: int = 32,
    engine: str = "shared",
    cache_gib: float | str = 2.0,
    use: str | None = None,
    tasks: str | Sequence[str] = (),
    max_new_tokens: int | None = None,
    size: str | None = None,
    bits: float | str | None = None,
    types: str | Sequence[str] = (),
    recipe: str | PathLike[str] | None = None,
    answers: int = 16,
    general: int = 8,
    held_out: int = 8,
    gradients: bool = True,
    imatrix: str | PathLike[str] | None = None,
    compare_plain: bool = True,
    remove: str | PathLike[str] | Sequence[int] | CutPlan | None = None,
    items: int | None = None,
    out: str | PathLike[str] | None = None,
    write_imatrix: str | PathLike[str] | None = None,
    data: Mapping[str, str | PathLike[str]] = {},
    data_dir: str | PathLike[str] | None = None,
    seed: int = 0,
    progress: bool = True,
    say: Callable[[str], None] | None = None,
) -> Quantised:
    """Write MODEL as a GGUF file of a given size, with more bits where your task needs them.

    ``layercut quantise``.

    Args:
        model: Hugging Face id, local Hugging Face folder, .gguf file, or bundled:smollm2-135m (the embedded default).
        revision: Branch, tag or commit on the hub.
        dtype: auto (the checkpoint's own, on a CPU float32), float32, bfloat16 or float16.
        device: auto, cpu, cuda, cuda:1, mps, xpu.
        device_map: Spread a large model over devices, as in transformers: auto, balanced.
        batch_size: Sequences run at once; halved when memory runs out.
        engine: shared: what plans have in common is computed once; plain; vllm; llama.cpp: GGUF files; openai: a server, evaluated unchanged.
        cache_gib: GiB of memory for keys and values: those that plans share (shared), or all (vllm).
        use: math, code, summarize, classify, chat, copy or all.
        tasks: Tasks in place of a use: names, or a .jsonl or .csv.
        max_new_tokens: Longest answer, of tasks where it can be chosen.
        size: Most bytes of the file: 600MB, 0.6GB, or 55% of MODEL's.
        bits: In place of a size: mean bits of a weight, such as 3.2.
        types: ggml types that tensors may get, such as q3_k,q4_k,q6_k; all that fit if left out.
        recipe: In place of a size: types by tensor, a file as llama-quantize --tensor-type-file takes it.
        answers: Own answers to selection items of each task that types follow.
        general: Own answers to general requests that types follow too; 0 for none.
        held_out: Other own answers of each task, on which the divergence is measured.
        gradients: Weigh errors by gradients; else by what matrices read alone.
        imatrix: An importance matrix (imatrix.gguf or .dat) in place of the one measured here.
        compare_plain: Measure the plain type of the nearest size as well.
        remove: What is removed first, as in cut: a plan.json, layers, vocab:ascii, mlp:0.1.
        items: Test the file at once, on so many report items of each task that MODEL answers too.
        out: The file, which ends in .gguf, or a run folder; runs/quantise-<model> if left out.
        write_imatrix: Write the importance matrix too, for llama-quantize --imatrix; .dat is the older form.
        data: Local data of a task: gsm8k=PATH. May be repeated.
        data_dir: Folder with local data, in a folder for each task, such as gsm8k.
        seed: Random seed.
        tokenizer: of a model in memory.
        progress: show progress on stderr, also in a notebook.
        say: called with each line for people, in place of stderr.

    Returns:
        result, all that quantise.json holds, folder and file.
    Raises:
        InputError: a value that cannot be used, or a run folder that holds another run.
    """

def run_study(
    study: str | PathLike[str] | Mapping[str, Any] | StudySettings,
    *,
    out: str | PathLike[str] | None = None,
    seed: int | None = None,
    limit: int | None = None,
    report_to: str | Sequence[str] = (),
    trust_study_code: bool = False,
    progress: bool = True,
    say: Callable[[str], None] | None = None,
) -> StudyOutcome:
    """Run a study: plans, criteria, healing, tasks and seeds.

    ``layercut run``.

    Args:
        study: YAML file, such as examples/quickstart.yaml.
        out: Run folder in place of the file's.
        seed: Random seed, in place of the file's.
        limit: At most this many items of each task; shown in every table.
        report_to: Trackers that get every number: trackio, wandb, tensorboard, mlflow.
        trust_study_code: Let the file name code to be run: my.module:function.
        progress: show progress on stderr, also in a notebook.
        say: called with each line for people, in place of stderr.

    Returns:
        Rows of comparisons, paths of reports and checkpoints, and what failed.
    Raises:
        InputError: a value that cannot be used, or a run folder that holds another run.
    """

def sweep(
    model: str | PathLike[str] | ModelSettings | PreTrainedModel,
    objective: str | Sequence[str | TaskSettings],
    *,
    revision: str | None = None,
    dtype: str = "auto",
    device: str = "auto",
    device_map: str | None = None,
    batch_size: int = 32,
    engine: str = "shared",
    cache_gib: float | str = 2.0,
    engine_pool: str | None = None,
    base_url: str | None = None,
    quantize: str | None = None,
    readouts: str | Sequence[str] | None = None,
    limit: int = 100,
    data: Mapping[str, str | PathLike[str]] = {},
    data_dir: str | PathLike[str] | None = None,
    layers: str | None = None,
    out: str | PathLike[str] | None = None,
    seed: int = 0,
    report_to: str | Sequence[str] = (),
    temperature: float | str = 0.0,
    top_p: float | str = 1.0,
    top_k: int = 0,
    tokenizer: Any = None,
    progress: bool = True,
    say: Callable[[str], None] | None = None,
) -> Swept:
    """Skip each layer of MODEL alone and measure what tasks keep.

    ``layercut sweep``.

    Args:
        model: Hugging Face id, local Hugging Face folder, .gguf file, or bundled:smollm2-135m (the embedded default).
        revision: Branch, tag or commit on the hub.
        dtype: auto (the checkpoint's own, on a CPU float32), float32, bfloat16 or float16.
        device: auto, cpu, cuda, cuda:1, mps, xpu.
        device_map: Spread a large model over devices, as in transformers: auto, balanced.
        batch_size: Sequences run at once; halved when memory runs out.
        engine: shared: what plans have in common is computed once; plain; vllm; llama.cpp: GGUF files; openai: a server, evaluated unchanged.
        cache_gib: GiB of memory for keys and values: those that plans share (shared), or all (vllm).
        engine_pool: Engines in many processes: local:N here, or ray://HOST:PORT, one for each GPU there (?gpus=K for each).
        base_url: openai: the server, such as http://localhost:8000/v1.
        quantize: Quantise the weights once they are loaded, by torchao: int8, int4 or fp8.
        objective: Tasks, separated by commas: names, NAME:5 with five worked examples, lm-eval:NAME for any of lm-eval, suite:quick (builtin, paper) for those of a suite.
        readouts: rank, short, chain; each task's first if left out.
        limit: At most this many items of each task; shown in every table.
        data: Local data of a task: gsm8k=PATH. May be repeated.
        data_dir: Folder with local data, in a folder for each task, such as gsm8k.
        layers: Layers to skip, one at a time, ranges inclusive: 0-9,20. All if left out.
        out: Run folder; runs/<model>-sweep if left out.
        seed: Random seed.
        report_to: Trackers that get every number: trackio, wandb, tensorboard, mlflow.
        temperature: 0 is greedy; above, answers are sampled.
        top_p: Nucleus sampling: the likeliest tokens with this probability.
        top_k: Sample from this many most likely tokens; 0 for all.
        tokenizer: of a model in memory.
        progress: show progress on stderr, also in a notebook.
        say: called with each line for people, in place of stderr.

    Returns:
        sweep, with a row for each layer and task, and folder.
    Raises:
        InputError: a value that cannot be used, or a run folder that holds another run.
    """

def diagnose(
    model: str | PathLike[str] | ModelSettings | PreTrainedModel,
    cuts: str | Sequence[str],
    *,
    revision: str | None = None,
    dtype: str = "auto",
    device: str = "auto",
    device_map: str | None = None,
    batch_size: int = 32,
    engine: str = "shared",
    cache_gib: float | str = 2.0,
    engine_pool: str | None = None,
    base_url: str | None = None,
    quantize: str | None = None,
    only: str | Sequence[str] = (),
    limit: int = 32,
    out: str | PathLike[str] | None = None,
    seed: int = 0,
    tokenizer: Any = None,
    progress: bool = True,
    say: Callable[[str], None] | None = None,
) -> Diagnosed:
    """Find out what exactly broke in each CUT of MODEL, item by item.

    ``layercut diagnose``.

    Args:
        model: Hugging Face id, local Hugging Face folder, .gguf file, or bundled:smollm2-135m (the embedded default).
        revision: Branch, tag or commit on the hub.
        dtype: auto (the checkpoint's own, on a CPU float32), float32, bfloat16 or float16.
        device: auto, cpu, cuda, cuda:1, mps, xpu.
        device_map: Spread a large model over devices, as in transformers: auto, balanced.
        batch_size: Sequences run at once; halved when memory runs out.
        engine: shared: what plans have in common is computed once; plain; vllm; llama.cpp: GGUF files; openai: a server, evaluated unchanged.
        cache_gib: GiB of memory for keys and values: those that plans share (shared), or all (vllm).
        engine_pool: Engines in many processes: local:N here, or ray://HOST:PORT, one for each GPU there (?gpus=K for each).
        base_url: openai: the server, such as http://localhost:8000/v1.
        quantize: Quantise the weights once they are loaded, by torchao: int8, int4 or fp8.
        cuts: Pruned models: layers (3,8,21-24), reverse:N or random:N, each:0-9 for every layer alone, a plan.json, or another model: the folder of a cut or healed checkpoint, or a model that others made of MODEL.
        only: Some of: arithmetic, brackets, degeneration, propagation. All if left out.
        limit: Items of each kind of question; shown on the page.
        out: Run folder; runs/<model>-diagnose if left out.
        seed: Random seed.
        tokenizer: of a model in memory.
        progress: show progress on stderr, also in a notebook.
        say: called with each line for people, in place of stderr.

    Returns:
        report, the path of diagnose.md, and data, what diagnose.json holds.
    Raises:
        InputError: a value that cannot be used, or a run folder that holds another run.
    """

def compare(
    first: str | PathLike[str],
    second: str | PathLike[str],
    *,
    margin: str | None = None,
    markdown: bool = False,
    page: str | PathLike[str] | None = None,
    seed: int = 0,
    progress: bool = True,
    say: Callable[[str], None] | None = None,
) -> list[ComparisonRow]:
    """Compare two runs item by item: is one better, or as good within a margin?

    ``layercut compare``.

    Args:
        first: A run: of a study's plan, or of an eval; or a log of lm-eval, inspect_ai or EvalPlus.
        second: Another one, of the same items.
        margin: Loss that makes no difference: 2 for two points of score, 5% for a share of A's score above chance. Gives every row a verdict.
        markdown: Print Markdown, for a pull request.
        page: Write a page for a browser, with both answers to every item.
        seed: Random seed.
        progress: show progress on stderr, also in a notebook.
        say: called with each line for people, in place of stderr.

    Returns:
        A row for each task, readout and metric, then those of lm-eval's groups; uncut of a row is the first run, cut the second, by_margin its verdict.
    Raises:
        InputError: a value that cannot be used, or a run folder that holds another run.
    """

def push(
    folder: str | PathLike[str],
    repo: str,
    *,
    private: bool = False,
    progress: bool = True,
    say: Callable[[str], None] | None = None,
) -> str:
    """Push a checkpoint to the Hugging Face hub, with its evidence.

    ``layercut push``.

    Args:
        folder: Folder of a prune or a heal, or a checkpoint that layercut wrote.
        repo: user/name; created if it is not there.
        private: Create the repository as a private one.
        progress: show progress on stderr, also in a notebook.
        say: called with each line for people, in place of stderr.

    Returns:
        Address of the repository.
    Raises:
        InputError: a value that cannot be used, or a run folder that holds another run.
    """
