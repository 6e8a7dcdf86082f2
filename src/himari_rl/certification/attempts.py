"""Seeds on one market: simulated, learned, exported, loaded back and graded.

The same encoder contract, physics, trainer, export and numpy runtime as on real data; only the bars come from a
generator whose law is known. What is graded, on paths that are the same for all seeds, is the exported bundle.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from himari_rl.agents.config import PPOConfig
from himari_rl.certification.generators import HiddenRegime
from himari_rl.certification.grading import MAX_POSITION_PCT, Grade, grade
from himari_rl.certification.law import KnownMarket, Paths
from himari_rl.certification.markets import market_named
from himari_rl.certification.observe import market_rows, visible
from himari_rl.certification.portfolios import PortfolioMarket
from himari_rl.certification.solvers.optimum import require_learnable
from himari_rl.certification.thresholds import SUFFIX, Budget
from himari_rl.envs.config import TradingEnvConfig
from himari_rl.envs.physics import Market, Physics
from himari_rl.errors import ConfigError
from himari_rl.features.encoder import StateEncoder
from himari_rl.policy.account import MarketMove
from himari_rl.policy.bundle import write_bundle
from himari_rl.policy.clock import MarketPath
from himari_rl.policy.risk import RiskLimits
from himari_rl.policy.runtime import Policy, load_policy
from himari_rl.schema import HOUR_MS, MAX_MULTIPLIER, FloatArray
from himari_rl.training.export import bundled
from himari_rl.training.job import NetJob, train_many
from himari_rl.training.trainer import Trainer

GRADING_SEED = 1_000_003  # never a training seed
PATH_ROWS = 2_001  # an episode of 500 bars fits four times
ONE_HISTORY, ONE_HISTORY_BARS = 35_000, 500_000  # bars of the only history, and how many are drawn from it
MOST_TOGETHER, MOST_ROWS = 5, 2_000_000  # seeds trained in one program, and different bars of all of them
HIDDEN_CHAINS = 20_000  # on 1,000 the exact memoryless policy of M3z itself scores .169 +- .010 where .150 is true


@dataclass(frozen=True)
class Attempt:
    """One seed on one market."""

    market: str
    seed: int
    grade: Grade
    seconds: float  # of training
    bars: int


def market_for(name: str) -> tuple[KnownMarket, bool]:
    """A market of the table, or one asset of it alone (M5/0), and whether it is to be learned from one history only."""
    one = name.endswith(SUFFIX)
    whole, _, asset = name.removesuffix(SUFFIX).partition("/")
    market = market_named(whole)
    if "/" not in name:
        return market, one
    if not isinstance(market, PortfolioMarket) or asset not in map(str, range(market.assets_count)):
        raise ConfigError(f"no market {name!r}", "an asset of a portfolio, for example M5/0", "name the market alone")
    return market.alone(int(asset)), one


def grading_size(market: KnownMarket) -> dict[str, int]:
    """Chains it is graded on, where the grader's own number is too few."""
    return {"chains": HIDDEN_CHAINS} if isinstance(market, HiddenRegime) else {}


def environment_for(market: KnownMarket) -> TradingEnvConfig:
    """The market's costs and objective in the product's environment, with no limit but the gross cap.

    Log-growth already charges half the variance, so an aversion of L asks for mean_variance with L - 1 on top of it.
    """
    free = TradingEnvConfig(commission_rate=market.cost, slippage_bps=0.0, limits=RiskLimits.off())
    if market.risk_aversion is None:
        return replace(free, reward="log_growth")
    return replace(free, reward="mean_variance", risk_aversion=market.risk_aversion - 1.0)


def training_market(market: KnownMarket, paths: Paths, device: str = "cpu") -> tuple[FloatArray, Market]:
    """Rows (D, F) and the physics' market of simulated paths; every decision earns the path's own return."""
    rows = market_rows(market, paths.x)
    shape = paths.returns.shape[1:]
    lines = [
        MarketPath(
            MarketMove(np.ones(shape, bool), returns, returns, np.zeros(shape), np.zeros(shape[0], bool)),
            np.full(shape, MAX_POSITION_PCT),
            np.full(shape, MAX_MULTIPLIER),
        )
        for returns in paths.returns
    ]
    return rows.reshape(-1, rows.shape[-1]), Market.build(list(rows), lines, device)


