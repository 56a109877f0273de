"""Keep transformers from writing over our own output while it loads or saves a model."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
from transformers.utils import logging


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """No loading bars, log lines below ERROR or Python warnings inside the block; afterwards all is as it was.

    What a caller should know (missing tensors, wrong shapes) is checked and raised by us, not read from the log.
    """
    verbosity, bars, hub_bars = logging.get_verbosity(), logging.is_progress_bar_enabled(), not are_progress_bars_disabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()  # this one switches the hub's bars as well
        (enable_progress_bars if hub_bars else disable_progress_bars)()
