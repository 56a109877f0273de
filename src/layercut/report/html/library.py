"""The library that draws the plots: Vega, Vega-Lite and vega-embed as one script that needs no network."""

from __future__ import annotations

from functools import lru_cache

from layercut.errors import MissingExtra

_NOTICE = (
    "/*! Vega, Vega-Lite, vega-embed and what they use, unchanged. Vega and Vega-Lite: Copyright University of "
    "Washington Interactive Data Lab and contributors, BSD-3-Clause. */\n"
)


@lru_cache(maxsize=1)
def bundle() -> str:
    """The script, 0.9 MB; afterwards the page knows ``vegaEmbed``. The same version of vl-convert gives the same bytes.

    Raises:
        MissingExtra: vl-convert, which carries the library, is not installed.
    """
    try:
        import vl_convert
    except ImportError as error:
        raise MissingExtra("report.html", "report") from error
    return _NOTICE + str(vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;"))
