"""Divergence of a plan's next-token distributions from those of a reference plan, on given continuations."""

# Shapes: B batch, T tokens, V vocabulary, N scored positions, C of them in a chunk.

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import log_softmax

from layercut.engine.base import Divergence, TokenDamage
from layercut.engine.prompts import decode_tokens
from layercut.engine.rows import Scoring
from layercut.engine.scores import refuse_nan
from layercut.engine.stack import HeadInput, logits, position_chunks, states_at
from layercut.surgery.remove import bypass

if TYPE_CHECKING:
    from layercut.models.loading import LoadedModel
    from layercut.surgery.plan import CutPlan

SURE = 0.9  # least probability of a token of which the reference is sure


class TokenDivergence(NamedTuple):
    """One value per position, (N,) float32 in nats; the last is 0 or 1."""

    nll: Tensor
    reference_nll: Tensor
    kl: Tensor
    top1_disagrees: Tensor


class Reference(NamedTuple):
    """Next-token distributions of the reference, and what every comparison with them needs."""

    logits_NV: Tensor
    p_NV: Tensor  # log-probabilities, float32
    weight_NV: Tensor  # probabilities
    ruled_out_NV: Tensor | None  # tokens without any probability; None where no token is ruled out
    likeliest_N: Tensor

    @classmethod
    @torch.no_grad()
    def of(cls, logits_NV: Tensor) -> Reference:
        """From logits."""
        p_NV = log_softmax(logits_NV, dim=-1, dtype=torch.float32)
        ruled_out_NV = p_NV.isneginf()
        ruled_out = ruled_out_NV if bool(ruled_out_NV.any()) else None
        return cls(logits_NV, p_NV, p_NV.exp(), ruled_out, p_NV.argmax(dim=-1))


@torch.no_grad()
def token_choice(reference: Reference, plan_NV: Tensor, token_N: Tensor) -> Tensor:
    """(4, N) int64: rank of the token that comes next, and the rank in the reference, each 1 + how many tokens are
    strictly likelier; the likeliest token, and that of the reference."""
    both = (plan_NV, reference.logits_NV)
    ranks = [1 + (logits_NV > logits_NV.gather(1, token_N.unsqueeze(1))).sum(dim=-1) for logits_NV in both]
    return torch.stack([*ranks, *(logits_NV.argmax(dim=-1) for logits_NV in both)])


@torch.no_grad()
def token_divergence(reference: Reference, plan_NV: Tensor, token_N: Tensor) -> TokenDivergence:
    """Compare two models position by position, in float32.

    With p the reference's distribution and q the plan's: KL(p || q) = sum over v of p_v ln(p_v / q_v).

    Args:
        token_N: the token that comes next.
    """
    q_NV = log_softmax(plan_NV, dim=-1, dtype=torch.float32)
    token_N1 = token_N.unsqueeze(1)
    kl_NV = (reference.p_NV - q_NV).mul_(reference.weight_NV)
    if reference.ruled_out_NV is not None:  # ln p = -inf; it adds nothing
        kl_NV = kl_NV.masked_fill_(reference.ruled_out_NV, 0.0)
    return TokenDivergence(
        nll=-q_NV.gather(1, token_N1).squeeze(1),
        reference_nll=-reference.p_NV.gather(1, token_N1).squeeze(1),
        kl=kl_NV.sum(dim=-1).clamp_min(0),  # below 0 it is rounding
        top1_disagrees=(reference.likeliest_N != q_NV.argmax(dim=-1)).float(),
    )


def divergences_of(
    loaded: LoadedModel, items: Sequence[Scoring], ids_BT: Tensor, plans: Sequence[CutPlan], reference: CutPlan
) -> list[list[Divergence]]:
    """Run requests of one continuation each, whose rows are padded on the right, under the reference and under every
    plan that does not equal it; the results of each plan."""
    read = [(index, position) for index, item in enumerate(items) for position in item.rows[0].read_positions]

    def states_under(plan: CutPlan) -> HeadInput:
        with bypass(loaded.model, plan):
            return states_at(loaded.model, ids_BT, read)

    before = states_under(reference)
    states = [before if plan.key == reference.key else states_under(plan) for plan in plans]
    return divergences_between(loaded, items, before, states)


