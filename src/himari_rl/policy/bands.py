"""A whole history of answers at once, for policies whose network does not read the account.

    m[t] = mean over members of clip(m_prev, low[t], high[t])

The edges depend on market rows alone, so one pass of the network gives all of them, and only the position is left to
step. Every head has this form: without a band low = high.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from himari_rl.features.contract import ACTION, POSITION_SIDE, POSITION_SIZE, WIDTH
from himari_rl.policy.believer import Believer
from himari_rl.policy.network import F32, HeadMany, InputNormaliser, Member
from himari_rl.schema import FloatArray


class Bands(NamedTuple):
    """What each member would do with any position, at T rows in a row."""

    low: F32  # (T, M, A)
    high: F32  # (T, M, A)
    lean: FloatArray  # (T, A) +1 where the rows say BUY, -1 SELL, 0 HOLD
    hold: FloatArray  # (T, A) 1 where they say HOLD

    def after(self, rows: int) -> Bands:
        """Without the first rows."""
        return Bands(self.low[rows:], self.high[rows:], self.lean[rows:], self.hold[rows:])


def followed(found: Bands, lanes: int, side: FloatArray) -> FloatArray:
    """(T, M, A) answers of each member where the account holds what all decided the bar before, from nothing.

    Args:
        lanes: stretches that are stepped side by side, each from nothing; divides T.
        side: (T, A) direction of the base position from this bar on: +1, -1, or 0 before Layer 2 first spoke.
    """
    low, high, lean, hold, along = (
        each.reshape(lanes, -1, *each.shape[1:]).swapaxes(0, 1).astype(np.float64)
        for each in (found.low, found.high, found.lean, found.hold, side)
    )
    answers, held = np.empty(low.shape), np.zeros(lean.shape[1:])
    for t in range(len(low)):
        before = held * lean[t] + np.abs(held) * hold[t]
        np.clip(before[:, None], low[t], high[t], out=answers[t])
        held = answers[t].mean(axis=1) * along[t]
    return answers.swapaxes(0, 1).reshape(found.low.shape)


def bands(
    members: list[Member],
    normaliser: InputNormaliser,
    head: HeadMany,
    rows: FloatArray,
    assets: int,
    believer: Believer | None,
) -> Bands:
    """The edges on market rows (T, F), in order of time; whatever remembers starts with a fresh memory."""
    seen = np.asarray(rows, np.float32)
    believed = None if believer is None else np.asarray(believer.history(seen), np.float32)
    anchor = None if believed is None else believed[:, :assets]
    x = normaliser.many(seen if believed is None else np.column_stack([seen, believed]))
    empty, full = seen.copy(), seen.copy()  # two positions that show a head its two edges: nothing, and all of 2
    for a in range(assets):
        block = WIDTH * a
        empty[:, block + POSITION_SIZE] = 0.0
        full[:, [block + POSITION_SIZE, block + POSITION_SIDE]] = 1.0
        full[:, block + ACTION.start : block + ACTION.stop] = (0.0, 0.0, 1.0)
    low, high = [], []
    for member in members:
        out = _through(member, x)
        low.append(head(out, empty, anchor))
        high.append(head(out, full, anchor))
    said = seen[:, : WIDTH * assets].reshape(len(seen), assets, WIDTH)[..., ACTION].astype(np.float64)
    return Bands(np.stack(low, 1), np.stack(high, 1), said[..., 2] - said[..., 0], said[..., 1])


def _through(member: Member, x: F32) -> F32:
    """Outputs (T, K) of one member on normalised rows (T, F)."""
    if not member.memory_size:
        return member.many(x, np.zeros((len(x), 0), np.float32))[0]
    memory = np.zeros(member.memory_size, np.float32)
    one = np.ones(x.shape[1] + 1, np.float32)
    found = []
    for row in x:
        one[:-1] = row
        found.append(member.one(one, memory))
    return np.array(found, np.float32)
