"""The divergence of a GGUF file from the model that it was made of, on answers of the original model.

Both are read by transformers in float32, so that no difference between two engines is counted: the file's numbers take
the place of the model's weights.
"""

# Shapes: T tokens of an answer, V vocabulary.

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from layercut.errors import VerificationError
from layercut.models.gguf_file import read_gguf_head
from layercut.models.loading import LoadedModel
from layercut.progress import Progress
from layercut.quantising.damage import Matrix, tensor_values
from layercut.quantising.statistics import Text
from layercut.runs.atomic import write_new_file
from layercut.runs.records import Journal


def keep_reference(loaded: LoadedModel, texts: Sequence[Text], folder: Path, progress: Progress) -> None:
    """Write the model's log-probabilities at each token of the answers, a file for each, where it is missing."""
    folder.mkdir(exist_ok=True)
    for place, text in enumerate(texts):
        progress("answers", place, len(texts))
        if not (file := _reference(folder, place)).exists():
            with write_new_file(file) as part, part.open("wb") as opened:
                np.save(opened, _log_probabilities(loaded, text).numpy())


def use_weights(file: Path, matrices: Sequence[Matrix]) -> None:
    """Put the numbers of a GGUF file in place of the model's weights. Raises VerificationError: another file."""
    tensors = {tensor.name: tensor for tensor in read_gguf_head(file).tensors}
    for matrix in matrices:
        tensor = tensors.get(matrix.tensor.name)
        if tensor is None or tensor.shape != matrix.tensor.shape:
            raise VerificationError(f"{file} has no {matrix.tensor.name} of the shape {list(matrix.tensor.shape)}.")
        matrix.put(tensor_values(file, tensor))


def measure_divergence(
    loaded: LoadedModel, texts: Sequence[Text], folder: Path, journal: Journal, progress: Progress
) -> list[dict[str, Any]]:
    """A record of each answer: the divergence in nats at each token, and where the likeliest token is the same."""
    done = {record["id"] for record in journal.records}
    for place, text in enumerate(texts):
        progress("answers", place, len(texts))
        if text.id in done:
            continue
        before_TV = torch.from_numpy(np.load(_reference(folder, place)))
        after_TV = _log_probabilities(loaded, text)
        nats_T = (before_TV.exp() * (before_TV - after_TV)).sum(-1)
        same_T = before_TV.argmax(-1) == after_TV.argmax(-1)
        nats = [round(float(value), 7) for value in nats_T]
        journal.append([{"id": text.id, "nats": nats, "same": "".join("01"[same] for same in same_T.tolist())}])
    return [record for record in journal.records if record["id"] in {text.id for text in texts}]


def _reference(folder: Path, place: int) -> Path:
    return folder / f"{place}.npy"


@torch.no_grad()
def _log_probabilities(loaded: LoadedModel, text: Text) -> Tensor:
    """At each token of the answer, of all tokens, (T, V) float32."""
    ids_1T = torch.tensor([text.tokens], device=loaded.model.device)
    output: Mapping[str, Tensor] = loaded.model(input_ids=ids_1T, use_cache=False, logits_to_keep=text.num_answer + 1)
    return output["logits"][0, -text.num_answer - 1 : -1].float().log_softmax(-1).cpu()
