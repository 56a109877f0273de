"""What each weight matrix reads and how much its outputs matter, measured on answers of the model.

The Fisher information of a weight matrix, factored as in K-FAC (Martens & Grosse, arXiv:1503.05671): of entry (i, j)
it is the mean square of input j times the summed square of the gradient of output i. The gradient is that of the
log-likelihood of tokens drawn from the model's own distribution, so that no label is needed (Kunstner et al.,
"Limitations of the empirical Fisher approximation", arXiv:1905.12558).
"""

# Shapes: T tokens of a text, I inputs of a matrix, O outputs, V vocabulary, D hidden size.

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from layercut.engine.stopping import noise_key
from layercut.errors import InputError
from layercut.models.loading import LoadedModel
from layercut.progress import Progress
from layercut.runs.atomic import write_bytes

LOOKUP = "lookup"  # the name of the table that embeds tokens, as its rows are read one by one
_READ, _COLUMNS, _ROWS = "read", "columns", "rows"


class Text(NamedTuple):
    """A prompt with an answer of the model."""

    id: str
    tokens: tuple[int, ...]
    num_prompt: int  # tokens before the answer

    @property
    def num_answer(self) -> int:
        return len(self.tokens) - self.num_prompt


class Importance(NamedTuple):
    """Of one matrix, what weighs an error of entry (i, j): ``rows[i] * columns[j]``, in nats a token."""

    columns: np.ndarray  # (I,) mean square of the inputs
    rows: np.ndarray  # (O,) summed square of the gradient of the outputs, a token of the answers


class Statistics:
    """Sums over the texts that were read, by the name of each matrix's module; kept in a file after each text."""

    def __init__(self, file: Path, reads_back: bool = True) -> None:
        """Continue the file, where there is one. ``reads_back``: gradients are taken too."""
        self._file, self.reads_back = file, reads_back
        self._sums: dict[str, np.ndarray] = {}
        if file.is_file():
            with np.load(file) as stored:
                self._sums = dict(stored)

    @property
    def num_texts(self) -> int:
        return int(self._sums.get("num_texts", np.zeros(1))[0])

    def read(self, loaded: LoadedModel, texts: Sequence[Text], seed: int, progress: Progress) -> None:
        """Read the texts that were not read yet. Raises InputError: sums that are no numbers."""
        model = loaded.model
        matrices = dict(weight_matrices(model))
        needed = [parameter.requires_grad for parameter in model.parameters()]
        model.requires_grad_(False)
        try:
            for place, text in enumerate(texts):
                progress("texts", place, len(texts))
                if place >= self.num_texts:
                    self._add(_read_text(model, matrices, text, seed, self.reads_back))
        finally:
            for parameter, need in zip(model.parameters(), needed, strict=True):
                parameter.requires_grad_(need)
        progress("texts", len(texts), len(texts))

    def _add(self, sums: Mapping[str, np.ndarray]) -> None:
        for name, values in sums.items():
            _refuse_no_numbers(name.rpartition(".")[0], values)
        known, new = self._sums, {**sums, "num_texts": np.ones(1)}
        self._sums = {name: np.asarray(known.get(name, 0) + new.get(name, 0)) for name in sorted({*known, *new})}
        stored = io.BytesIO()
        np.savez(stored, **self._sums)  # type: ignore[arg-type]
        write_bytes(self._file, stored.getvalue())

    def importance(self) -> dict[str, Importance]:
        """By module. Without gradients all rows weigh the same."""
        answers = max(1.0, float(self._sums["num_answer"][0]))
        known, sums = {}, self._sums
        for name in sorted({key.rpartition(".")[0] for key in sums if "." in key}):
            columns = sums[f"{name}.{_COLUMNS}"] / max(1.0, float(sums[f"{name}.{_READ}"][0]))
            known[name] = Importance(columns, sums[f"{name}.{_ROWS}"] / answers)
        return known


def weight_matrices(model: torch.nn.Module) -> Iterator[tuple[str, torch.nn.Linear]]:
    """The linear layers with their names; the output head too, where it is one."""
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear):
            yield name, module


def _read_text(
    model: Any, matrices: Mapping[str, torch.nn.Linear], text: Text, seed: int, reads_back: bool
) -> dict[str, np.ndarray]:
    """The sums of one text: one pass forward and one backward."""
    sums: dict[str, np.ndarray] = {"num_answer": np.array([float(text.num_answer)])}
    ids_1T = torch.tensor([text.tokens], device=model.device)
    embedded_1TD = model.get_input_embeddings()(ids_1T).detach().requires_grad_(reads_back)
    with ExitStack() as hooks, torch.set_grad_enabled(reads_back):
        for name, module in matrices.items():
            hooks.callback(module.register_forward_hook(_adding(sums, name, reads_back)).remove)
        output = model(inputs_embeds=embedded_1TD, use_cache=False, logits_to_keep=text.num_answer + 1)
        if reads_back:
            if not output.logits.requires_grad:
                raise InputError(f"{type(model).__name__} has no backward pass, so no gradients can be taken.")
            # The last position predicts what follows the answer, which is not part of it.
            log_TV = output.logits[0, -text.num_answer - 1 : -1].float().log_softmax(-1)
            _refuse_no_numbers("output head", log_TV.detach().sum(-1).cpu().numpy())
            noise = torch.Generator().manual_seed(noise_key(seed, text.id) % 2**63)
            drawn_T1 = torch.multinomial(log_TV.detach().exp().cpu(), 1, generator=noise).to(log_TV.device)
            log_TV.gather(1, drawn_T1).sum().backward()
            assert embedded_1TD.grad is not None
            sums |= _lookup_sums(text, embedded_1TD.grad[0], model.get_input_embeddings().num_embeddings)
    return sums


def _refuse_no_numbers(name: str, values: np.ndarray) -> None:
    if not np.isfinite(values).all():
        raise InputError(
            f"the model's {name} has activations or gradients that are no numbers; load it in float32 (`dtype`)."
        )


def _adding(sums: dict[str, np.ndarray], name: str, reads_back: bool) -> Callable[..., None]:
    """A forward hook that adds squares of inputs, and of the gradient of outputs when it comes."""

    def add(kind: str, values: Any) -> None:
        key = f"{name}.{kind}"
        sums[key] = sums[key] + values if key in sums else values

    def hook(module: torch.nn.Linear, given: tuple[Tensor, ...], output: Tensor) -> None:
        add(_READ, np.array([float(given[0].numel() // given[0].shape[-1])]))
        add(_COLUMNS, _squares(given[0]))
        if reads_back and output.requires_grad:
            output.register_hook(lambda grad: add(_ROWS, _squares(grad)))  # type: ignore[no-untyped-call]
        else:
            add(_ROWS, np.ones(output.shape[-1]))

    return hook


def _squares(values: Tensor) -> np.ndarray:
    """Sums of squares of the last dimension, which keep no graph."""
    rows = values.detach().reshape(-1, values.shape[-1]).float()
    squares: np.ndarray = rows.square().sum(0).double().cpu().numpy()
    return squares


def _lookup_sums(text: Text, grad_TD: Tensor, num_rows: int) -> dict[str, np.ndarray]:
    """Of the table of embeddings: how often each row is read, and the mean square of the gradient of what is read."""
    counts = np.bincount(np.array(text.tokens), minlength=num_rows).astype(np.float64)
    return {
        f"{LOOKUP}.{_READ}": np.array([float(len(text.tokens))]),
        f"{LOOKUP}.{_COLUMNS}": _squares(grad_TD),
        f"{LOOKUP}.{_ROWS}": counts,
    }
