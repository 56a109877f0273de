"""The bundled SmolLM2-135M, converted from its package (about 20 s) unless the user's cache has it already."""

import pytest

from layercut.errors import InputError
from layercut.models.convert import bundled_file, bundled_model
from layercut.models.loading import load_model
from tests.support.commands import MODEL


@pytest.fixture(scope="session")
def bundled():
    """Its GGUF file. Without its package, a test that asks for it is skipped."""
    try:
        return bundled_file(bundled_model(MODEL))
    except InputError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def smollm2(bundled):
    """In float32; a test leaves it as it was."""
    return load_model(MODEL, dtype="float32", device="cpu")
