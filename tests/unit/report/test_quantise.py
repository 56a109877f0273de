"""What ``quantise`` prints: types, divergences with intervals, and how the file is served and tested."""

from layercut.report.elements import plain_cell
from layercut.report.quantise import quantise_lines, quantise_tables
from tests.unit.runs.test_quantise import RESULT


def test_tables_hold_the_types_and_both_divergences():
    types, files = quantise_tables(RESULT)
    assert [[plain_cell(cell) for _, cell in row] for row in types.cells] == [["Q4_K", "5", "2.49 MB"]]
    assert [[plain_cell(cell) for _, cell in row] for row in files.cells] == [
        ["75MB", "75.0 MB", "0.0815", "0.0989 [0.0419, 0.1878]", "96.7%", "0.74"]
    ]
    assert "8 held-out answers" in files.caption


def test_lines_say_what_is_not_tested_yet():
    lines = [*quantise_lines(RESULT, "mine.jsonl")]
    assert lines[0] == "File: m/75MB.gguf, 75.0 MB (77% of 98.0 MB), 4.35 bits a weight"
    assert [*quantise_lines(RESULT, None)] == lines[:-1]
    assert lines[-1].endswith("layercut eval m/75MB.gguf --engine llama.cpp --tasks mine.jsonl")


def test_statistics_alone_are_one_line():
    alone = RESULT.model_copy(update={"file": None, "imatrix": "own.gguf"})
    assert quantise_tables(alone) == []
    assert [*quantise_lines(alone, "x")] == ["Importance matrix: own.gguf (24 answers, 2,136 tokens)"]
