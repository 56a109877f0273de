"""Settings of a diagnosis."""

from __future__ import annotations

from pydantic import Field

from layercut.base_settings import Seed, Settings


class DiagnoseSettings(Settings):
    """Settings of a diagnosis, the same for every model."""

    limit: int = Field(32, ge=1, description="Items of each kind of question.")
    num_samples: int = Field(64, ge=1, description="Answers drawn for each item where answers are drawn.")
    seed: Seed = 0
