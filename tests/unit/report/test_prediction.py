from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from layercut.errors import InputError
from layercut.evidence.intervals import Estimate, proportion_interval
from layercut.evidence.prediction import correlations, load
from layercut.report.prediction import answer, figure, prediction_report
from layercut.runs.directory import RunFolder

KL = [3.0, 0.1, 0.2, 0.5, 0.4, 1.0]


def kinds(kl: float) -> dict[str, Any]:
    rises = {
        "result": Estimate(kl, kl / 2, 2 * kl, 60, "bootstrap"),
        "other": Estimate(-0.001, None, None, 740, "none"),
    }
    return {kind: rise._asdict() for kind, rise in rises.items()}


def data(**fields: Any) -> dict[str, Any]:
    layers = [
        {"layer": i, "kl": kl, "js": 0.1, "nll": 1.0, "sure": 3 - kl, "top1": kl / 10, "influence": 0.1 * (i + 1),
         "kept": proportion_interval(40 - int(10 * kl), 40)._asdict(), "kinds": kinds(kl)}
        for i, kl in enumerate(KL)
    ]  # fmt: skip
    depths = [{"removed": [1], "kl": 0.1, "kept": layers[1]["kept"]}]
    return {
        "format_version": 2, "model": "some/model", "num_layers": 6, "seed": 0, "layers": layers,
        "order": [1, 2, 4, 3, 5, 0], "depths": depths, "safe": 1, "keep": 0.85, "traces": {"copy (short)": 40},
        "num_traces": 40, "num_tokens": 800, "sweep": None, **fields,
    }  # fmt: skip


def test_a_real_sweep_is_compared_by_both_coefficients() -> None:
    assert [(one.first, one.second) for one in correlations(data())] == [("trace damage (KL)", "block influence")]
    # The sweep's scores fall exactly as the damage rises, but for one swap.
    scores = {"0": 0.1, "1": 0.9, "2": 0.85, "3": 0.7, "4": 0.6, "5": 0.4}
    found = correlations(data(sweep=[{"name": "copy (short)", "scores": scores}]))
    assert [(one.first, one.second) for one in found[1:]] == [
        (name, "copy (short)")
        for name in ("trace damage (KL)", "trace damage (sure tokens)", "answers not kept", "block influence")
    ]
    spearman, kendall = found[1].spearman.estimate, found[1].kendall.estimate
    assert spearman is not None and kendall is not None
    assert spearman.value == pytest.approx(1 - 6 * 2 / (6 * 35))
    assert kendall.value == pytest.approx(13 / 15)
    assert kendall.low is not None and kendall.low < kendall.value
    sure = found[2].spearman.estimate
    assert sure is not None and sure.value == pytest.approx(-spearman.value), "the table's other column, turned round"


def test_the_page_is_made_from_the_folder_alone(tmp_path: Path) -> None:
    with RunFolder.begin(tmp_path / "run", {"seed": 0}) as run:
        with pytest.raises(InputError, match="no prediction can be read here"):
            load(run.path)
        scores = {"1": 0.9, "2": 0.8, "3": 0.7}  # a sweep of some layers
        (run.path / "predict.json").write_text(json.dumps(data(sweep=[{"name": "copy (short)", "scores": scores}])))
        page = prediction_report(run.path).read_text()
        older = data()
        del older["layers"][2]["kinds"]
        (run.path / "predict.json").write_text(json.dumps(older))
        with pytest.raises(InputError, match="of an earlier layercut, which did not measure kinds of tokens"):
            prediction_report(run.path)
    assert "**1 layer can be removed" in page and "at least 85%" in page
    order = [line.split("|")[1].strip() for line in page.split("## Which")[1].splitlines() if line.startswith("| ")]
    assert order[1:7] == ["1", "2", "4", "3", "5", "0"]
    tokens = page.replace("\\", "").split("## Which tokens")[1].splitlines()
    assert "| layer | result (n 60) | other (n 740) |" in tokens
    assert "| 3 | 0.50 [0.25, 1.00] | 0.00 [n/a] |" in tokens
    assert "| trace damage (KL) | copy (short) | 3 | 1.00 [n/a] |" in page.replace("\\", "")
    drawn = figure(data()).panels[-1].spec["data"]["values"]
    assert [(point["series"], point["y"]) for point in drawn] == [("-ln p: result", kl) for kl in KL], "what rises"
    assert (tmp_path / "run" / "predict.png").read_bytes().startswith(b"\x89PNG")
    assert "at least 85%" in answer(data(safe=0)) and answer(data(safe=0)).endswith("Try layer 1 first.")
