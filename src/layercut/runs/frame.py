"""Results as pandas data frames."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from layercut.errors import InputError

if TYPE_CHECKING:
    from pandas import DataFrame


def data_frame(rows: Sequence[Mapping[str, Any]]) -> DataFrame:
    """A data frame with a line for each row; a field within a field is a column ``kept.low``.

    Raises:
        InputError: pandas is not installed.
    """
    try:
        import pandas as pd
    except ImportError as error:
        raise InputError("a data frame needs pandas, which is not installed: pip install pandas.") from error
    return pd.json_normalize([dict(row) for row in rows])
