"""Certification: is the learner able to learn? On markets whose optimum is known, through the same road as real data.

The same encoder contract, physics, trainer, export and numpy runtime; only the bars come from a generator whose law is
known. The exported bundle is graded on fresh paths, the same for all seeds; falling short of a bar is exit code 1.
"""

from __future__ import annotations

import multiprocessing
import os
import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from himari_rl.agents.config import PPOConfig
from himari_rl.certification.grading import Grade, grade, graded_naively, reference
from himari_rl.certification.markets import HiddenRegime, KnownMarket, Paths, Portfolio, market_named
from himari_rl.certification.observe import market_rows, visible
from himari_rl.certification.references import naive_policies
from himari_rl.certification.solvers.optimum import require_learnable
from himari_rl.certification.thresholds import SUFFIX, Bar, Budget, Check, Plan
from himari_rl.envs.config import TradingEnvConfig
from himari_rl.envs.physics import Market, Physics
from himari_rl.errors import ConfigError
from himari_rl.features.encoder import StateEncoder
from himari_rl.policy.account import MarketMove
from himari_rl.policy.clock import MarketPath
from himari_rl.policy.risk import RiskLimits
from himari_rl.policy.runtime import Policy, load_policy
from himari_rl.schema import HOUR_MS, FloatArray
from himari_rl.training.export import export
from himari_rl.training.job import train_agent
from himari_rl.training.trainer import Trainer

GRADING_SEED = 1_000_003  # never a training seed
PATH_ROWS = 2_001  # an episode of 500 bars fits four times
ONE_HISTORY, ONE_HISTORY_BARS = 35_000, 500_000  # bars of the only history, and how many are drawn from it
STUCK = 0.3  # share of the optimum: a seed below it has not learned less, it has not learned
HIDDEN_CHAINS = 20_000  # on 1,000 the exact memoryless policy of M3z itself scores .169 +- .010 where .150 is true


@dataclass(frozen=True)
class Attempt:
    """One seed on one market."""

    market: str
    seed: int
    grade: Grade
    seconds: float  # of training
    bars: int


@dataclass(frozen=True)
class Certificate:
    """All seeds of one market against its bar."""

    market: str
    attempts: tuple[Attempt, ...]
    bar: Bar
    passed: bool
    reason: str
    naive: dict[str, float]  # share of the optimum of each naive policy, same paths

    @property
    def shares(self) -> list[float]:
        """The share that the bar is about, one a seed."""
        return [a.grade.share_over_constant if self.bar.over_constant else a.grade.share for a in self.attempts]

    @property
    def median(self) -> float:
        return median(self.shares)

    @property
    def worst(self) -> float:
        return min(self.shares)

    @property
    def interval(self) -> tuple[float, float]:
        return interval([a.grade for a in self.attempts])

    @property
    def over_constant(self) -> float:
        return median(a.grade.share_over_constant for a in self.attempts)

    @property
    def turnover(self) -> float:
        return median(a.grade.turnover for a in self.attempts)

    @property
    def seconds(self) -> float:
        """Training seconds of the median seed."""
        return median(a.seconds for a in self.attempts)

    @property
    def stepped(self) -> int:
        return self.attempts[0].bars

    def to_dict(self) -> dict[str, Any]:
        """For --json."""
        numbers = ("median", "worst", "interval", "over_constant", "turnover", "seconds", "stepped")
        return {
            "market": self.market,
            "passed": self.passed,
            "reason": self.reason,
            **{name: getattr(self, name) for name in numbers},
            "seeds": [{"seed": a.seed, "seconds": a.seconds, **asdict(a.grade)} for a in self.attempts],
            "naive": self.naive,
        }


def market_for(name: str) -> tuple[KnownMarket, bool]:
    """A market of the table, or one asset of it alone (M5/0), and whether it is to be learned from one history only."""
    one = name.endswith(SUFFIX)
    whole, _, asset = name.removesuffix(SUFFIX).partition("/")
    market = market_named(whole)
    if "/" not in name:
        return market, one
    if not isinstance(market, Portfolio) or asset not in map(str, range(market.assets_count)):
        raise ConfigError(f"no market {name!r}", "an asset of a portfolio, for example M5/0", "name the market alone")
    return market.alone(int(asset)), one


