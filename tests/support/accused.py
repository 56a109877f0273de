"""The diagnostics that show damage."""

from collections.abc import Mapping

from layercut.evidence.diagnosis import Diagnosis, layer_damages


def accused(diagnoses: Mapping[str, Diagnosis], arm: str) -> list[str]:
    """By the largest loss of each."""
    return list(dict.fromkeys(found.row.diagnostic for found in layer_damages(diagnoses, arm)))
