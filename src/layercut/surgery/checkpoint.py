"""A pruned checkpoint on disk: a plain Hugging Face folder, written from the original one without loading it."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from layercut.errors import CheckpointError, InputError
from layercut.models import weights
from layercut.models.cache import remembered_value
from layercut.models.convert import SOURCE_FILE, read_conversion
from layercut.models.gguf_file import describe_copy
from layercut.models.sources import ModelSource
from layercut.models.structure import Structure, config_of, config_text_part, counted_field, structure_of
from layercut.models.weights import EARLIER_PLANS_FILE, PLAN_FILE, TensorSpan, read_config, stored_tensors
from layercut.runs.atomic import new_directory, refuse_used
from layercut.runs.disk import check_free_space, size_change, writing_to_disk
from layercut.runs.settings import read_json_or_refuse
from layercut.surgery import config_fields, shards
from layercut.surgery.kinds import check_kinds
from layercut.surgery.plan import CutPlan
from layercut.surgery.trimming import SLOW_FILES, follow_token_ids, trim_token_files
from layercut.surgery.width import thin_config
from layercut.text import parameters_text

if TYPE_CHECKING:
    from transformers import PretrainedConfig

MAX_SHARD_BYTES = 5 * 10**9  # largest weight file, in bytes of tensors; 5 GB is what the hub asks for
_ELSEWHERE = "use another `out`"
OLD_CARD_FILE = "README.uncut.md"  # the original model's card, kept for its licence and credits
_NOT_COPIED = re.compile(
    r"\..*|config\.json|adapter_.*"  # hidden files, files that are written again, adapters that would be loaded on top
    r"|.*\.(safetensors|bin|pt|pth|ckpt|h5|msgpack|onnx|onnx_data|gguf|ggml|npz|ot|tflite|mlmodel|pb|distcp)"
    r"|.*\.index\.json"
    r"|(optimizer|scheduler|scaler|rng_state|trainer_state|training_args).*|latest|all_results\.json|events\.out.*",
    re.IGNORECASE,
)
"""Files of the uncut folder that do not belong to a pruned model: weights in any format, and what training left."""
_COPIED_FOLDERS = ("additional_chat_templates",)
_BUFFER = re.compile(r"(^|\.)(attn|attention)\.(masked_)?bias$|\.rotary_emb\.inv_freq$")
"""Tensors in old checkpoints of gpt2 and gpt_neox that are no parameters."""


@dataclass(frozen=True, kw_only=True)
class CutReport:
    """Report of a cut, planned or done."""

    plan: CutPlan
    out: Path | None = None  # the new folder or GGUF file; None for a dry run
    bytes_before: int  # size of the weights, without headers
    bytes_after: int
    parameters_before: int
    """Elements of all stored tensors; in a packed quantized checkpoint fewer than the model's parameters."""
    parameters_after: int
    tensors_before: int
    tensors_after: int
    shards: tuple[str, ...]  # names of the weight files
    copied: tuple[str, ...] = ()
    """Files that come along as they are: tokenizer, chat template, generation config, licence, remote code."""
    warnings: tuple[str, ...] = ()  # remarks for users of the pruned model
    copy: str = ""  # remark on a matrix that the loading of a GGUF file left out; empty where it left none
    checked: str = ""  # result of reading the written files again, in words; empty for a dry run
    verified: str = ""  # result of the comparison with the bypassed model, in words; empty where none was made
    gguf: tuple[int, int] | None = None
    """Of a model that is a GGUF file: its bytes, and those without what the plan removes."""
    mergekit: Path | None = None  # the configuration that was written in place of a checkpoint

    def lines(self) -> list[str]:
        lines = [
            f"parameters: {parameters_text(self.parameters_before)} -> {parameters_text(self.parameters_after)}",
            f"weights: {size_change(self.bytes_before, self.bytes_after)}, "
            f"{self.tensors_before} -> {self.tensors_after} tensors in {len(self.shards)} file(s)",
        ]
        if self.gguf is not None:
            lines.append(f"from GGUF to GGUF: {size_change(*self.gguf)}")
        lines += [self.copy] if self.copy else []
        lines += [f"verified: {self.verified}"] if self.verified else []
        if self.mergekit is not None:
            return [*lines, f"no checkpoint was written; mergekit-yaml {self.mergekit} DIR writes it"]
        return [*lines, f"checkpoint: {self.out}" if self.out else "dry run: nothing was written"]

    def to_dict(self) -> dict[str, Any]:
        return {
            "out": str(self.out) if self.out else None,
            "plan": self.plan.to_dict(),
            "parameters": [self.parameters_before, self.parameters_after],
            "bytes": [self.bytes_before, self.bytes_after],
            "tensors": [self.tensors_before, self.tensors_after],
            "shards": list(self.shards),
            "copied": list(self.copied),
            "warnings": list(self.warnings),
            "copy": self.copy,
            "verified": self.verified,
            **({} if self.gguf is None else {"gguf_bytes": list(self.gguf)}),
        }


