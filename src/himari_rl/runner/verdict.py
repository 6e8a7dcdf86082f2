"""What an A/B test has shown so far: the difference with its confidence sequence, and whether it stops.

    better      the challenger's mean growth is higher: the whole sequence is above zero
    worse       lower: stopped for harm; in a split its accounts are halted, by a line of the runner's journal
    ended       max_bars came, and neither was shown
    running     neither yet

The first bar at which zero is left decides, and is journalled; nothing that comes later takes it back.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from himari_rl.errors import DataError
from himari_rl.journal.entry import VERDICT, entry_of
from himari_rl.journal.store import DecisionJournal
from himari_rl.runner.ab import CHALLENGER, CHAMPION, Growths, growths, plan_of
from himari_rl.runner.config import AbConfig
from himari_rl.runner.halt import harm
from himari_rl.runner.sequence import bars_to_show, confidence_sequence, long_run_variance
from himari_rl.schema import DAY_MS, YEAR_MS, FloatArray

RUNNING, BETTER, WORSE, ENDED = "running", "better", "worse", "ended"


@dataclass(frozen=True, kw_only=True)
class Shown:
    """The difference challenger less champion, per year, with its confidence sequence now."""

    bars: int
    difference: float
    lower: float  # -inf before the first look
    upper: float
    verdict: str
    stopped_at: int | None  # bars, the first time that zero was left
    deviation: float  # long-run standard deviation of a bar's difference


@dataclass(frozen=True, kw_only=True)
class AbReport:
    """Everything that is known of an experiment."""

    mode: str
    champion: str
    challenger: str
    measure: str
    alpha: float
    growth: dict[str, float]  # per year and policy, the mean of its accounts
    sharpe: dict[str, float]
    paired: Shown | None  # both on the same signals
    split: Shown | None  # each on its own accounts
    verdict: str
    fallbacks: dict[str, int]

    @property
    def primary(self) -> Shown | None:
        """What decides."""
        return self.split if self.mode == "split" and self.paired is None else self.paired


def report(journal: DecisionJournal) -> AbReport:
    """What an experiment's journal shows.

    Raises:
        DataError: it is none.
    """
    plan = plan_of(journal)
    if plan is None:
        raise DataError(f"{journal.place} has no experiment", "what `himari ab run` wrote", "give its --out")
    config, interval = AbConfig(**plan["ab"]), float(plan["interval_ms"])
    found = growths(journal)
    year = YEAR_MS / interval
    paired, split = differences(found, config)
    shown = {name: _shown(d, config, year) for name, d in (("paired", paired), ("split", split))}
    growth, sharpe = {}, {}
    for number, name in enumerate((CHAMPION, CHALLENGER)):
        bars = _mean(found.growth[number])
        bars = bars[np.isfinite(bars)]
        growth[name] = float(bars.mean() * year) if len(bars) else math.nan
        deviation = float(bars.std(ddof=1)) if len(bars) > 1 else 0.0
        sharpe[name] = growth[name] / (deviation * math.sqrt(year)) if deviation > 0.0 else 0.0
    made = AbReport(
        mode=config.mode,
        champion=str(plan["champion"]),
        challenger=str(plan["challenger"]),
        measure=config.measure,
        alpha=config.alpha,
        growth=growth,
        sharpe=sharpe,
        paired=shown["paired"],
        split=shown["split"],
        verdict=RUNNING,
        fallbacks=dict(found.causes),
    )
    primary = made.primary
    return made if primary is None else AbReport(**{**vars(made), "verdict": primary.verdict})


def differences(found: Growths, config: AbConfig) -> tuple[FloatArray, FloatArray]:
    """Challenger less champion, a bar each, where both are there: on the same accounts, and on each one's own."""
    worth = found.growth
    if config.measure == "utility":
        worth = worth - 0.5 * config.risk_aversion * np.expm1(worth) ** 2
    paired = _mean(worth[1] - worth[0])
    own = [np.array([arm == name for arm in found.arms], bool) for name in (CHAMPION, CHALLENGER)]
    split = _mean(worth[1][:, own[1]]) - _mean(worth[0][:, own[0]])
    return paired[np.isfinite(paired)], split[np.isfinite(split)]


def _mean(columns: FloatArray) -> FloatArray:
    """Mean of the accounts that a bar has; NaN where it has none."""
    there = np.isfinite(columns)
    count = there.sum(axis=1)
    total = np.where(there, columns, 0.0).sum(axis=1)
    found: FloatArray = np.where(count > 0, total / np.maximum(count, 1), np.nan)
    return found


