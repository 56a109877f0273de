"""The command line in this process, as the tests of ``cli`` run it."""

from tests.unit.cli.conftest import layercut as layercut
