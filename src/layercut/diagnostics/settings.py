"""Settings of a diagnosis."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from layercut.base_settings import Seed, Settings


class DiagnoseSettings(Settings):
    """What a diagnosis asks of every model."""

    limit: int = Field(32, ge=1, description="Items of each kind of question.")
    num_samples: int = Field(64, ge=1, description="Answers drawn for each item where answers are drawn.")
    arithmetic_data: Path | None = Field(
        None, description="Arithmetic files of GPT-3, or one of them, in place of generated expressions."
    )
    seed: Seed = 0
