"""Cut a GGUF file to a GGUF file from byte ranges of the old one; memory does not grow with the model."""

from __future__ import annotations

import itertools
import json
import math
import os
import re
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from layercut import __version__
from layercut.errors import CheckpointError, InputError, VerificationError
from layercut.models import gguf_file as gguf_format
from layercut.models.convert import PREFIX, bundled_file, bundled_model, file_sha256
from layercut.models.gguf_file import GgufHead, GgufTensor, find_copied_matrix, read_gguf_head, recorded_plans
from layercut.models.sources import describe_source, resolve_source
from layercut.runs.atomic import refuse_existing, write_new_file
from layercut.runs.disk import check_free_space, writing_to_disk
from layercut.settings import ModelSettings
from layercut.surgery import gguf_parts
from layercut.surgery.checkpoint import CutReport, steps_of_earlier_cuts
from layercut.surgery.gguf_metadata import block_tensor, cut_metadata, renumber_blocks
from layercut.surgery.plan import CutPlan

SUFFIX = ".gguf"
_ELSEWHERE = "use another `out`"
_UINT32, _INT32 = 4, 5
_PARTS = re.compile(r"-\d{5}-of-\d{5}\.gguf$")


def gguf_file(model: str) -> Path | None:
    """The GGUF file that a model is; None for a folder or a hub id."""
    file = bundled_file(bundled_model(model)) if model.startswith(PREFIX) else Path(model).expanduser()
    return file if file.is_file() else None


def gguf_bytes(file: Path, plan: CutPlan) -> int:
    """Bytes of a GGUF file under a plan, without a copy of its embeddings."""
    removed, saved = tuple(f"blk.{layer}." for layer in plan.removed), 0
    for tensor in () if plan.is_uncut else read_gguf_head(file).tensors:
        stays = 0 if tensor.name.startswith(removed) else _smaller(tensor, plan)[0].num_bytes
        saved += tensor.num_bytes - stays
    if copy := find_copied_matrix(file):
        saved += copy.left_out.num_bytes
    return file.stat().st_size - saved


def gguf_to_gguf(model: str, out: Path | None) -> Path | None:
    """The GGUF file of ``model`` if ``out`` asks for a GGUF file too; None where ``out`` is a folder."""
    if out is None or out.suffix.lower() != SUFFIX:
        return None
    if (file := gguf_file(model)) is None:
        raise InputError(
            f"{model} is no GGUF file; write a folder and convert it by llama.cpp's convert_hf_to_gguf.py."
        )
    if _PARTS.search(out.name):
        raise InputError(f"{out.name} is the name of one part of several, and one file is written; use another `out`.")
    return file


def cut_gguf_file(
    settings: ModelSettings,
    make_plan: Callable[..., CutPlan],
    file: Path,
    out: Path,
    *,
    verify: bool,
    healed: Path | None = None,
    dry_run: bool = False,
    say: Callable[[str], None] = lambda text: None,
) -> CutReport:
    """Write the pruned GGUF file to ``out``, or say what would be written; it takes its name after the checks.

    These compare names, types, metadata and bytes; with ``verify`` also the config that transformers reads, and rows
    and columns by other code than wrote them. ``make_plan`` gives the plan for ``num_layers``, ``model`` and, where it
    is known, ``model_hash``. ``healed`` is a checkpoint of the same plan, healed in closed form, whose last matrices
    are written.
    """
    if settings.revision is not None:
        raise InputError(f"{settings.model} has no revisions (`revision` is for models of the hub); leave it out.")
    refuse_existing(out)
    head = read_gguf_head(file)
    if head.num_layers is None:
        raise CheckpointError(f"{file} has no {head.architecture}.block_count; it holds no decoder layers.")
    unread = _unread(head) if healed is not None or (verify and not dry_run) else ""
    compares = unread is None
    named: dict[str, Any] = {"num_layers": head.num_layers, "model": settings.model}
    plan = make_plan(**named)
    if not plan.is_uncut:
        _changes(head, plan)  # refuses what no file can express, before anything slow
    sha256 = None if dry_run else file_sha256(file)
    if compares:
        try:
            source = resolve_source(settings.model, weights=healed is not None)
        except InputError as error:
            raise type(error)(
                f"{error} To cut the file by its bytes, unread by transformers, say `verify=false`."
            ) from error
        named["model_hash"] = describe_source(source).model_hash
    plan = make_plan(**named)
    if not compares and plan.model_hash is not None:  # of a plan.json; its name must do
        if plan.model != settings.model:
            raise InputError(
                f"the plan was made for {plan.model or 'a model without a name'} ({plan.model_hash}), and whether "
                f"{settings.model} is the same is not known without all of its weights. Leave out `verify=false` and "
                f"`dry_run` to have the hashes compared, or name the layers: `remove` {plan.label or 'LAYERS'}."
            )
        plan = replace(plan, model_hash=None)
    if before := recorded_plans(head):
        plan = replace(plan, earlier=steps_of_earlier_cuts(before, gguf_format.PLAN))
    say(f"{settings.model}: {plan.describe()}")
    if plan.is_uncut and find_copied_matrix(file) is None:
        raise InputError("the plan removes nothing, and no copy of the embeddings is there, so nothing is cut.")
    repaired = None
    if healed is not None:
        if not compares:
            raise InputError(f"`healed` needs a model that transformers reads, and {unread}.")
        repaired = gguf_parts.read_healed_cut(healed, source.path, plan)
    work = _prepare(file, head, plan, settings.model, sha256, repaired)
    if dry_run:
        return work.report
    with writing_to_disk(out, _ELSEWHERE), write_new_file(out) as part:
        check_free_space(out, work.num_bytes, _ELSEWHERE)
        with part.open("wb", buffering=0) as target:
            target.write(work.header)
            for moved in work.tensors:
                target.writelines(moved.part.chunks(file, moved.old.offset))
                target.write(bytes(-moved.new.num_bytes % head.alignment))
            os.fsync(target.fileno())
        say("comparing every tensor and key of the new file with the original's ...")
        _check_written(work, head, file, part)
        verified = f"{len(work.tensors)} tensors have the bytes of the original's"
        if work.report.warnings:
            verified = f"{verified}, but {work.report.warnings[0]}"
        if compares and verify:
            from layercut.surgery.verify_gguf import compare_changed, compare_header

            say("reading the new file's header with transformers ...")
            pairs = zip((moved.old for moved in work.tensors), read_gguf_head(part).tensors, strict=True)
            changed = compare_changed(file, part, pairs, plan, repaired.matrices if repaired else {})
            read = compare_header(part, source.path, plan)
            verified = "; ".join(filter(None, (verified, changed, read)))
        elif verify:
            verified = f"{verified}; its header was not read again, as {unread}"
    return replace(work.report, out=out, verified=verified)


