"""Plans that were measured, ready to be applied: ``layercut cut MODEL --remove gallery:qwen2.5-coder-1.5b/thin-28``.

The files are in ``plans/``; the measurements of each are here, and on the page that is made of it.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from layercut.errors import unknown
from layercut.surgery.plan import CutPlan

PREFIX = "gallery:"
_FOLDER = Path(__file__).parent / "plans"
_QWEN, _SMOLLM2 = "qwen2.5-coder-1.5b", "smollm2-135m"


class Entry(NamedTuple):
    """Evidence on one plan. Intervals are of 95 %, nothing is healed, greedy answers, seed 0."""

    removed: str
    size: str
    """Change of the weights' bytes."""
    measured: str
    page: str
    """Of the documentation, with the rest of the evidence."""


GALLERY = {
    f"{_QWEN}/minus-1": Entry("layer 5", "-2.6 %", "GSM8K keeps 90 [79, 103] %, n 167", "qwen.md"),
    f"{_QWEN}/minus-3": Entry(
        "layers 6, 9 and 10", "-7.9 %", "GSM8K keeps 42 [27, 61] %, MBPP+ 78 [62, 94] %, n 64 each", "width.md"
    ),
    f"{_QWEN}/thin-12": Entry("11.4 % of the MLP channels", "-7.4 %", "GSM8K keeps 87 [71, 104] %, n 64", "width.md"),
    f"{_QWEN}/thin-28": Entry(
        "28.6 % of the MLP channels",
        "-18.6 %",
        "GSM8K keeps 68 [51, 90] %, HumanEval+ 65 [53, 78] %, n 64 each; 74 [61, 90] % of GSM8K, n 128, after "
        "`heal --seam projection`",
        "width.md",
    ),
    f"{_QWEN}/draft": Entry(
        "layers 6, 9, 10 and 54 % of the MLP channels",
        "a draft",
        "as a draft of the original model, which writes x 1.21 [1.06, 1.31] as fast, n 8",
        "drafts.md",
    ),
    f"{_SMOLLM2}/minus-3": Entry(
        "layers 4, 9 and 27",
        "-7.9 %",
        "written sums, brackets and lists keep 65 [50, 82], 66 [49, 87] and 88 [74, 106] %, n 100",
        "smollm2.md",
    ),
}


def from_gallery(text: str) -> CutPlan:
    """The plan of ``gallery:MODEL/NAME``. Raises InputError: there is none of the name."""
    name = text.removeprefix(PREFIX)
    if name not in GALLERY:
        raise unknown("plan of the gallery", name, GALLERY)
    return CutPlan.load(_FOLDER / f"{name.replace('/', '--')}.json")