def _shown(difference: FloatArray, config: AbConfig, year: float) -> Shown | None:
    if not len(difference):
        return None
    sequence = confidence_sequence(difference, config)
    mean = float(difference.mean()) * year
    lower, upper, deviation = -math.inf, math.inf, 0.0
    if len(sequence.bars):
        half = float(sequence.half_width[-1]) * year
        mean = float(sequence.mean[-1]) * year
        lower, upper = mean - half, mean + half
        blocks = difference[: int(sequence.bars[-1])].reshape(1, -1, config.block_bars).mean(axis=2)
        deviation = math.sqrt(float(long_run_variance(blocks)[0, -1]) * config.block_bars)
    first, sign = (float(each) for each in sequence.first)
    ended = 0 < config.max_bars <= len(difference)
    verdict = ENDED if ended else RUNNING
    if math.isfinite(first) and not (ended and first > config.max_bars):
        verdict = BETTER if sign > 0 else WORSE
    return Shown(
        bars=len(difference),
        difference=mean,
        lower=lower,
        upper=upper,
        verdict=verdict,
        stopped_at=int(first) if math.isfinite(first) else None,
        deviation=deviation,
    )


def settle(kept: DecisionJournal, live: DecisionJournal) -> AbReport:
    """The report; a verdict that is new is journalled, and harm in a split halts the challenger's accounts."""
    found = report(kept)
    if found.verdict == RUNNING or any(True for _ in kept.entries(kinds=[VERDICT])):
        return found
    primary = found.primary
    assert primary is not None
    why = sentence(found)
    if found.verdict == WORSE and found.mode == "split":
        grown = growths(kept)
        own = [a.split("\0") for a, arm in zip(grown.accounts, grown.arms, strict=True) if arm == CHALLENGER]
        live.append([harm(strategy, symbols, why) for strategy, symbols in own])
    kept.append([entry_of(VERDICT, {"reason": found.verdict, "why": why, "bars": primary.stopped_at or primary.bars})])
    return found


def sentence(found: AbReport) -> str:
    """The verdict in one line."""
    shown = found.primary
    if shown is None:
        return "running: no bar has both policies yet"
    interval = f"{100 * (1 - found.alpha):g} % sequence {shown.lower:+.2%} to {shown.upper:+.2%}"
    numbers = f"{found.measure} {shown.difference:+.2%} a year, {interval}, {shown.bars:,} bars"
    if found.verdict == BETTER:
        return f"the challenger is better: {numbers}; shown after {shown.stopped_at:,} bars"
    if found.verdict == WORSE:
        return f"the challenger is worse, stopped for harm: {numbers}; shown after {shown.stopped_at:,} bars"
    if found.verdict == ENDED:
        return f"ended without a winner: {numbers}"
    return f"running: {numbers}"


@dataclass(frozen=True, kw_only=True)
class PowerPlan:
    """How long a comparison takes, paired and split, until a true difference is shown with a power of 80 %."""

    sharpe: float
    paired_bars: float
    split_bars: float
    interval_ms: int

    @property
    def weeks(self) -> tuple[float, float]:
        """Paired and split."""
        week = 7 * DAY_MS / self.interval_ms
        return self.paired_bars / week, self.split_bars / week

    def __str__(self) -> str:
        paired, split = self.weeks
        return f"to see {self.sharpe:g} Sharpe you need {paired:,.0f} weeks paired, {split:,.0f} split"


def power_plan(
    sharpe: float, config: AbConfig, interval_ms: int, *, correlation: float, accounts: int, between: float
) -> PowerPlan:
    """How many bars show a difference in Sharpe ratio.

    A difference of s in Sharpe ratio is s / sqrt(bars a year) standard deviations of a policy's return a bar. Paired,
    the variance of a difference is 2 (1 - correlation) of that, and the mean of K accounts, `between` them a
    correlation, has (1 + (K - 1) between) / K of it. Split, each policy has K / 2 accounts, and what all accounts have
    in common cancels: 4 (1 - between) / K.

    Args:
        correlation: of the two policies' returns on the same signals.
        accounts: strategy and symbols, each one account.
        between: correlation of two accounts' returns.
    """
    mean = sharpe / math.sqrt(YEAR_MS / interval_ms)
    paired = math.sqrt(2.0 * (1.0 - correlation) * (1.0 + (accounts - 1) * between) / accounts)
    split = math.sqrt(4.0 * (1.0 - between) / accounts) if accounts > 1 else math.inf
    return PowerPlan(
        sharpe=sharpe,
        paired_bars=bars_to_show(mean, paired, config),
        split_bars=bars_to_show(mean, split, config) if math.isfinite(split) else math.inf,
        interval_ms=interval_ms,
    )


def seen_deviations(journal: DecisionJournal) -> tuple[int, dict[str, Any]]:
    """Interval, and for `power_plan` what an experiment has shown of its own returns.

    Raises:
        DataError: there is nothing yet.
    """
    plan, found = plan_of(journal), growths(journal)
    whole = found.growth[:, np.isfinite(found.growth).all(axis=(0, 2))]
    if plan is None or whole.shape[1] < 100:
        raise DataError(f"{journal.place} has {whole.shape[1]} bars of both", "100", "let it run, or give figures")
    accounts = whole.shape[2]
    policies = [float(np.corrcoef(whole[0, :, k], whole[1, :, k])[0, 1]) for k in range(accounts)]
    between = np.corrcoef(whole[0], rowvar=False)
    off = float(between[~np.eye(accounts, dtype=bool)].mean()) if accounts > 1 else 0.0
    seen = {"correlation": float(np.mean(policies)), "accounts": accounts, "between": max(0.0, off)}
    return int(plan["interval_ms"]), seen
