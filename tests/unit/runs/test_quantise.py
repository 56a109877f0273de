"""quantise.json is written whole and read back, and what is none is refused."""

import pytest

from layercut.errors import InputError
from layercut.runs.atomic import write_json
from layercut.runs.prune import Estimated
from layercut.runs.quantise import QUANTISED, MeasuredFile, QuantiseResult, TypeRow

RESULT = QuantiseResult(
    model="m",
    file="m/75MB.gguf",
    num_bytes=75_000_000,
    bytes_before=98_000_000,
    bits=4.35,
    types=(TypeRow(kind="Q4_K", tensors=5, num_bytes=2_490_000),),
    embeddings="IQ4_NL",
    by_tensor={"token_embd.weight": "IQ4_NL"},
    files=(
        MeasuredFile(
            label="75MB",
            num_bytes=75_000_000,
            forecast=0.0815,
            measured=Estimated(value=0.0989, low=0.0419, high=0.1878, n=8),
            same=Estimated(value=0.967, n=8),
            worst=0.74,
        ),
    ),
    num_texts=24,
    num_tokens=2136,
    where="two cores",
    seed=0,
    command="layercut quantise m",
)


def test_a_result_comes_back_and_another_file_is_refused(tmp_path):
    RESULT.save(tmp_path)
    assert QuantiseResult.load(tmp_path) == RESULT
    write_json(tmp_path / QUANTISED, {**RESULT.to_dict(), "bits": "many"})
    with pytest.raises(InputError, match=r"quantise\.json is not a result of layercut quantise"):
        QuantiseResult.load(tmp_path)