def grading_size(market: KnownMarket) -> dict[str, int]:
    """Chains it is graded on, where the grader's own number is too few."""
    return {"chains": HIDDEN_CHAINS} if isinstance(market, HiddenRegime) else {}


def interval(grades: Sequence[Grade]) -> tuple[float, float]:
    """95 % interval of the median seed's share, over the graded paths (the same for all) and over seeds."""
    shares = [g.share for g in grades]
    between_seeds = float(np.std(shares, ddof=1)) / np.sqrt(len(shares)) if len(shares) > 1 else 0.0
    half = 1.96 * float(np.hypot(median(g.share_error for g in grades), between_seeds))
    return median(shares) - half, median(shares) + half


def environment_for(market: KnownMarket) -> TradingEnvConfig:
    """The market's costs and objective in the product's environment, with no limit but the gross cap.

    Log-growth already charges half the variance, so an aversion of L asks for mean_variance with L - 1 on top of it.
    """
    objective: dict[str, object] = {"reward": "log_growth"}
    if market.risk_aversion is not None:
        objective = {"reward": "mean_variance", "risk_aversion": market.risk_aversion - 1.0}
    return TradingEnvConfig(commission_rate=market.cost, slippage_bps=0.0, limits=RiskLimits.off(), **objective)


def training_market(market: KnownMarket, paths: Paths, device: str = "cpu") -> tuple[FloatArray, Market]:
    """Rows (D, F) and the physics' market of simulated paths; every decision earns the path's own return."""
    rows = market_rows(market, paths.x)
    shape = paths.returns.shape[1:]
    lines = [
        MarketPath(
            MarketMove(np.ones(shape, bool), returns, returns, np.zeros(shape), np.zeros(shape[0], bool)),
            np.full(shape, 0.5),
            np.full(shape, 2.0),
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
    market, one_history = market_for(name)
    require_learnable_from(name, budget)
    rows, built = training_market(market, draw_training(market, budget, one_history, seed), device)
    physics = Physics(built, environment_for(market), encoder_for(market))
    total = min(budget.bars, ONE_HISTORY_BARS) if one_history else budget.bars
    trainer = train_agent(physics, config_for(market, config), rows, total, seed, visible=visible(market), watch=watch)
    return trainer, rows


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
    export(folder, [trainer.agent], [seed], encoder_for(market), trainer.physics.config, data, some, run)
    return load_policy(folder)


def attempt(
    name: str, seed: int, config: PPOConfig, budget: Budget, device: str = "cpu", bundles: Path | None = None
) -> tuple[Attempt, Policy]:
    """Trains, exports, loads and grades one seed. Its bundle stays in the folder `bundles`, if there is one."""
    trainer, rows = learn(name, seed, config, budget, device)
    with tempfile.TemporaryDirectory() as folder:
        policy = bundle_of(name, trainer, rows, seed, bundle_folder(bundles or Path(folder), name, seed))
    market, _ = market_for(name)
    graded = grade(market, policy, GRADING_SEED, **grading_size(market))
    return Attempt(name, seed, graded, trainer.seconds, trainer.state.bars), policy


def _attempt_alone(
    name: str, seed: int, config: PPOConfig, budget: Budget, device: str, bundles: Path | None
) -> Attempt:
    torch.set_num_threads(1)  # one process a core
    return attempt(name, seed, config, budget, device, bundles)[0]


def bundle_folder(bundles: Path, name: str, seed: int) -> Path:
    """Where the bundle of one seed lies: numbers of either sign are other markets."""
    return bundles / f"{re.sub('[^A-Za-z0-9.=:,+-]', '-', name)}-seed{seed}"


def certify(
    names: Sequence[str],
    seeds: Sequence[int],
    plan: Plan,
    *,
    bundles: Path | None = None,
    jobs: int | None = None,
    device: str = "cpu",
    done: Callable[[Attempt], None] = lambda attempt: None,
) -> list[Certificate]:
    """Every market with every seed, a process a core or a GPU; what was graded stays in `bundles`, if that is given.

    Raises:
        RefusedError: a market that cannot be learned from that many bars.
        LookAheadError: a share above 1.01.
    """
    names = list(dict.fromkeys(names))
    for name in names:
        plan.require_kind_of(market_for(name)[0])
        require_learnable_from(name, plan.budget_for(name))
    attempts: list[Attempt] = []
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs or (os.cpu_count() if device == "cpu" else 1), mp_context=context) as pool:
        futures = [
            pool.submit(_attempt_alone, name, seed, plan.config, plan.budget_for(name), device, bundles)
            for name in names
            for seed in seeds
        ]
        rivals = {
            name: [pool.submit(plan.rivals, name, seed, plan.budget_for(name)) for seed in seeds[: plan.rival_seeds]]
            for name in names
            if plan.rivals
        }
        try:
            for future in as_completed(futures):
                attempts.append(future.result())
                done(attempts[-1])
            beside = {name: _median_of([f.result() for f in found]) for name, found in rivals.items()}
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
    attempts.sort(key=lambda a: a.seed)
    return [
        judged(name, tuple(a for a in attempts if a.market == name), plan.bars.get(name), beside.get(name))
        for name in names
    ]


def _median_of(found: Sequence[Mapping[str, Grade]]) -> dict[str, Grade]:
    """Of each rival, the seed whose share is the median."""
    return {n: sorted((each[n] for each in found), key=lambda g: g.share)[len(found) // 2] for n in found[0]}


def median_policy(certificate: Certificate, bundles: Path) -> Policy:
    """The graded policy of the seed whose share is the median."""
    ranked = sorted(certificate.attempts, key=lambda a: a.grade.share)
    return load_policy(bundle_folder(bundles, certificate.market, ranked[len(ranked) // 2].seed))


def judged(
    name: str, attempts: tuple[Attempt, ...], bar: Bar | None, rivals: Mapping[str, Grade] | None = None
) -> Certificate:
    """A market's attempts against its bar; a market without a bar is only reported. `rivals` stand with the naive."""
    market, _ = market_for(name)
    naive = graded_naively(market, GRADING_SEED, naive_policies(market), **grading_size(market)) | (rivals or {})
    shares = {n: g.share for n, g in naive.items()}
    certificate = Certificate(name, attempts, bar or Bar(), True, "reported, no bar", shares)
    if bar is None:
        return certificate
    grades = [a.grade for a in attempts]
    checks: list[Check]
    if bar.aside:
        exposure, busiest = max(g.exposure for g in grades), max(g.turnover for g in grades)
        checks = [
            (exposure < 0.02, f"no edge, stands aside: exposure {exposure:.4f} < .02"),
            (busiest < 0.001, f"turnover {busiest:.5f} < .001"),
        ]
    elif bar.nothing:
        over = [g.share_over_constant for g in grades]
        between_seeds = float(np.std(over)) / np.sqrt(len(over))
        error = float(np.hypot(np.mean([g.over_constant_error for g in grades]), between_seeds))
        mean = float(np.mean(over))
        checks = [(mean <= 2.0 * error, f"shuffled: {mean:+.3f} over the best constant, not above 2 x {error:.3f}")]
    else:
        what = "over the best constant" if bar.over_constant else "of the optimum"
        checks = [(certificate.median >= bar.median, f"median {certificate.median:.3f} >= {bar.median} {what}")]
        if np.isfinite(bar.worst):
            checks.append((certificate.worst >= bar.worst, f"worst {certificate.worst:.3f} >= {bar.worst}"))
        if np.isfinite(bar.left_out):
            none = np.array(reference(market, GRADING_SEED).optimum.weights) < 1e-6
            most = max(float(np.array(g.weights)[none].max()) for g in grades)
            checks.append((most < bar.left_out, f"weight {most:.4f} < {bar.left_out} where the optimum has none"))
        if np.isfinite(bar.gross):
            most = max(g.gross_max for g in grades)
            checks.append((most <= bar.gross, f"gross {most:.7f} <= {bar.gross:.6f}"))
        low, high = bar.turnover
        if np.isfinite(high):
            checks.append((low <= certificate.turnover <= high, f"turnover {certificate.turnover:.4f} in {low}-{high}"))
        if bar.beside is not None:
            checks.append(bar.beside(grades, naive))
        stuck = [str(a.seed) for a, share in zip(attempts, certificate.shares, strict=True) if share < STUCK]
        if stuck:
            checks.insert(0, (False, f"ALARM: seed {', '.join(stuck)} stuck below {STUCK}"))
    failed = [text for ok, text in checks if not ok]
    reason = "fell short: " + "; ".join(failed) if failed else "; ".join(text for _, text in checks)
    return replace(certificate, passed=not failed, reason=reason)
