"""What a certificate asks: how much is learned from, what must be reached, and what it is compared with."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from himari_rl.agents.config import PPOConfig
from himari_rl.certification.grading import Grade
from himari_rl.certification.law import KnownMarket
from himari_rl.errors import ConfigError

SUFFIX = "-one-history"  # of a market that is to be learned from one history only
Check = tuple[bool, str]  # whether it holds, and what was asked
MEASURES = {
    "over_one": "of the optimum's advantage over multiplier 1.0",
    "of_optimum": "of the optimum",
    "loss": "of what banded 15 % volatility loses",
}


@dataclass(frozen=True, kw_only=True)
class Budget:
    """How much a market is learned from."""

    bars: int = 4_000_000
    """Bars stepped in training."""
    distinct: int = 2_000_000
    """Different bars they are drawn from."""


@dataclass(frozen=True, kw_only=True)
class Threshold:
    """What a market asks of an agent: the median over seeds, the worst seed, the turnover."""

    median: float = 0.0
    worst: float = -np.inf
    over_constant: bool = False
    """The share is taken over the best constant instead of over zero."""
    turnover: tuple[float, float] = (0.0, np.inf)
    aside: bool = False
    """No edge: mean exposure below .02 and turnover below .001."""
    nothing: bool = False
    """Shuffled: the share over the best constant is not above 0 within two standard errors."""
    left_out: float = np.inf
    """Of a portfolio: largest mean weight, of any seed, in an asset that the optimum leaves out."""
    gross: float = np.inf
    """Of a portfolio: largest gross exposure of any bar of any seed."""
    beside: Callable[[Sequence[Grade], Mapping[str, Grade]], Check] | None = None
    """What the seeds' grades must show beside those of the naive policies and the rivals, by name."""


@dataclass(frozen=True, kw_only=True)
class HistoryThreshold:
    """What a history asks of the median over seeds, and of the worst."""

    measure: str = "over_one"
    """One of MEASURES; of a loss at most so much is asked, of everything else at least."""
    median: float
    worst: float | None = None


Rivals = Callable[[str, int, Budget], dict[str, Grade]]
"""(market, seed, budget) -> grades of what is trained to be compared with, by name; a module's own function."""


@dataclass(frozen=True, kw_only=True)
class Suite:
    """What one kind of agent is certified with."""

    config: PPOConfig
    budget: Budget
    thresholds: Mapping[str, Threshold]
    """The markets of this kind's certificate, and what each asks."""
    rivals: Rivals | None = None
    """What is trained to be compared with."""
    rival_seeds: int = 1
    """How many of the seeds they are trained with; the median counts."""
    budget_multiples: Mapping[str, int] = field(default_factory=dict)
    """Times the budget, by market, where a bar of it says too little."""
    histories: Mapping[str, HistoryThreshold] = field(default_factory=dict)
    """What is learned from one history, as real bars are, and what each asks."""
    history_seeds: int = 3
    """Seeds of a history in a whole certificate; named alone it takes all."""
    num_episodes: int | None = None
    """Training budget of a history; None is what a training job takes by itself."""

    def budget_for(self, name: str) -> Budget:
        """What a market is learned from, whatever its numbers."""
        times = self.budget_multiples.get(re.split("[:/]", name.removesuffix(SUFFIX))[0], 1)
        return replace(self.budget, bars=times * self.budget.bars, distinct=times * self.budget.distinct)

    def require_kind_of(self, market: KnownMarket) -> None:
        """Refuses a market of one asset for a portfolio's agent, and the other way round.

        Raises:
            ConfigError: it has too many assets for this kind, or too few.
        """
        if (self.config.action_dim > 1) != (market.assets_count > 1):
            fits = ", ".join(self.thresholds)
            raise ConfigError(f"{market.name} has {market.assets_count} asset(s)", f"one of {fits}", "or another kind")
