"""The plot of bytes against what is kept, of a run of prune that made files."""

from layercut.report.front import PRUNED, QUANTISED, TAKEN, front_figure
from layercut.runs.prune import MadeFile
from tests.unit.report.test_first import with_others


def test_the_front_shows_tested_plans_files_and_those_that_were_not_tested_and_marks_the_smallest_that_passes(tmp_path):
    result = with_others(tmp_path)
    assert front_figure(result) is None, "no files were made"
    files = {"versus/q4.gguf": "uncut", "versus/q8.gguf": "size-3", "versus/q2.gguf": "size-3"}
    made = [
        MadeFile(
            model=run, run=run, plan=plan, file="m.gguf", disk_bytes=(i + 3) * 10_000_000, kept=result.versus[1].kept
        )
        for i, (run, plan) in enumerate(files.items())
    ]
    figure = front_figure(result.model_copy(update={"formats": tuple(made)}))
    (panel,) = figure.panels
    points = [(point["x"], point["series"], point["hollow"]) for point in panel.spec["data"]["values"]]
    assert points == [
        (50, PRUNED, True),
        (80, QUANTISED, False),
        (80, TAKEN, False),
        (160, PRUNED, False),
        (510, PRUNED, False),
        (524, PRUNED, False),
    ]
    assert [key.label for key in figure.legend] == [QUANTISED, PRUNED, TAKEN]
