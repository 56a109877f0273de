"""Perplexity: remove first the layers whose removal raises the loss on text least."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import cast

from layercut.engine.base import LikelihoodRequest
from layercut.selection.base import Context, Selection, choose, engine_and_text
from layercut.selection.search_journal import SearchJournal
from layercut.selection.text_objective import Measure, TextObjective, select_by_text
from layercut.surgery.plan import CutPlan


def perplexity(context: Context) -> Selection:
    """Choose decoder layers by the loss on calibration text.

    Perplexity is exp of the mean of -ln p(token) over all tokens of the text, each text on its own and from its first
    token on, after the BOS token (or the EOS token where there is none). Song et al., "SLEB", arXiv:2402.09025, removes
    greedily; Kim et al., "Shortened LLaMA", arXiv:2402.02834, ranks once. SLEB's code keeps the first and the last
    layer (``--protect first:1,last:1``); here all are candidates.

    Settings:
        search: ``greedy`` (default, SLEB's) removes the layer whose absence hurts least and repeats, N * C - N * (N -
            1) / 2 runs over the text for N of C candidates. ``one_shot`` skips each layer alone and removes those of
            the least rise, C runs.
        form: ``nll`` (default, the papers'), or ``kl``: KL(uncut || cut) of the next-token distributions, per token,
            which also counts what the text does not show. It takes two runs instead of one.

    Every text is measured once per plan and kept in the run folder's journal.

    Details: those of ``select_by_text``; ``search``, ``form``, and ``calibration`` with ``source``, ``content_hash``,
    ``num_texts`` and ``num_tokens``; for ``nll`` also ``perplexity`` and ``uncut_perplexity``.

    Raises:
        InputError: an unknown setting or value, no engine or no text, or losses that are not numbers.
    """
    chosen = choose("perplexity", context.settings, search=("greedy", "one_shot"), form=("nll", "kl"))
    engine, calibration = engine_and_text(context, "perplexity")
    texts = calibration.texts
    requests = [LikelihoodRequest(id=str(i), prompt="", continuations=(text,)) for i, text in enumerate(texts)]
    source = {**asdict(calibration), "num_texts": len(texts)}
    del source["texts"]
    with SearchJournal(context.folder) as journal:
        objective = TextObjective(
            engine,
            requests,
            name="calibration",
            measure=cast("Measure", chosen["form"]),
            journal=journal,
            progress=context.progress,
        )
        selection = select_by_text(context, objective, chosen["search"])
        details = {**chosen, "calibration": source, **selection.details}
        if chosen["form"] == "nll":
            plans = [CutPlan(num_layers=context.num_layers, removed=removed) for removed in ((), selection.removed)]
            for name, value in zip(("uncut_perplexity", "perplexity"), objective.values(plans), strict=True):
                details[name] = math.exp(-value) if -value < 700 else None  # None: too large for a float
    return selection._replace(details=details)
