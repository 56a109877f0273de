"""The input of a cut: the whole model, or of a hub model only the weight files with kept weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from layercut.errors import InputError
from layercut.models.checks import check_sizes, count_layers, embedding_shape, refuse_absurd_count
from layercut.models.partial import Outline, outline
from layercut.models.sources import ModelSource, describe_source, is_hub_id, resolve
from layercut.models.structure import Structure, structure_of
from layercut.models.weights import read_config
from layercut.settings import ModelSettings
from layercut.surgery.checkpoint import with_earlier
from layercut.surgery.plan import CutPlan

if TYPE_CHECKING:
    from layercut.models.loading import LoadedModel


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
        source = resolve(settings.model, revision=settings.revision, trust_remote_code=settings.trust_remote_code)
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
