"""What an agent's net makes of the market: the bands of any bars, as often as the weights change.

The market does not react and the normaliser is fitted once, so what the net reads of every row is known before
training: standardised, without the columns that it does not read. Where a rollout visits a row several times (4,200
rows of a fold, 12,500 bars of a gradient step), the net is asked once for each row and not once for each visit.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from himari_rl.agents.distributions import Band, band_of
from himari_rl.agents.networks import Memory, MLPTrunk
from himari_rl.agents.ppo_agent import PPOAgent
from himari_rl.envs.physics import Physics

PART = 1 << 16  # rows standardised at once


class Seen(NamedTuple):
    """The bands of (T, N) bars."""

    band: Band  # of the bars (T, N, A), or of all rows (D, A)
    rows: Tensor | None  # (T, N) row of each bar, where `band` is of all rows

    def at_bars(self, edge: Tensor) -> Tensor:
        """(T, N, A) one of the band's tensors, without gradient."""
        values = edge.detach()
        if self.rows is None:
            return values
        return values.index_select(0, self.rows.flatten()).view(*self.rows.shape, -1)

    def from_bars(self, slope: Tensor) -> Tensor:
        """The inverse for slopes (T, N, A): what all visits to a row add up to."""
        if self.rows is None:
            return slope
        rows, count = self.rows.flatten(), len(self.band.low)
        each = slope.flatten(0, 1).unbind(-1)
        return torch.stack([torch.bincount(rows, own.contiguous(), count) for own in each], -1)

    def visits(self) -> Tensor:
        """(..., A) share of the bars that each number of the band stands for."""
        shape = self.band.excess.shape
        if self.rows is None:
            return torch.full_like(self.band.excess, 1.0 / self.band.excess.numel())
        count = torch.bincount(self.rows.flatten(), minlength=shape[0])
        return (count / (self.rows.numel() * shape[1])).to(self.band.excess.dtype)[:, None].expand(shape)

    def whole(self) -> Band:
        """The band of every bar, (T, N, A) with its gradients."""
        band, rows = self.band, self.rows
        if rows is None:
            return band
        index = rows.flatten()

        def at(edge: Tensor) -> Tensor:
            return edge.index_select(0, index).view(*rows.shape, -1)

        low = at(band.low)
        return Band(low, low if band.high is band.low else at(band.high), band.excess)


class Sight:
    """The bands of one agent on one market. Ask for nothing else while its normaliser stays as it is."""

    def __init__(self, agent: PPOAgent, physics: Physics) -> None:
        self._agent, self._rows = agent, physics.market.rows
        self._columns: Tensor | None = None
        self._anchors: slice | None = None  # where the table keeps the multiplier of which the band is a multiple
        self._table = self._rows
        # on a GPU sums of visits come in any order, and the last bits with them
        self._by_row = physics.device.type == "cpu"
        if isinstance(agent.trunk, MLPTrunk) and not agent.reads_account:
            self._columns = torch.nonzero(agent.normaliser.keep)[:, 0]
            with torch.no_grad():
                parts = [agent.normalised_states(part)[:, self._columns] for part in torch.split(self._rows, PART)]
                self._table = torch.cat(parts)
            if agent.config.anchored:
                before = int((self._columns < agent.config.state_dim).sum())
                self._anchors = slice(before, before + agent.config.action_dim)

    @property
    def prepared(self) -> bool:
        """Whether what the net reads of a row is kept; if not, it is made anew each time."""
        return self._columns is not None

    def whole(self, rows: Tensor) -> tuple[Band, Tensor]:
        """The band of every bar of rows (T, N) with its gradients, and the mean of its excess; without memory."""
        seen, _ = self.bands(rows, None)
        return seen.whole(), (seen.band.excess * seen.visits()).sum()

    def bands(self, rows: Tensor, memory: Memory) -> tuple[Seen, Memory]:
        """The bands at decision rows (T, N), with their gradients if those are on, and the memory after the last."""
        agent = self._agent
        if self._columns is None or not isinstance(agent.trunk, MLPTrunk):
            seen = self._table.index_select(0, rows.flatten()).view(*rows.shape, -1)
            band, memory = agent.band(seen, memory)
            return Seen(band, None), memory
        if self._by_row and len(self._table) <= rows.numel():
            return Seen(self._band(self._table, agent.trunk), rows), memory
        seen = self._table.index_select(0, rows.flatten()).view(*rows.shape, -1)
        return Seen(self._band(seen, agent.trunk), None), memory

    def _band(self, seen: Tensor, trunk: MLPTrunk) -> Band:
        """The band of rows of the table (..., columns)."""
        agent, anchors = self._agent, self._anchors
        out = trunk.on_columns(seen, agent.out, self._columns)
        return band_of(agent.config.head, out, None if anchors is None else seen[..., anchors])
