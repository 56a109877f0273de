"""``cut``: which layers go, and where the smaller model is written."""

from __future__ import annotations

from dataclasses import replace
from functools import cache, cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any, cast

from pydantic import Field

from layercut.engine.handle import ModelHandle
from layercut.errors import InputError
from layercut.models.sources import resolve_source
from layercut.models.weights import PLAN_FILE, read_config
from layercut.runs.atomic import refuse_used, write_output
from layercut.selection.specs import LayerSpec, Removed, check_fits
from layercut.selection.vocabulary import (
    certify_answers,
    choose_vocabulary,
    choose_vocabulary_of_gguf,
    files_named_in,
)
from layercut.settings import ModelSettings
from layercut.surgery.channels import Vocabulary
from layercut.surgery.checkpoint import CutReport, with_earlier
from layercut.surgery.plan import CutPlan
from layercut.verbs import fields
from layercut.verbs.base import Fields, Flag, Io, Shown, Verb

_LOADED = Fields(
    "Model",
    shown="revision dtype device",
    without="batch_size engine cache_gib engine_pool base_url quantize",
)


class CutVerb(Verb):
    """Write MODEL without some of its decoder layers, as a Hugging Face folder or a GGUF file.

    Layers are zero-based and those of the original model; ranges are inclusive, so 21-24 is four layers. Weights are
    streamed, never held in memory. The result is reloaded and its logits are compared with the bypassed model;
    dtype and device are those of this comparison, the weights keep their own.

    With --no-verify nothing is loaded, so no accelerator and little memory is needed.

    --remove 25% removes a quarter of the layers, chosen by block influence.

    --remove vocab:ascii removes tokens with their rows of the embeddings and the output head. Texts of tokens that stay
    are tokenised as before, and greedy answers of such tokens stay the same.

    A GGUF file becomes a GGUF file if --out ends in .gguf: tensors keep their bytes. If --out is a folder, it
    becomes a bfloat16 checkpoint.

    Example: layercut cut bundled:smollm2-135m --remove 3,8,21-24 --out smollm2-24-layers
    """

    VERB = "cut"
    POSITIONAL = ("model", "remove", "out")
    RETURNS = "The folder; or the GGUF file, if out ends in .gguf and the model is one."

    model: Annotated[ModelSettings, _LOADED]
    remove: Annotated[Removed | None, Flag("LAYERS")] = Field(
        None,
        description=f"{fields.REMOVE} Or how many, chosen by block influence: '3 layers' or 25%; and a share of "
        "the channels of every MLP: mlp:0.28, or '6,9 mlp:0.1'. The tokens that stay: vocab:ascii, vocab:latin, "
        "vocab:44000, or vocab:FILE of texts. If left out, a GGUF file loses only a copy of its embeddings.",
    )
    healed: Annotated[Path | None, Flag("DIR")] = Field(
        None,
        description="In place of layers: a checkpoint that was cut from MODEL, a GGUF file, and healed in closed form; "
        "its GGUF file is written.",
    )
    out: fields.Out = Field(None, description="Folder to write to, or a file that ends in .gguf.")
    mergekit: Annotated[Path | None, Flag("FILE")] = Field(
        None, description="Write the plan as a configuration for mergekit, and cut nothing."
    )
    seed: fields.RandomSeed = 0
    verify: Annotated[bool, Flag(spelled="--verify/--no-verify")] = Field(
        True,
        description="Compare the result with the original model: logits; of a GGUF file tensors and config.",
    )

    def check(self) -> None:
        if self.healed is not None and (self.remove is not None or self.out is None):
            raise InputError("`healed` names its plan itself and writes a GGUF file; give `out` FILE.gguf, no layers.")
        if self.removed is None:
            raise InputError("no layers are named; say `remove` 3,8,21-24 (zero-based, inclusive), or `remove` 25%.")

    @cached_property
    def removed(self) -> LayerSpec | None:
        """What goes: as named, or the plan of the healed checkpoint; of a GGUF file maybe no layers."""
        if self.healed is not None:
            return LayerSpec.parse(self.healed / PLAN_FILE)
        if self.remove is None and self.out is not None and self.out.suffix.lower() == ".gguf":
            return LayerSpec(text="", layers=())
        return self.remove

    def fit(self) -> None:
        assert self.removed is not None, "checked"
        check_fits(self.model, [replace(self.removed, vocabulary=None)], self.seed)

    def run(self, io: Io) -> CutReport:
        return self._cut(io, dry_run=False)

    def rehearse(self, io: Io) -> Shown:
        return self.show(self._cut(io, dry_run=True), io)

    def show(self, done: CutReport, io: Io) -> Shown:
        text, vocabulary = getattr(self.removed, "vocabulary", None), done.plan.vocabulary
        same = certify_answers(self._files(), text, vocabulary) if text and vocabulary else []
        shown = done.to_dict() | ({"same": same} if same else {})
        return Shown(shown, lines=[*done.lines(), *same], notes=done.warnings)

    def returned(self, done: CutReport) -> Path:
        return cast("Path", self.out)

    def _cut(self, io: Io, *, dry_run: bool) -> CutReport:
        """Write the smaller model; a dry run says what would be written.

        Raises:
            InputError: a model or plan that cannot be used, or a folder or file that exists.
            VerificationError: the reloaded model is another one.
        """
        from layercut.surgery.cut import cut_model
        from layercut.surgery.gguf import cut_gguf_file, gguf_bytes, gguf_file, gguf_to_gguf
        from layercut.surgery.mergekit import MARK, to_mergekit

        out = self.out
        dry_run = dry_run or self.mergekit is not None
        if not dry_run and out is None:
            raise InputError("no folder to write to; say `out` DIR.")
        if self.mergekit is None and out is not None and (file := gguf_to_gguf(self.model.model, out)) is not None:
            return cut_gguf_file(
                self.model, self._planned(io), file, out, verify=self.verify, healed=self.healed, dry_run=dry_run,
                say=io.say,
            )  # fmt: skip
        if self.healed is not None:
            raise InputError("`healed` writes a GGUF file; give `out` FILE.gguf.")
        handle = io.loaded.get(self.model.model) or ModelHandle(self.model)
        made_for = {"model": handle.settings.model, "model_hash": handle.metadata.model_hash}
        plan = with_earlier(self._planned(io)(num_layers=handle.num_layers, **made_for), handle.source)
        io.say(f"{self.model.model}: {plan.describe()}")
        if self.mergekit is not None:
            config = read_config(handle.source.path)
            dtype = str(config.get("dtype") or config.get("torch_dtype") or "bfloat16")
            write_output(self.mergekit, to_mergekit(plan, self.model.model, dtype), MARK)
            io.say(f"for mergekit-yaml, whose ranges leave out their end: {self.mergekit}")
        if dry_run and out is not None:
            refuse_used(out)
        done = cut_model(
            handle.source,
            plan,
            None if dry_run else out,
            uncut=(lambda: handle.loaded) if self.verify and not dry_run else None,
            say=io.say,
        )
        file = gguf_file(self.model.model)
        gguf = None if file is None else (file.stat().st_size, gguf_bytes(file, plan))
        return replace(done, gguf=gguf, mergekit=self.mergekit)

    def _planned(self, io: Io) -> Any:
        """A function that gives the plan for ``num_layers``, ``model`` and ``model_hash``."""
        chosen = cache(lambda num_layers: self._chosen(io, num_layers))
        vocabulary = cache(self._vocabulary)

        def make(**made_for: Any) -> CutPlan:
            assert self.removed is not None, "checked"
            rest = replace(self.removed, vocabulary=None)
            plan = chosen(made_for["num_layers"]) if rest.is_open else rest.bind(**made_for, seed=self.seed)
            if self.removed.vocabulary is not None:
                plan = replace(plan, vocabulary=vocabulary())
            return plan

        return make

    def _vocabulary(self) -> Vocabulary:
        from layercut.surgery.gguf import gguf_to_gguf

        assert self.removed is not None and self.removed.vocabulary is not None
        file = gguf_to_gguf(self.model.model, self.out)
        if file is not None and not files_named_in(self.removed.vocabulary):
            return choose_vocabulary_of_gguf(file, self.removed.vocabulary)
        return choose_vocabulary(self._files(), self.removed.vocabulary)

    def _files(self) -> Path:
        return resolve_source(self.model.model, revision=self.model.revision, weights=False).path

    def _chosen(self, io: Io, num_layers: int) -> CutPlan:
        """A plan of that many layers, chosen by block influence on text that the model itself writes, and of MLP
        channels by their activations on it.
        """
        from layercut.progress.bars import RunProgress
        from layercut.selection.select import SelectionRequest, select_layers

        assert self.remove is not None
        count = self.remove.count
        if count is not None:
            number = count.layers(num_layers)
            io.say(f"{count.text} is {number} of {num_layers} layers; choosing them by block influence ...")
        if self.remove.mlp is not None:
            io.say("choosing MLP channels on text that the model itself writes; layercut select does on a task ...")
        with TemporaryDirectory() as scratch, RunProgress(io.console, stage="Choosing layers").running() as progress:
            request = SelectionRequest(remove=self.remove, criterion="block_influence", seed=self.seed)
            out = Path(scratch) / "run"
            return select_layers(io.handle(self.model), request, out=out, progress=progress, say=io.say).plan
