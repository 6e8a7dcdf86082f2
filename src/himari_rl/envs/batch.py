"""Batches of environments: some of them, all of them again, some of them anew."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from himari_rl.envs.physics import EnvState
from himari_rl.policy.account import Account, Trades


def mapped(function: Callable[..., Tensor], *states: EnvState) -> EnvState:
    """A function applied leaf by leaf."""
    flat = [leaves(state) for state in states]
    return from_leaves([function(*same) for same in zip(*flat, strict=True)])


def leaves(state: EnvState) -> list[Tensor]:
    """Every tensor of a state, in a fixed order."""
    return [state.row, state.end, *state.account, *state.trades, state.log_peak, *state.moments]


def from_leaves(values: Sequence[Tensor]) -> EnvState:
    """The inverse of `leaves`."""
    first, second = 2 + len(Account._fields), 2 + len(Account._fields) + len(Trades._fields)
    return EnvState(
        values[0], values[1], Account(*values[2:first]), Trades(*values[first:second]), values[second],
        (values[second + 1], values[second + 2]),
    )  # fmt: skip


def pick(state: EnvState, which: Tensor) -> EnvState:
    """Some of the environments."""
    return mapped(lambda leaf: leaf[which], state)


def join(states: Sequence[EnvState]) -> EnvState:
    """All of them again."""
    return mapped(lambda *parts: torch.cat(parts), *states)


def stack(states: Sequence[EnvState]) -> EnvState:
    """Several moments of the same environments, time first."""
    return mapped(lambda *parts: torch.stack(parts), *states)


def where_over(over: Tensor, fresh: EnvState, state: EnvState) -> EnvState:
    """`fresh` where an episode is over, else `state`. `over` is (N,)."""
    return mapped(lambda a, b: torch.where(over if a.ndim == 1 else over[:, None], a, b), fresh, state)