def plan_cut(source: Path, plan: CutPlan) -> CutReport:
    """The report of ``cut_checkpoint`` in advance, from the config and the headers of the weight files."""
    return _prepare(source, plan, MAX_SHARD_BYTES).report


def pruned_model(source: Path, plan: CutPlan) -> tuple[dict[str, Any], list[TensorSpan]]:
    """The config and the tensors that ``cut_checkpoint`` would write."""
    work = _prepare(source, plan, MAX_SHARD_BYTES)
    return work.config, [span for spans in work.shards.values() for span in spans]


def cut_checkpoint(
    source: Path,
    plan: CutPlan,
    out: Path,
    *,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    check: Callable[[Path, CutReport], object] = lambda folder, report: None,
) -> CutReport:
    """Write the pruned model to ``out``, a folder that is there whole or not at all.

    Weights are copied byte by byte and only their names change, or entries of MLP channels are left out, so dtypes,
    quantization and tied weights stay as they are, and memory does not grow with the model. ``plan.json`` lies in the
    folder; when the original model was itself cut, its plan goes to ``earlier_plans.json``. An empty plan gives a copy.
    ``check`` gets the finished folder and the report before it takes its name; if it raises, nothing is left.

    Raises InputError: the plan does not fit the model, it is no decoder, ``out`` is not empty, or the disk is full;
    CheckpointError: files are missing or damaged.
    """
    source, out = Path(source), Path(out)
    refuse_used(out)
    work = _prepare(source, plan, max_shard_bytes)
    report = work.report
    with writing_to_disk(out, _ELSEWHERE), new_directory(out) as folder:
        copied_bytes = sum((source / name).stat().st_size for name in report.copied)
        check_free_space(out, report.bytes_after + copied_bytes, _ELSEWHERE)
        shards.write_shards(work.shards, folder, work.metadata, report.parameters_after)
        for name in report.copied:
            target = folder / (OLD_CARD_FILE if name == "README.md" else name)
            target.parent.mkdir(exist_ok=True)
            shutil.copyfile(source / name, target)
        plan.save(folder / PLAN_FILE)
        files = {"config.json": work.config, **work.files}
        files |= {EARLIER_PLANS_FILE: recorded_plans_of(source)} if (source / PLAN_FILE).is_file() else {}
        for name, data in files.items():
            text = json.dumps(data, indent=2, ensure_ascii=False) + "\n"
            (folder / name).write_text(text, encoding="utf-8")
        report = replace(report, checked=shards.check_written(folder, work.shards))
        check(folder, report)
    return replace(report, out=out)


class _Work(NamedTuple):
    config: dict[str, Any]
    shards: Mapping[str, list[TensorSpan]]  # by name of a weight file
    metadata: Mapping[str, str]  # of every weight file
    report: CutReport
    files: Mapping[str, Any]  # content of the original's files that name layers or tokens, for the pruned model


