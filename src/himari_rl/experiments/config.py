"""What an evaluation, a walk-forward and a search are asked for, besides agent and environment. Torch-free.

Fees, shorts and limits of an evaluation are those of the bundle's manifest.
"""

from __future__ import annotations

from dataclasses import dataclass

from himari_rl.config import require_ranges, require_seeds
from himari_rl.data.splits import PURGE_BARS
from himari_rl.errors import ConfigError
from himari_rl.schema import RISK_AVERSION


@dataclass(frozen=True, kw_only=True)
class FoldConfig:
    """How one fold and seed is trained. The options against overfitting are off unless LOG.md says they help."""

    num_episodes: int = 1000
    """Training budget of each fold and seed, in episodes of environment.episode_bars (500) bars."""
    validation_fraction: float = 0.0
    """Last share of the training rows, after a purge, that picks the best weights (early stopping); 0 is off."""
    bootstrap_paths: int = 0
    """Block-bootstrapped copies of the training rows to train on beside the real ones."""
    synthetic_paths: int = 0
    """Driftless twins of the training rows to train on beside the real ones: the same storms, nothing to know."""
    purge_bars: int = PURGE_BARS
    """Rows that neither side uses, between training and test rows and between training and validation rows."""

    def __post_init__(self) -> None:
        if not 0.0 <= self.validation_fraction < 0.9:
            raise ConfigError(f"validation_fraction {self.validation_fraction}", "0 (off) to below 0.9")
        require_ranges(self, {"num_episodes": (1, 10**9), "bootstrap_paths": (0, 10**6), "synthetic_paths": (0, 10**6)})


@dataclass(frozen=True, kw_only=True)
class WalkForwardConfig(FoldConfig):
    """One walk-forward: calendar folds, seeds and how each fold is trained."""

    train: str = "6mo"
    """Length of the first training span, a number and h, d, w, mo or y; of every one with --no-expanding."""
    test: str = "1mo"
    """Length of each test span."""
    step: str = "1mo"
    """How far the next fold starts later."""
    embargo_bars: int = 0
    """Rows taken off the start of each test span."""
    expanding: bool = True
    """Each fold trains on all bars before its test span, so that --train is the least; --no-expanding rolls a window
    of that length."""
    folds: int = 0
    """Only the newest folds, so many of them; 0 is all."""
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    """Members of each fold's ensemble; the policy is their mean."""
    control_seeds: tuple[int, ...] = (0,)
    """Members of the ensembles on the driftless and the planted twin."""
    warm_start: bool = False
    """Each fold starts from the weights of the fold before."""
    tune_trials: int = 0
    """Settings searched inside each fold's training rows, before its seeds are trained; 0 is off."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.folds, self.tune_trials) < 0:
            raise ConfigError(f"the newest {self.folds} folds, {self.tune_trials} trials", "0 or more; 0 is all, none")
        if self.tune_trials and self.warm_start:
            raise ConfigError(
                "a warm start of searched settings", "one of the two", "the nets differ from fold to fold"
            )
        for seeds in (self.seeds, self.control_seeds):
            require_seeds(seeds)


@dataclass(frozen=True, kw_only=True)
class TuneConfig:
    """One search inside the training span."""

    trials: int = 20
    """Trials in all; a killed study continues."""
    num_episodes: int = 500
    """Training budget of each split, in episodes of environment.episode_bars (500) bars."""
    test_fraction: float = 0.2
    """Last share of the bars, never seen."""
    purge_bars: int = PURGE_BARS
    """Rows between training and test rows of each split that neither uses."""
    seed: int = 0
    """Of the sampler and the training."""

    def __post_init__(self) -> None:
        require_ranges(self, {"trials": (1, 10**6), "num_episodes": (1, 10**9), "seed": (0, 2**31)})


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """One verdict on bars that training never saw."""

    test_fraction: float = 0.2
    """Share of the rows, at the end, to judge on."""
    costs: tuple[float, ...] = (2.0, 3.0)
    """Cost multiples to judge at beside x1."""
    trials: int | None = None
    """Configurations tried before this one was chosen (default: the trial ledger's count)."""
    risk_aversion: float = RISK_AVERSION
    """Of the mean-variance utility."""
    seed: int = 0
    """Of the bootstrap and the random baseline."""
    allow_seen: bool = False
    """Judge on bars of the training span, and say so."""

    def __post_init__(self) -> None:
        for multiple in self.costs:
            if not 0.0 <= multiple <= 100.0:  # NaN fails too
                raise ConfigError(f"cost multiple {multiple}", "a number from 0 to 100", "for example --costs 2 3")
        if not 0.0 <= self.risk_aversion <= 1000.0:
            raise ConfigError(
                f"risk aversion {self.risk_aversion}", "a number from 0 to 1000", f"{RISK_AVERSION} is the usual one"
            )
        require_ranges(self, {"seed": (0, 2**31)})
