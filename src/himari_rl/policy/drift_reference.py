"""What a bundle knows of the rows that its policy was trained on, and of its answers to them: drift.py's reference."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from himari_rl.features.contract import (
    ACCOUNT_COLUMNS,
    ACTION_BUY,
    ACTION_SELL,
    POSITION_SIDE,
    POSITION_SIZE,
    WIDTH,
    WIN_RATE,
    state_dim,
    state_features,
)
from himari_rl.policy.drift import ANSWER_CONFIDENCE, DriftSpec, fit_drift, multiplier_name
from himari_rl.schema import HOUR_MS, BoolArray, FloatArray, IntArray

ANSWERED, LANES = 50_000, 32  # newest training rows that the policy is asked, in so many stretches at once


class AnswersRows(Protocol):
    """A policy that is asked the states of several streams at once, or a whole history where its answers allow it."""

    def along(self, rows: FloatArray, side: FloatArray, lanes: int) -> tuple[FloatArray, FloatArray] | None:
        """(T, A) multipliers and (T,) confidences on rows in order; None where it has to be asked one by one."""
        ...

    def steps(self, states: Sequence[Sequence[float]], memories: Sequence[Any]) -> Sequence[Any]:
        """Of each an answer with `multipliers`, `confidence` and the new `memory`."""
        ...


def reference_of(
    policy: AnswersRows,
    rows: FloatArray,
    symbols: Sequence[str],
    allow_short: bool,
    interval_ms: int = HOUR_MS,
    own: Sequence[str] = (),
    times: IntArray | None = None,
) -> DriftSpec | None:
    """The reference of a policy on its training rows (N, F) at opening times (N,); None where they are too few.

    Args:
        own: its own features; they are watched by their names like the contract's.
    """
    names = [feature.name for feature in state_features(symbols, own)]
    market = {names[f]: rows[:, f] for f in range(len(names)) if f not in _account_columns(len(symbols))}
    answers = _answers(policy, rows[-ANSWERED:, : len(names)], symbols, allow_short)
    met, did = fit_drift(market, interval_ms=interval_ms, times=times), fit_drift(answers)
    if met is None or did is None:
        return None
    return DriftSpec(window=met.window, features=met.features | did.features)


def _account_columns(assets: int) -> set[int]:
    """Columns of a state that are the account's; of several assets also the last, its concentration."""
    own = {WIDTH * asset + column for asset in range(assets) for column in ACCOUNT_COLUMNS}
    return own | ({state_dim(assets) - 1} if assets > 1 else set())


def _answers(policy: AnswersRows, rows: FloatArray, symbols: Sequence[str], allow_short: bool) -> dict[str, FloatArray]:
    """Multipliers and confidence on rows in order; the account holds what was decided the bar before."""
    assets, lanes = len(symbols), min(LANES, len(rows))
    states = np.array(rows[len(rows) % lanes :], np.float64)
    blocks = states[:, : WIDTH * assets].reshape(len(states), assets, WIDTH)  # a view: what is written there is a state
    blocks[..., WIN_RATE] = 0.5  # of an account without a closed trade
    sides = _sides(blocks[..., ACTION_BUY] > 0.0, blocks[..., ACTION_SELL] > 0.0, allow_short)
    found = policy.along(states, sides, lanes)
    columns = np.column_stack(found) if found is not None else _one_by_one(policy, states, sides, lanes)
    named = {multiplier_name(symbol): columns[:, asset] for asset, symbol in enumerate(symbols)}
    return named | {ANSWER_CONFIDENCE: columns[:, assets]}


def _sides(bought: BoolArray, sold: BoolArray, allow_short: bool) -> FloatArray:
    """(T, A) direction of the base position after each row: as last asked, 0 before."""
    when = np.where(bought | sold, np.arange(len(bought))[:, None], -1)
    last = np.maximum.accumulate(when, axis=0)
    asked = np.where(bought, 1.0, -1.0 if allow_short else 0.0)
    return np.where(last >= 0, np.take_along_axis(asked, np.maximum(last, 0), axis=0), 0.0)


def _one_by_one(policy: AnswersRows, states: FloatArray, sides: FloatArray, lanes: int) -> FloatArray:
    """(T, A + 1) multipliers and confidence: `lanes` stretches side by side, each with a memory of its own."""
    assets = sides.shape[1]
    states, sides = (each.reshape(lanes, -1, each.shape[1]) for each in (states, sides))  # each in order of time
    blocks = states[..., : WIDTH * assets].reshape(lanes, -1, assets, WIDTH)
    told = np.empty((*states.shape[:2], assets + 1))
    held = np.zeros((lanes, assets))
    memories: list[Any] = [None] * lanes
    for t in range(states.shape[1]):
        blocks[:, t, :, POSITION_SIZE], blocks[:, t, :, POSITION_SIDE] = np.abs(held) / 2.0, np.sign(held)
        answers = policy.steps(states[:, t].tolist(), memories)
        memories = [answer.memory if len(answer.memory) else None for answer in answers]
        told[:, t, :assets] = [answer.multipliers for answer in answers]
        told[:, t, assets] = [answer.confidence for answer in answers]
        held = told[:, t, :assets] * sides[:, t]
    return told.reshape(-1, assets + 1)
