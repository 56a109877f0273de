"""layercut push: what is shown, and what is sent."""

from __future__ import annotations

from pathlib import Path

from tests.unit.cli.conftest import Run
from tests.unit.models.test_push import Hub, hub, run  # noqa: F401


def test_the_dry_run_uploads_nothing(run: Path, hub: Hub, layercut: Run) -> None:  # noqa: F811
    ran = layercut("push", run, "me/small", "--dry-run")
    assert ran.code == 0, ran.err
    assert "model.safetensors" in ran.out and "model-index" in ran.out and "nothing was uploaded" in ran.out
    assert not hub.created and not hub.files
    sent = layercut("push", run, "me/small")
    assert sent.code == 0 and "uploaded: http://127.0.0.1" in sent.out and hub.files
