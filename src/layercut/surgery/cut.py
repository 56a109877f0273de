"""Cut a checkpoint with verification: write it, reload it, compare it, and only then give it its name."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from layercut import __version__
from layercut.errors import CheckpointError, InputError
from layercut.models.checks import check_sizes, count_layers, embedding_shape, refuse_absurd_count
from layercut.models.partial import Outline, outline
from layercut.models.sources import ModelSource, describe_source, is_hub_id, resolve
from layercut.models.structure import Structure, structure_of
from layercut.models.weights import read_config
from layercut.runs.disk import size_change
from layercut.settings import ModelSettings
from layercut.surgery.card import model_card, weights_size
from layercut.surgery.checkpoint import MAX_SHARD_BYTES, CutReport, cut_checkpoint, plan_cut, with_earlier
from layercut.surgery.plan import CutPlan
from layercut.surgery.quantized import is_quantized
from layercut.text.numbers import parameters

if TYPE_CHECKING:
    from layercut.models.loading import LoadedModel


class CutDone(NamedTuple):
    """Report of a cut with its verification."""

    report: CutReport
    verified: str
    """Result of the comparison with the bypassed model, in words; empty where none was made."""
    gguf: tuple[int, int] | None = None
    """Of a model that is a GGUF file: its bytes, and those without what the plan removes."""
    mergekit: Path | None = None
    """The configuration that was written in place of a checkpoint."""

    @property
    def warnings(self) -> tuple[str, ...]:
        """Remarks for users of the pruned model."""
        return self.report.warnings

    def lines(self) -> list[str]:
        """The result for people."""
        report = self.report
        share = 100 * (1 - report.bytes_after / report.bytes_before)
        lines = [
            f"parameters: {parameters(report.parameters_before)} -> {parameters(report.parameters_after)}",
            f"weights: {_size(report.bytes_before)} -> {_size(report.bytes_after)} ({share:.1f} % less), "
            f"{report.tensors_before} -> {report.tensors_after} tensors in {len(report.shards)} file(s)",
        ]
        if self.gguf is not None:
            lines.append(f"from GGUF to GGUF: {size_change(*self.gguf)}")
        lines += [report.copy] if report.copy else []
        if self.verified:
            lines.append(f"verified: {self.verified}")
        if self.mergekit is not None:
            return [*lines, f"no checkpoint was written; mergekit-yaml {self.mergekit} DIR writes it"]
        return [*lines, f"checkpoint: {report.out}" if report.out else "dry run: nothing was written"]

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        report = self.report
        return {
            "out": str(report.out) if report.out else None,
            "plan": report.plan.to_dict(),
            "parameters": [report.parameters_before, report.parameters_after],
            "bytes": [report.bytes_before, report.bytes_after],
            "tensors": [report.tensors_before, report.tensors_after],
            "shards": list(report.shards),
            "copied": list(report.copied),
            "warnings": list(report.warnings),
            "copy": report.copy,
            "verified": self.verified,
            **({} if self.gguf is None else {"gguf_bytes": list(self.gguf)}),
        }


def cut_model(
    source: ModelSource,
    plan: CutPlan,
    out: Path | None,
    *,
    uncut: Callable[[], LoadedModel] | None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    say: Callable[[str], None] = lambda text: None,
) -> CutDone:
    """Write the pruned checkpoint to ``out``; with ``out`` None, only say what would be written.

    The folder takes its name after the comparison, so a checkpoint that is there has passed it.

    Args:
        source: the original model.
        plan: what goes.
        out: the new folder.
        uncut: loads the original model to compare with; with None nothing is compared, and no model is loaded.
        max_shard_bytes: largest weight file.
        say: called with a line before slow work.

    Raises:
        InputError: the plan does not fit, ``out`` is not empty, or the model is an adapter.
        VerificationError: the reloaded model differs from the bypassed one; nothing is left under ``out``.
    """
    if plan.is_uncut:
        raise InputError("the plan removes nothing, so there is nothing to cut.")
    source.refuse_adapter("cutting")
    if out is None:
        return CutDone(plan_cut(source.path, plan, max_shard_bytes=max_shard_bytes), "")
    verified = ""
    loaded = _load_quantized(source, uncut) if uncut is not None and is_quantized(read_config(source.path)) else None

    def check(folder: Path, expected: CutReport) -> None:
        nonlocal verified
        verified = f"{expected.checked}; no logits were compared"
        if uncut is not None:
            from layercut.surgery.verify import verify_cut

            say("reloading the checkpoint and comparing it with the bypassed model ...")
            verified = verify_cut(loaded or uncut(), plan, folder).describe()
        card = model_card(
            plan,
            source_name=source.name,
            revision=source.revision,
            base_model=source.origin.get("base_model"),
            license_name=source.origin.get("license"),
            num_parameters_before=expected.parameters_before,
            num_parameters_after=expected.parameters_after,
            size=weights_size(folder),
            warnings=(*expected.warnings, *([expected.copy] if expected.copy and not plan.tied else [])),
            verified=verified or None,
            layercut_version=__version__,
        )
        (folder / "README.md").write_text(card, encoding="utf-8")

    return CutDone(cut_checkpoint(source.path, plan, out, max_shard_bytes=max_shard_bytes, check=check), verified)


def _load_quantized(source: ModelSource, uncut: Callable[[], LoadedModel]) -> LoadedModel:
    """The original model, before a byte is written, as many formats need a library or an accelerator to run.

    Raises:
        CheckpointError: it cannot be loaded here; says how to cut it all the same.
    """
    try:
        return uncut()
    except CheckpointError as error:
        raise CheckpointError(
            f"{str(error).rstrip('.')}. Its layers can be cut without running it: `verify=false` writes the checkpoint "
            "and checks names, shapes, dtypes and the index, but no logits."
        ) from error


def _size(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:.2f} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:.1f} MB"


class CutSource(NamedTuple):
    """A model to be cut, and how."""

    source: ModelSource
    plan: CutPlan
    uncut: Callable[[], LoadedModel] | None
    """Loads the whole model; None where not all of it is here."""


@contextmanager
def cut_source(
    settings: ModelSettings,
    make_plan: Callable[..., CutPlan],
    *,
    whole: bool,
    dry_run: bool,
    say: Callable[[str], None],
) -> Iterator[CutSource]:
    """Find a model and make the plan of its cut.

    Args:
        settings: the model.
        make_plan: gives the plan for ``num_layers``, ``model`` and, where it is known, ``model_hash``.
        whole: fetch all of it, as a comparison with the bypassed model needs it. Otherwise a hub model's weight files
            that hold nothing but removed layers are not downloaded; such a plan has no ``model_hash``.
        dry_run: no weights are read at all, so none are downloaded.
        say: called with a line about what is left out.

    Raises:
        InputError: no such model, or a plan that does not fit it.
    """
    hub = None
    if not whole and is_hub_id(settings.model):
        hub = outline(settings.model, revision=settings.revision, with_code=settings.trust_remote_code)
    if hub is None:
        source = resolve(
            settings.model,
            revision=settings.revision,
            trust_remote_code=settings.trust_remote_code,
            tie=settings.tie,
        )
        found = describe_source(source)
        plan = make_plan(num_layers=found.num_layers, model=settings.model, model_hash=found.model_hash)
        from layercut.models.loading import load_as_set

        yield CutSource(source, with_earlier(plan, source), lambda: load_as_set(settings, source))
        return
    config = read_config(hub.path)
    refuse_absurd_count(hub.weight_map, config, hub.repo)
    structure = structure_of(config, hub.repo, hub.weight_map)
    num_layers = count_layers(hub.weight_map, config, structure, hub.repo)
    entries = {name: entry for file in hub.tensors.values() for name, entry in file.items()}
    check_sizes(config, embedding_shape(entries), hub.repo)
    plan = make_plan(num_layers=num_layers, model=hub.repo)
    if plan.model_hash is not None:
        plan = without_hash(plan, hub.repo, settings.plan_from_another_model)
        say(f"the hash of {hub.repo} is not compared with the plan's, as not all weights are read")
    needed = set() if dry_run else files_with_kept(hub, plan, structure)
    if not dry_run:
        files = set(hub.tensors)
        say(
            f"{len(needed)} of {len(files)} weight files hold kept weights: {hub.num_bytes(needed) / 1e9:.2f} of "
            f"{hub.num_bytes(files) / 1e9:.2f} GB are fetched"
        )
    with hub.folder(needed) as folder:
        origin = {"kind": "hub", "repo": hub.repo, "revision": hub.commit}
        yield CutSource(ModelSource(name=hub.repo, path=folder, revision=hub.commit, origin=origin), plan, None)


def without_hash(plan: CutPlan, repo: str, from_another_model: bool) -> CutPlan:
    """A plan.json on a model whose hash is not known: its name must do, and the plan records no hash of this model.

    Raises:
        InputError: a plan made for a model of another name, where that is not allowed.
    """
    if plan.model == repo:
        return replace(plan, model_hash=None)
    if not from_another_model:
        raise InputError(
            f"the plan was made for {plan.model or 'a model without a name'} ({plan.model_hash}), and whether {repo} "
            "is the same is not known without all of its weights. Leave out `verify=false` and `dry_run` to have the "
            "hashes compared, or use the plan anyway with `plan_from_another_model`."
        )
    return replace(plan, model=repo, model_hash=None, chosen_on={"model": plan.model, "model_hash": plan.model_hash})


def files_with_kept(hub: Outline, plan: CutPlan, structure: Structure) -> set[str]:
    """Weight files with at least one tensor that the plan keeps."""
    gone = set(plan.removed)
    needed = set()
    for name, file in hub.weight_map.items():
        match = structure.tensor_pattern.match(name)
        if match is None or int(match[2]) not in gone:
            needed.add(file)
    return needed