class _Moved(NamedTuple):
    """One tensor of the new file."""

    new: GgufTensor  # its offset is counted from the first tensor
    old: GgufTensor
    part: gguf_parts.Part  # what stays of it


class _Work(NamedTuple):
    header: bytes  # everything before the first tensor, padded
    tensors: tuple[_Moved, ...]
    changed: frozenset[str]  # keys whose values differ from the original's
    num_bytes: int  # size of the new file
    report: CutReport


def _prepare(
    file: Path, head: GgufHead, plan: CutPlan, model: str, sha256: str | None, healed: gguf_parts.HealedCut | None
) -> _Work:
    """Everything there is to know before the first byte is written."""
    import gguf

    copy, changes = find_copied_matrix(file), _changes(head, plan)
    stay = renumber_blocks(head, plan)
    kept, offset = [], 0
    for tensor in head.tensors:
        block = block_tensor(tensor.name)
        if (block is not None and block[0] not in stay) or (copy and tensor == copy.left_out):
            continue
        name = tensor.name if block is None else f"blk.{stay[block[0]]}.{block[1]}"
        if copy and tensor == copy.kept:
            name = gguf_format.EMBEDDINGS
        new, part = _smaller(tensor, plan)
        if healed and block and block[1] == gguf_parts.LAST and block[0] in healed.matrices:
            new, part = gguf_parts.replace_matrix(tensor, healed.matrices[block[0]])
        num_rows = math.prod(tensor.shape[1:])
        part = part or gguf_parts.Taken(num_rows, 1, tensor.num_bytes // num_rows, (0,))
        kept.append(_Moved(new._replace(name=name, offset=offset), tensor, part))
        offset += new.num_bytes + -new.num_bytes % head.alignment
    left_out = copy.to_dict() if copy else {"bytes": 0, "parameters": 0}
    rounded = [moved for moved in kept if isinstance(moved.part, gguf_parts.Requantised | gguf_parts.FromCheckpoint)]
    remark = gguf_parts.describe_requantised((moved.old.kind, moved.new.kind) for moved in rounded)
    total = sum(math.prod(moved.new.shape) for moved in kept)
    report = CutReport(
        plan=plan,
        bytes_before=sum(tensor.num_bytes for tensor in head.tensors) - left_out["bytes"],
        bytes_after=sum(moved.new.num_bytes for moved in kept),
        parameters_before=head.num_parameters - left_out["parameters"],
        parameters_after=total,
        tensors_before=len(head.tensors),
        tensors_after=len(kept),
        shards=(file.name,),
        warnings=(remark,) if remark else (),
        copy=gguf_format.describe_copy(left_out) if copy else "",
    )
    if head.metadata.get("general.parameter_count") == head.num_parameters:
        changes["general.parameter_count"] = total
    if "general.size_label" in head.metadata:  # as llama.cpp's converter writes it, such as 1.5B; none for experts
        has_experts = f"{head.architecture}.expert_count" in head.metadata
        changes["general.size_label"] = None if has_experts else str(gguf.size_label(total, total, 0, 0))
    healing = {"healing": healed.healing} if healed else {}
    added: dict[str, tuple[int, Any]] = {
        "layercut.version": (gguf_format.STRING, __version__),
        "layercut.parent": (gguf_format.STRING, Path(model).name if Path(model).is_file() else model),
        "layercut.parent_layers": (_UINT32, plan.num_layers),
        "layercut.removed": (_INT32, plan.removed),
        gguf_format.PLAN: (gguf_format.STRING, json.dumps(plan.to_dict() | healing, ensure_ascii=False)),
    }
    if sha256 is not None:
        added["layercut.parent_sha256"] = (gguf_format.STRING, sha256)
    if earlier := recorded_plans(head):
        added[gguf_format.EARLIER] = (gguf_format.STRING, json.dumps(earlier, ensure_ascii=False))
    dropped = {key for key in head.fields if key.startswith("layercut.") or changes.get(key, "") is None}
    entries = [
        _entry(key, field.kind, changes[key]) if key in changes else field.raw
        for key, field in head.fields.items()
        if key not in dropped
    ]
    entries += [_entry(key, kind, value) for key, (kind, value) in added.items()]
    listed = [
        _string(new.name) + struct.pack(f"<I{len(new.shape)}QIQ", len(new.shape), *new.shape, new.kind, new.offset)
        for new, _, _ in kept
    ]
    start = gguf_format.MAGIC + struct.pack("<IQQ", head.version, len(kept), len(entries))
    header = b"".join((start, *entries, *listed))
    header += bytes(-len(header) % head.alignment)
    return _Work(header, tuple(kept), frozenset({*changes, *added}), len(header) + offset, report)


def _changes(head: GgufHead, plan: CutPlan) -> dict[str, Any]:
    """Keys of the metadata that change, with the new values. Raises as ``cut_metadata`` and ``check_channels``."""
    changes = cut_metadata(head, plan)
    if plan.channels is not None:
        gguf_parts.check_channels(head, plan.channels)
        key, number = f"{head.architecture}.feed_forward_length", plan.channels.num_kept
        held = changes.get(key, head.arrays.get(key, head.metadata.get(key)))
        if held is not None:  # a list names it for each layer that has an MLP
            changes[key] = tuple(width and number for width in held) if isinstance(held, tuple) else number
    return changes | (gguf_parts.trim_metadata(head, plan.vocabulary) if plan.vocabulary else {})


def _smaller(tensor: GgufTensor, plan: CutPlan) -> tuple[GgufTensor, gguf_parts.Part | None]:
    """A tensor without the channels or tokens that a plan removes, and where its bytes come from."""
    new, part = gguf_parts.trim_tensor(tensor, plan.vocabulary)
    return gguf_parts.thin_tensor(tensor, plan.channels) if part is None else (new, part)


def _string(text: str) -> bytes:
    raw = text.encode("utf-8", "surrogateescape")
    return struct.pack("<Q", len(raw)) + raw


def _entry(key: str, kind: int, value: Any) -> bytes:
    """A key with its value, as it stands in the file; a tuple is an array of that kind."""

    def pack(item: Any) -> bytes:
        return _string(item) if kind == gguf_format.STRING else struct.pack(gguf_format.SCALARS[kind], item)

    if isinstance(value, tuple):
        return _string(key) + struct.pack("<IIQ", gguf_format.ARRAY, kind, len(value)) + b"".join(map(pack, value))
    return _string(key) + struct.pack("<I", kind) + pack(value)


def _check_written(work: _Work, old: GgufHead, file: Path, part: Path) -> None:
    """Read the new file again and compare it with what it was cut from, byte for byte."""
    new = read_gguf_head(part)
    wanted, written = [moved.new[:3] for moved in work.tensors], [tensor[:3] for tensor in new.tensors]
    if written != wanted:
        differs = next(pair for pair in itertools.zip_longest(written, wanted) if pair[0] != pair[1])
        raise VerificationError(f"{part} holds the tensor {differs[0]}, and {differs[1]} was to be written.")
    blocks = {block[0] for tensor in new.tensors if (block := block_tensor(tensor.name))}
    if new.num_layers != len(work.report.plan.kept) or not blocks >= set(range(new.num_layers)):
        raise VerificationError(f"{part} counts {new.num_layers} decoder layers and holds the blocks {sorted(blocks)}.")
    for key, field in new.fields.items():
        if key not in work.changed and field.raw != old.fields[key].raw:
            raise VerificationError(f"{part} has another value of {key} than {file}.")
    with part.open("rb") as now:
        for moved, tensor in zip(work.tensors, new.tensors, strict=True):
            now.seek(tensor.offset)
            if any(now.read(len(chunk)) != chunk for chunk in moved.part.chunks(file, moved.old.offset)):
                raise VerificationError(f"{part} has other bytes in {tensor.name} than {file} in {moved.old.name}.")


def _unread(head: GgufHead) -> str | None:
    """Reason why transformers cannot run a GGUF file; None where it can."""
    from transformers.modeling_gguf_pytorch_utils import GGUF_SUPPORTED_ARCHITECTURES

    known = {name.replace("-", "").replace("_", "") for name in GGUF_SUPPORTED_ARCHITECTURES}
    if head.architecture.replace("-", "").replace("_", "") in known:
        return None
    return f"transformers does not read the GGUF architecture {head.architecture}"
