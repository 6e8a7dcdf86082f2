"""What the default learner makes of one history of bars: R1, R2, L0 and the planted edge, through all features.

    simulated bars  ->  training/job.py, as `himari train` does  ->  bundle  ->  the product's backtest on fresh bars

and the exposures of that backtest are graded under the known law, so that no luck of the graded bars counts. Nothing is
masked: the learner has to find out by itself which of its inputs say something.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import cast

import numpy as np

from himari_rl.agents.config import PPOConfig
from himari_rl.certification.grading import IMPOSSIBLE, expected, ratio
from himari_rl.certification.law import KnownMarket, Paths
from himari_rl.certification.markets import market_named
from himari_rl.certification.observe import to_bars
from himari_rl.certification.solvers.optimum import optimal_band
from himari_rl.certification.thresholds import SUFFIX
from himari_rl.envs.config import TradingEnvConfig
from himari_rl.errors import ConfigError, LookAheadError
from himari_rl.evaluation.backtest import BASE, Play, backtests, stage
from himari_rl.evaluation.baselines import ONE, Stage
from himari_rl.evaluation.one_liners import BANDED, KnownBand, one_liners
from himari_rl.policy.manifest import LedgerSpec
from himari_rl.policy.protocol import DecidesBatch
from himari_rl.policy.risk import RiskLimits
from himari_rl.policy.runtime import Policy, load_policy
from himari_rl.schema import HOUR_MS, MAX_MULTIPLIER, Bars, FloatArray
from himari_rl.training.job import Job, run_job

YEAR = 8_760  # hourly bars
SPANS = {"-one-year": YEAR, "-two-years": 2 * YEAR}  # by the end of a name
FOUR_YEARS = 35_000
GRADED, GRADED_BARS, BURN_IN = 12, 5_000, 1_000  # histories, bars of each, and bars before anything counts
OPTIMUM = "optimum"
PURGE, TEST = 168, 100  # bars that a job puts aside


def history_for(name: str) -> tuple[KnownMarket, int]:
    """A market that is learned from one history, and its bars: R1 has four years, R1-two-years two.

    Raises:
        ConfigError: no such market, or one that is not shown as bars.
    """
    ending = next((e for e in SPANS if name.endswith(e)), "")
    market = market_named(name.removesuffix(ending))
    if not market.as_bars:
        raise ConfigError(f"{name!r}", "a market that is learned as bars: R1, R2, L0, planted", "name it alone")
    return market, SPANS.get(ending, FOUR_YEARS)


def is_history(name: str) -> bool:
    """Whether a name means a market that is learned from one history of bars."""
    return name.endswith(tuple(SPANS)) or (not name.endswith(SUFFIX) and market_named(name.split("/")[0]).as_bars)


def environment_for(market: KnownMarket) -> TradingEnvConfig:
    """The default environment, at the market's costs and with no limit but the gross cap: without it is solved."""
    return TradingEnvConfig(commission_rate=market.cost, slippage_bps=0.0, limits=RiskLimits.off())


def history(market: KnownMarket, bars: int, seed: int) -> Bars:
    """The bars a seed learns from, and behind them the few that a job puts aside."""
    rng = np.random.default_rng([seed, 1])
    return to_bars(market, market.simulate(1, bars + PURGE + TEST - 2, rng))[0]


def learned(
    name: str, seed: int, agent: PPOConfig, folder: Path, *, num_episodes: int | None = None, device: str = "cpu"
) -> tuple[Policy, float, int]:
    """The policy that a training job with the default settings makes of one history, its seconds and its bars.

    Args:
        num_episodes: the budget, where it is not the job's own.
    """
    market, bars = history_for(name)
    seen = history(market, bars, seed)
    job = Job(
        agent=agent,
        environment=environment_for(market),
        seeds=(seed,),
        test_fraction=TEST / len(seen),
        num_episodes=num_episodes or Job.num_episodes,
        device=device,
    )
    done = run_job(job, seen, folder)
    return load_policy(done.bundle), done.seconds, done.bars