def _prepare(source: Path, plan: CutPlan, max_shard_bytes: int) -> _Work:
    """Everything there is to know before the first byte is written."""
    raw = read_config(source)
    field = counted_field(raw)[0]
    if field is not None:  # before transformers makes layers and lists of that number
        config_fields.check_depth(config_text_part(raw), plan, Structure(model_type="", num_layers_field=field))
    before, metadata = stored_tensors(source), {"format": "pt"}
    for file in () if (source / weights.TENSORS_FILE).is_file() else dict.fromkeys(piece.file for piece in before):
        metadata = {**weights.read_header(file).metadata, **metadata}
    structure = structure_of(raw, str(source), [piece.name for piece in before])
    following = [raw, asdict(structure), plan.num_layers, plan.removed]
    cut = remembered_value("pruned", following, lambda: _pruned_config(raw, plan.depth_only, structure, source))
    cut = thin_config(cut, plan.channels)
    config = structure.with_text_config(raw, cut)
    left_out = read_conversion(source).get("copy")
    thin = before if plan.channels is None else shards.thinned_tensors(before, plan.channels, structure, raw, source)
    copied, changed = files_to_copy(source), dict[str, Any]()
    if plan.vocabulary is not None:
        thin = shards.trimmed_tensors(thin, plan.vocabulary, structure, raw, source)
        config, changed = follow_token_ids(config, plan.vocabulary), trim_token_files(source, plan.vocabulary)
        copied = tuple(name for name in copied if name not in changed and name not in SLOW_FILES)
    # Some models store layers for multi-token prediction behind the decoder layers.
    has_extra = bool(structure.text_config(raw).get("num_nextn_predict_layers"))
    after = shards.renamed_tensors(thin, plan, structure, source, has_extra=has_extra)
    numbers = config_fields.LayerNumbers(plan, structure)
    config = config_fields.with_older_fields(config_fields.follow_config(config, raw, numbers))
    files = shards.lay_out_shards(after, max_shard_bytes)

    def num_parameters(pieces: list[TensorSpan]) -> int:
        return sum(piece.num_parameters for piece in pieces if not _BUFFER.search(piece.name))

    report = CutReport(
        plan=plan,
        bytes_before=sum(piece.num_bytes for piece in before),
        bytes_after=sum(piece.num_bytes for piece in after),
        parameters_before=num_parameters(before),
        parameters_after=num_parameters(after),
        tensors_before=len(before),
        tensors_after=len(after),
        shards=tuple(files),
        copied=copied,
        warnings=_warnings(cut, config, source, structure),
        copy=describe_copy(left_out) if isinstance(left_out, dict) else "",
    )
    return _Work(config, files, metadata, report, changed | config_fields.follow_files(source, numbers))


def _pruned_config(raw: Mapping[str, Any], depth: CutPlan, structure: Structure, source: Path) -> dict[str, Any]:
    """The language model's section of the pruned config.json, with MLPs as they were; no layer may become another."""
    whole = config_of(raw, str(source))
    cut = config_fields.cut_config(structure.text_config(raw), depth, structure, resolved=_text_of(whole))
    try:
        pruned = config_of(structure.with_text_config(raw, cut), str(source))
    except CheckpointError as error:
        why = str(error).rpartition("accepts: ")[2]
        raise InputError(f"transformers accepts no such pruned model: {why}") from error
    read_back = _text_of(pruned)
    for name in config_fields.LISTS | config_fields.INDEX_LISTS:
        if isinstance(cut.get(name), list) and read_back.get(name, cut[name]) != cut[name]:
            raise InputError(
                f"transformers would read {name} of the pruned model as {read_back[name]}, but its layers are "
                f"{cut[name]}; the type {structure.model_type} cannot express this plan."
            )
    check_kinds(whole, pruned, depth)
    return cut


def _text_of(config: PretrainedConfig) -> dict[str, Any]:
    return dict(config.get_text_config(decoder=True).to_dict())


