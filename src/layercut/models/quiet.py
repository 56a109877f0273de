"""Keep transformers from writing over our own output while it loads or saves a model."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partialmethod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_AT_IMPORT = ("torchao", "torch.utils._pytree")
"""Loggers that warn when torchao is imported, of libraries for cards that are not there."""


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """No bars, lines below ERROR or warnings within it: what a caller should know is checked and raised by us."""
    from tqdm.auto import tqdm
    from transformers.utils import logging as hf_logging

    verbosity, make_bar = hf_logging.get_verbosity(), tqdm.__init__
    hf_logging.set_verbosity(logging.ERROR)
    levels = {logger: logger.level for logger in map(logging.getLogger, _AT_IMPORT)}
    for logger in levels:
        logger.setLevel(logging.ERROR)
    # transformers' own switch does not reach the bar of its GGUF reader, so it is done where all bars begin
    tqdm.__init__ = partialmethod(make_bar, disable=True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        hf_logging.set_verbosity(verbosity)
        for logger, level in levels.items():
            logger.setLevel(level)
        tqdm.__init__ = make_bar


@contextmanager
def without_defaults(model: PreTrainedModel) -> Iterator[None]:
    """Hides the checkpoint's generation config, from which ``generate`` fills in whatever a call leaves open."""
    from transformers import GenerationConfig

    own = model.generation_config
    model.generation_config = GenerationConfig()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        model.generation_config = own