@dataclass(frozen=True)
class HistoryGrade:
    """A policy on fresh histories under the known law. Utilities are a year, mean - 7.7 / 2 variance."""

    market: str
    utility: float
    optimum: float
    one: float  # multiplier 1.0
    banded: float  # the banded one-liner
    over_one: float  # share of the optimum's advantage over multiplier 1.0
    over_one_error: float
    over_banded: float
    of_optimum: float  # share of the optimum over cash
    loss: float  # over the banded one-liner's, where there is nothing to earn
    exposure: float
    turnover: float


@dataclass(frozen=True)
class Fresh:
    """Histories that nobody learned from."""

    ledger: LedgerSpec
    paths: Paths
    stages: tuple[Stage, ...]
    known: tuple[Mapping[str, DecidesBatch], ...]  # optimum and banded one-liner of each


@lru_cache(maxsize=4)
def fresh(market: KnownMarket, seed: int, histories: int = GRADED) -> Fresh:
    """Histories to grade on, the same for all that are graded with this seed."""
    paths = market.simulate(histories, GRADED_BARS, np.random.default_rng([seed, 7]))
    ledger = LedgerSpec.of(environment_for(market), HOUR_MS)
    bars = [to_bars(market, paths, path)[0] for path in range(histories)]
    stages = tuple(stage(each, ledger) for each in bars)
    edges = optimal_band(market, paths.state[..., 0])
    low, high = (np.clip(edge / ledger.max_position_pct, 0.0, MAX_MULTIPLIER) for edge in edges)
    known = [
        {OPTIMUM: KnownBand(low[p][:, None], high[p][:, None]), BANDED: one_liners(bars[p], on, 0)[BANDED]}
        for p, on in enumerate(stages)
    ]
    # the backtest asks for their bands and for nothing else
    return Fresh(ledger, paths, stages, cast("tuple[Mapping[str, DecidesBatch], ...]", tuple(known)))


def graded(
    market: KnownMarket, policies: Mapping[str, DecidesBatch], seed: int, histories: int = GRADED
) -> dict[str, HistoryGrade]:
    """Every policy on the same fresh histories, and the two yardsticks among them.

    Raises:
        LookAheadError: more than the optimum.
    """
    on = fresh(market, seed, histories)
    plays = [
        Play(policies={**policies, **known}, on=there, variants=(BASE,))
        for there, known in zip(on.stages, on.known, strict=True)
    ]
    found = backtests(plays, on.ledger, np.random.default_rng(seed))
    useful: dict[str, FloatArray] = {}
    moved: dict[str, tuple[float, float]] = {}
    for name in (*policies, OPTIMUM, BANDED, ONE):
        runs = [result.run(name) for result in found]
        useful[name] = YEAR * np.array(
            [expected(market, on.paths.state[p], run.exposure, run.cost)[BURN_IN:].mean() for p, run in enumerate(runs)]
        )
        exposure, turnover = (
            np.mean([x[BURN_IN:] for x in part]) for part in ([r.exposure for r in runs], [r.traded for r in runs])
        )
        moved[name] = float(exposure), float(turnover)
    return {name: _grade(market.name, useful, name, moved[name]) for name in useful}


def _grade(name: str, useful: Mapping[str, FloatArray], policy: str, moved: tuple[float, float]) -> HistoryGrade:
    mine, best, one, banded = (useful[key] for key in (policy, OPTIMUM, ONE, BANDED))
    over_one, error = ratio(mine - one, best - one)
    if over_one > IMPOSSIBLE + 3.0 * error:
        raise LookAheadError(
            f"{name}: {over_one:.3f} of what the optimum earns over multiplier 1.0",
            f"at most {IMPOSSIBLE}",
            "this is a bug: the policy sees the future, or two conventions are mixed",
        )
    return HistoryGrade(
        market=name,
        utility=float(mine.mean()),
        optimum=float(best.mean()),
        one=float(one.mean()),
        banded=float(banded.mean()),
        over_one=over_one,
        over_one_error=error,
        over_banded=ratio(mine - banded, best - banded)[0],
        of_optimum=ratio(mine, best)[0],
        loss=ratio(mine, banded)[0],
        exposure=moved[0],
        turnover=moved[1],
    )