@torch.no_grad()
def divergences_between(
    loaded: LoadedModel, items: Sequence[Scoring], before: HeadInput, plans: Sequence[HeadInput]
) -> list[list[Divergence]]:
    """Compare states under a reference (``before``) and some plans, the head chunk by chunk.

    All hold the N positions before the continuations' tokens, request by request. The reference's distributions of a
    chunk are made once for all plans. Returns, per plan, the divergence of every request.
    """
    model = loaded.model
    token_N = torch.tensor([token for item in items for token in item.rows[0].continuations[0]])
    by_token = any(item.request.by_token for item in items)
    parts: list[list[Tensor]] = [[] for _ in plans]
    choices: list[list[Tensor]] = [[] for _ in plans]
    for chunk in position_chunks(model, len(token_N)):
        reference = Reference.of(logits(model, before, chunk))
        token_C = token_N[chunk].to(reference.logits_NV.device)
        for place, after in enumerate(plans):
            plan_CV = logits(model, after, chunk)
            parts[place].append(torch.stack(token_divergence(reference, plan_CV, token_C)).cpu())
            if by_token:
                choices[place].append(token_choice(reference, plan_CV, token_C).cpu())
    lengths = [item.rows[0].num_scored for item in items]
    results = []
    for values, chosen in zip(parts, choices, strict=True):
        own_values = torch.cat(values, dim=1).double().split_with_sizes(lengths, dim=1)
        answers = [_summed(loaded, item, values_4T) for item, values_4T in zip(items, own_values, strict=True)]
        if by_token:
            own_choices = torch.cat(chosen, dim=1).split_with_sizes(lengths, dim=1)
            for place, item in enumerate(items):
                if item.request.by_token:
                    damage = _token_damage(loaded, item, own_values[place], own_choices[place])
                    answers[place] = replace(answers[place], tokens=damage)
        results.append(answers)
    return results


def _token_damage(loaded: LoadedModel, item: Scoring, values_4T: Tensor, choice_4T: Tensor) -> tuple[TokenDamage, ...]:
    """The damage at each token of one continuation."""
    tokenizer, continuation, shown = loaded.tokenizer, item.rows[0].continuations[0], ""
    tokens = []
    values = zip(*values_4T[:3].tolist(), *choice_4T.tolist(), strict=True)
    for index, (nll, reference_nll, kl, rank, reference_rank, *likeliest) in enumerate(values):
        # Decoded from the beginning, because a token may hold a part of a character, and be glued to the one before.
        text = decode_tokens(tokenizer, continuation[: index + 1]).rstrip("\ufffd")
        added, shown = text[len(shown) :], max(shown, text, key=len)
        texts = [decode_tokens(tokenizer, [token]) for token in likeliest]
        tokens.append(TokenDamage(added, nll, reference_nll, kl, rank, reference_rank, *texts))
    return tuple(tokens)


def _summed(loaded: LoadedModel, item: Scoring, values_4T: Tensor) -> Divergence:
    # Each row is summed in float64, in its own order, whatever shares the batch or the chunk.
    nll, reference_nll, kl, disagreements = values_4T.sum(dim=1).tolist()
    nll_T, reference_nll_T = values_4T[:2]
    sure_T = reference_nll_T <= -math.log(SURE)
    refuse_nan(loaded, item.id, bool(values_4T.isnan().any()))
    return Divergence(
        id=item.id,
        num_tokens=item.rows[0].num_scored,
        nll=nll,
        reference_nll=reference_nll,
        kl=kl,
        top1_disagreements=int(disagreements),
        sure=(nll_T - reference_nll_T)[sure_T].sum().item(),
    )
