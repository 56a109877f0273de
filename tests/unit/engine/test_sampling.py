from __future__ import annotations

import numpy as np
import torch
from scipy.stats import kstest

from layercut.engine.base import Decoding
from layercut.engine.stopping import RequestNoise, gumbel_noise, gumbel_values, noise_key


def test_noise_is_gumbel_distributed() -> None:
    noise = gumbel_noise(noise_key(0, "a"), 0, 20_000)
    assert kstest(noise, "gumbel_r").pvalue > 0.01
    assert noise.dtype == np.float32


def test_noise_depends_on_seed_request_and_step_and_on_nothing_else() -> None:
    noises = {
        (seed, name, step): gumbel_noise(noise_key(seed, name), step, 50)
        for seed in (0, 1)
        for name in ("a", "b")
        for step in (0, 1)
    }
    assert len({noise.tobytes() for noise in noises.values()}) == 8
    assert (gumbel_noise(noise_key(0, "a"), 1, 50) == noises[0, "a", 1]).all()
    assert noise_key(1, "1a") != noise_key(11, "a")


def test_a_padded_vocabulary_has_the_same_noise() -> None:
    key = noise_key(0, "a")
    assert (gumbel_noise(key, 3, 101) == gumbel_noise(key, 3, 128)[:101]).all()


def test_the_steps_of_a_long_answer_do_not_overlap() -> None:
    key = noise_key(0, "a")
    first, second = gumbel_noise(key, 0, 200_000), gumbel_noise(key, 1, 200_000)
    assert not np.isin(second[:8], first).all()


def test_noise_is_finite_and_reaches_far_at_both_ends() -> None:
    low, high = gumbel_values(np.array([2**32 - 1, 0], dtype=np.uint32))
    assert -3.2 < low < -2.5
    assert 22 < high < 24


def test_rows_get_their_own_noise_wherever_they_stand() -> None:
    scores_BV = torch.zeros(2, 40)
    ids_BT = torch.zeros(2, 7, dtype=torch.long)
    at_random = Decoding(temperature=1, seed=5)
    both = RequestNoise(at_random, ["a", "b"], 4)(ids_BT, scores_BV)
    swapped = RequestNoise(at_random, ["b", "a"], 4)(ids_BT, scores_BV)
    longer_prompt = RequestNoise(at_random, ["a", "b"], 14)(torch.zeros(2, 17, dtype=torch.long), scores_BV)
    assert torch.equal(both, swapped.flip(0))
    assert torch.equal(both, longer_prompt), "the step counts from the end of the prompt"


def test_top_k_and_top_p_bound_what_can_be_drawn() -> None:
    scores_BV = torch.log(torch.tensor([[0.5, 0.3, 0.15, 0.05]]))

    def drawn(decoding: Decoding) -> set[int]:
        ids = [f"r{i}" for i in range(400)]
        steps = RequestNoise(decoding, ids, 1)
        return set(steps(torch.zeros(400, 1, dtype=torch.long), scores_BV.repeat(400, 1)).argmax(-1).tolist())

    assert drawn(Decoding(temperature=1)) == {0, 1, 2, 3}
    assert drawn(Decoding(temperature=1, top_k=2)) == {0, 1}
    assert drawn(Decoding(temperature=1, top_p=0.9)) == {0, 1, 2}
    assert drawn(Decoding(temperature=0.01)) == {0}
    assert drawn(Decoding(temperature=2, top_k=1)) == {0}, "whole numbers will do"
