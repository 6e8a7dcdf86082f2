"""The held position in multipliers: one formula for floats, numpy and torch, checked against its definition."""

from __future__ import annotations

import numpy as np
import torch

from helpers.bundle import valid_states
from himari_rl.policy.network import held_multiplier, held_multipliers


def test_a_position_counts_on_the_side_that_is_asked_for() -> None:
    def held(size: float, side: float, action: str) -> float:
        return held_multiplier(size, side, *(float(action == name) for name in ("BUY", "HOLD", "SELL")))

    assert held(0.3, 1.0, "BUY") == 0.6  # a long of 0.3 of the largest, 2: 0.6 of the base position
    assert held(0.3, 1.0, "SELL") == -0.6  # it stands on the other side
    assert held(0.3, -1.0, "SELL") == 0.6
    assert held(0.3, -1.0, "HOLD") == 0.6  # HOLD asks for the side that is held
    assert held(0.0, 0.0, "BUY") == 0.0


def test_numpy_torch_and_floats_give_the_same_bits() -> None:
    states = valid_states(500, 3, seed=2).astype(np.float32)
    batch = held_multipliers(states, 3)
    assert batch.dtype == np.float32
    np.testing.assert_array_equal(held_multipliers(torch.as_tensor(states), 3).numpy(), batch)
    np.testing.assert_array_equal(held_multipliers(torch.as_tensor(states)[None], 3)[0].numpy(), batch)
    for state, row in zip(states.astype(np.float64), batch, strict=True):
        blocks = state[:48].reshape(3, 16).tolist()
        scalar = [held_multiplier(b[8], b[9], b[3], b[2], b[1]) for b in blocks]
        assert np.array(scalar, np.float32).tolist() == row.tolist()