def draw_training(market: KnownMarket, budget: Budget, one_history: bool, seed: int) -> Paths:
    """The bars a seed learns from."""
    rng = np.random.default_rng([seed, 1])
    if one_history:
        return market.simulate(1, ONE_HISTORY, rng)
    return market.simulate(max(1, budget.distinct // PATH_ROWS), PATH_ROWS, rng)


def encoder_for(market: KnownMarket) -> StateEncoder:
    """The product's encoder for as many assets."""
    count, name = market.assets_count, market.name.partition(":")[0]  # other numbers make no other symbol
    return StateEncoder(symbols=(name,) if count == 1 else tuple(f"{name}-{a}" for a in range(count)))


def config_for(market: KnownMarket, config: PPOConfig) -> PPOConfig:
    """The recipe, fitted to the market's dimensions and to what it hides: a hidden position allows no band."""
    head = config.head if market.account_visible else "squash"
    return replace(config, state_dim=encoder_for(market).state_dim, action_dim=market.assets_count, head=head)


def require_learnable_from(name: str, budget: Budget) -> None:
    """Refuses a market that the budget's different bars cannot show; one history is asked for 90 % only."""
    market, one_history = market_for(name)
    bars, share = (ONE_HISTORY, 0.9) if one_history else (min(budget.distinct, budget.bars), 0.99)
    require_learnable(market, bars, share)


def learn(
    name: str,
    seed: int,
    config: PPOConfig,
    budget: Budget,
    device: str = "cpu",
    watch: Callable[[Trainer], None] = lambda trainer: None,
) -> tuple[Trainer, FloatArray]:
    """Trains one seed on one market; returns the trainer and the rows it saw."""
    job = to_learn(name, seed, config, budget, device, watch)
    return train_many([job])[0], job.rows


def to_learn(
    name: str,
    seed: int,
    config: PPOConfig,
    budget: Budget,
    device: str = "cpu",
    watch: Callable[[Trainer], None] = lambda trainer: None,
) -> NetJob:
    """What one seed learns from on one market."""
    market, one_history = market_for(name)
    require_learnable_from(name, budget)
    rows, built = training_market(market, draw_training(market, budget, one_history, seed), device)
    return NetJob(
        physics=Physics(built, environment_for(market), encoder_for(market)),
        config=config_for(market, config),
        rows=rows,
        total_bars=min(budget.bars, ONE_HISTORY_BARS) if one_history else budget.bars,
        seed=seed,
        visible=visible(market),
        watch=watch,
    )


def bundle_of(name: str, trainer: Trainer, rows: FloatArray, seed: int, folder: Path) -> Policy:
    """Exports the trained agent and loads it back: what is graded is what would be shipped."""
    market, _ = market_for(name)
    data = {
        "sha256": "",
        "source": f"known-optimum market {name}, seed {seed}",
        "start": "",
        "end": "",
        "rows": len(rows),
        "interval_ms": HOUR_MS,
        "synthetic": True,
    }
    some = rows[:: max(1, len(rows) // 20_000)]
    run = {"certification": name}
    made = bundled([trainer.agent], [seed], encoder_for(market), trainer.physics.config, data, some, run)
    write_bundle(folder, *made)
    return load_policy(folder)


def attempt(
    name: str, seed: int, config: PPOConfig, budget: Budget, device: str = "cpu", bundles: Path | None = None
) -> tuple[Attempt, Policy]:
    """`attempts` of one seed."""
    return attempts(name, [seed], config, budget, device, bundles)[0]


def attempts(
    name: str, seeds: Sequence[int], config: PPOConfig, budget: Budget, device: str = "cpu", bundles: Path | None = None
) -> list[tuple[Attempt, Policy]]:
    """Trains seeds in one program; exports, loads and grades each. Their bundles stay in the folder `bundles`."""
    jobs = [to_learn(name, seed, config, budget, device) for seed in seeds]
    trained = train_many(jobs)
    market, _ = market_for(name)
    found = []
    for seed, job, trainer in zip(seeds, jobs, trained, strict=True):
        with tempfile.TemporaryDirectory() as folder:
            policy = bundle_of(name, trainer, job.rows, seed, bundle_folder(bundles or Path(folder), name, seed))
        graded = grade(market, policy, GRADING_SEED, **grading_size(market))
        found.append((Attempt(name, seed, graded, trainer.seconds, trainer.state.bars), policy))
    return found


def seeds_together(name: str, seeds: Sequence[int], budget: Budget) -> list[Sequence[int]]:
    """Seeds that one process trains in one program: as many as their different bars leave memory for."""
    bars = ONE_HISTORY if market_for(name)[1] else budget.distinct
    count = max(1, min(MOST_TOGETHER, MOST_ROWS // max(1, bars)))
    return [seeds[first : first + count] for first in range(0, len(seeds), count)]


def bundle_folder(bundles: Path, name: str, seed: int) -> Path:
    """Where the bundle of one seed lies: numbers of either sign are other markets."""
    return bundles / f"{re.sub('[^A-Za-z0-9.=:,+-]', '-', name)}-seed{seed}"