def files_to_copy(source: Path) -> tuple[str, ...]:
    """Files of a model folder that go along with changed weights: tokenizer, generation config, licence, code ..."""
    here = [path.name for path in source.iterdir() if path.is_file() and not _NOT_COPIED.fullmatch(path.name)]
    below = [f"{name}/{path.name}" for name in _COPIED_FOLDERS for path in source.glob(f"{name}/*") if path.is_file()]
    # Plans are written again, and what a converted file was speaks of other weights than those of the pruned model.
    return tuple(sorted({*here, *below} - {PLAN_FILE, EARLIER_PLANS_FILE, SOURCE_FILE, weights.TENSORS_FILE}))


def _warnings(cut: Mapping[str, Any], config: Mapping[str, Any], source: Path, structure: Structure) -> tuple[str, ...]:
    """Lists whose entries are not what a model of this type and depth would have by itself."""
    lists = {name for name in config_fields.LISTS if isinstance(cut.get(name), list)}
    bare = structure.with_text_config(config, {name: value for name, value in cut.items() if name not in lists})

    def read_lists() -> dict[str, Any]:
        whole = _text_of(config_of(bare, str(source)))
        return {name: whole.get(name) for name in lists}

    default = remembered_value("lists", [bare, sorted(lists)], read_lists) if lists else {}
    return tuple(
        f"{name} of the kept layers differs from the default of {structure.model_type} for this depth. transformers "
        "reads it from config.json; an engine that derives it from the layer's position (llama.cpp does for gemma2 and "
        "gemma3) would run another model. Compare its output with transformers before relying on it."
        for name in sorted(lists)
        if default.get(name) not in (None, cut[name])
    )


def recorded_plans_of(folder: Path) -> list[dict[str, Any]]:
    """The plans by which a checkpoint was cut, oldest first, with its healings; empty for a whole model."""
    earlier, last = folder / EARLIER_PLANS_FILE, folder / PLAN_FILE
    held = read_json_or_refuse(earlier, f"{earlier} cannot be read") if earlier.is_file() else []
    plans: list[Any] = held if isinstance(held, list) else [held]
    if last.is_file():
        plans = [*plans, read_json_or_refuse(last, f"{last} cannot be read")]
    for plan in plans:
        CutPlan.from_dict(plan, str(last))
    return plans


def earlier_plans(folder: Path) -> list[CutPlan]:
    """The same as plans. Raises as ``recorded_plans_of``."""
    return [CutPlan.from_dict(plan, str(folder)) for plan in recorded_plans_of(folder)]


def recorded_healings(source: ModelSource) -> list[dict[str, Any]]:
    """The entries of all healings behind a checkpoint, oldest first."""
    return [entry for plan in recorded_plans_of(source.path) for entry in plan.get("healing", ())]


def steps_of_earlier_cuts(recorded: Iterable[Mapping[str, Any]], where: str = "plan") -> tuple[dict[str, Any], ...]:
    """Earlier cuts and healings that changed something, as the plan of a later cut has them, from recorded plans."""
    steps = []
    for data in recorded:
        plan, healed = CutPlan.from_dict(data, where), [str(entry.get("method")) for entry in data.get("healing", ())]
        whole = plan.to_dict()
        step = {name: whole[name] for name in ("model", "model_hash", "num_layers", "removed")}
        step |= {"mlp": plan.channels.share} if plan.channels else {}
        step |= {"tokens": plan.vocabulary.share} if plan.vocabulary else {}
        steps.append(step | ({"healed": healed} if healed else {}))
    return tuple(step for step in steps if step["removed"] or any(map(step.get, ("mlp", "tokens", "healed"))))


def with_earlier(plan: CutPlan, source: ModelSource) -> CutPlan:
    """A plan that also says what its model lost before and how it was healed, if its checkpoint was cut before."""
    earlier = steps_of_earlier_cuts(recorded_plans_of(source.path))
    return replace(plan, earlier=earlier) if earlier else plan
