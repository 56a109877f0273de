"""The command line in this process, a tiny model, a hub on localhost, and two studies: a usual and an extreme one."""

from pathlib import Path
from typing import NamedTuple

import huggingface_hub
import pytest

from layercut.cli.main import main
from tests.support.run_builder import build_extreme, build_quickstart
from tests.unit.models.hub_server import fake_hub


class Ran(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def words(self) -> str:
        """What stands on stdout, however wide the terminal was."""
        return " ".join(self.out.split())

    @property
    def said(self) -> str:
        """Remarks and results, however wide the terminal was."""
        return " ".join(f"{self.err} {self.out}".split())


class Run:
    """The command line in this process."""

    def __init__(self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
        self._capsys, self._monkeypatch = capsys, monkeypatch

    def __call__(self, *arguments: object) -> Ran:
        self._monkeypatch.setattr("sys.argv", ["layercut", *map(str, arguments)])
        self._capsys.readouterr()
        try:
            main()
            code = 0
        except SystemExit as end:
            code = int(end.code or 0)
        said = self._capsys.readouterr()
        return Ran(code, said.out, said.err)

    def done(self, *arguments: object) -> Ran:
        """A command that must succeed."""
        ran = self(*arguments)
        assert ran.code == 0, ran.err
        return ran


@pytest.fixture(scope="session")
def tiny(tmp_path_factory) -> Path:
    """A tiny llama on disk."""
    from tests.support.tiny import save_tiny

    return save_tiny("llama", tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def layercut(capsys, monkeypatch) -> Run:
    """Runs the command line: exit code, stdout, stderr."""
    monkeypatch.setenv("COLUMNS", "120")
    return Run(capsys, monkeypatch)


@pytest.fixture(scope="module")
def shared_cache(tmp_path_factory):
    """One cache of converted models for all tests of a module."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LAYERCUT_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def online(tmp_path, monkeypatch):
    """Point the hub library at an address, with an empty cache."""

    def point(url):
        constants = huggingface_hub.constants
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "ENDPOINT", url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}")
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub-cache"))
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_IMPLICIT_TOKEN", True)

    return point


@pytest.fixture
def hub(online):
    with fake_hub() as server:
        online(server.url)
        yield server


@pytest.fixture(scope="session")
def quickstart(tmp_path_factory):
    return build_quickstart(tmp_path_factory.mktemp("runs") / "quickstart")


@pytest.fixture(scope="session")
def extreme(tmp_path_factory):
    return build_extreme(tmp_path_factory.mktemp("runs") / "extreme")
