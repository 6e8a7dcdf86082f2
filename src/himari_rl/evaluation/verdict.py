"""The verdict: is the policy better than multiplier 1.0, than the best one-liner and than cash, and how sure is that?

The question is put to the mean-variance utility, which is what policies are trained for: by growth alone, doubling
every position "wins" whenever prices rise. Growth has a veto, and every number stands beside its interval. Differences
are paired (same bars, same costs) and resampled in blocks. "No edge found, keep 1.0" is a good answer, unless 1.0 lost:
then cash was better. The words are in statements.py.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from himari_rl.data.table import stamp
from himari_rl.evaluation import metrics, statistics
from himari_rl.evaluation.backtest import LAGGED, POLICY, Backtest, Run, is_seed
from himari_rl.evaluation.baselines import CASH, ONE
from himari_rl.evaluation.comparison import Measures, compare
from himari_rl.evaluation.one_liners import BEST
from himari_rl.evaluation.statements import (
    BETTER,
    COLLAPSED,
    LOOK_AHEAD,
    NO_EDGE,
    WORSE,
    Conduct,
    Found,
    OfOne,
    Statement,
    sentence,
    statements,
)
from himari_rl.evaluation.statistics import Interval
from himari_rl.schema import RISK_AVERSION, FloatArray

ASIDE_EXPOSURE = 0.02  # mean |w| below which a policy stands aside
COLLAPSED_SPREAD = 0.01  # standard deviation of the multipliers: below it the policy answers the same to every state
ONE_SEED = 2  # of the draws of what 1.0 itself did
OTHERS_REPLICATIONS = 400  # against baselines that decide nothing
LEAK_Z = 3.0  # standard errors by which one bar of lag must cost return ...
LAGS = (1, 2, 4, 8, 24, 48, 168)  # bars, of the lag profile
LEAK_RETAINED = 0.5  # ... and the share of the Sharpe ratio that survives, to suspect a look-ahead

_PRINTED = {  # measures on the printed page: their labels, and the unit as a multiple of the figure
    "growth": ("growth %/y", 100.0),
    "utility": ("utility %/y", 100.0),
    "sharpe": ("Sharpe ratio a year", 1.0),
    "drawdown": ("drawdown %", 100.0),
}
_PRINTED_OF_OTHERS = ("utility", "sharpe")


@dataclass(frozen=True, kw_only=True)
class Summary:
    """One strategy at one variant. Ratios are per year; turnover and exposures are means per bar."""

    strategy: str
    variant: str
    total_return: float
    growth: float
    sharpe: float
    volatility: float
    max_drawdown: float
    utility: float
    turnover: float
    cost: float
    exposure: float
    gross_exposure: float


@dataclass(frozen=True, kw_only=True)
class LagTest:
    """The policy's return before costs, as decided and with every decision used one bar later."""

    sharpe: float  # per year
    lagged_sharpe: float
    z: float  # mean of the paired loss of return over its bootstrap standard error
    suspected: bool


@dataclass(frozen=True, kw_only=True, repr=False)
class Verdict:
    """What the evaluation says. Differences are paired, policy minus multiplier 1.0, and per year."""

    answer: str
    sentence: str
    sure: float  # share of the resamples in which the policy's utility beats multiplier 1.0
    policy: str
    symbols: tuple[str, ...]
    start: str
    end: str
    decisions: int
    bars_per_year: float
    risk_aversion: float
    growth: Interval
    utility: Interval
    sharpe: Interval
    drawdown: Interval
    own: Measures  # of the policy alone
    paired: dict[str, Measures]  # differences, policy minus each other baseline; "less" in the document
    one: OfOne | None  # multiplier 1.0 itself, which is its paired difference to cash
    one_liner: str  # which rules the best one-liner was, by fold
    doubt: str  # why no "better" of these can be trusted; empty where all can
    probabilistic_sharpe: float  # that the policy's own Sharpe ratio is above 0
    deflated_sharpe: float  # of the paired utility difference, given `trials`
    trials: int
    years_needed: float  # of such a difference until it is established; infinite where it is not positive
    spread: float
    saturation: float
    lag: LagTest
    summaries: tuple[Summary, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; infinity becomes None."""

        def plain(value: Any) -> Any:
            if isinstance(value, dict):
                return {key: plain(item) for key, item in value.items()}
            if isinstance(value, list | tuple):
                return [plain(item) for item in value]
            return None if isinstance(value, float) and not math.isfinite(value) else value

        document: dict[str, Any] = plain(dataclasses.asdict(self) | {"statements": list(map(str, self.statements))})
        return {"less" if name == "paired" else name: value for name, value in document.items()}

    @property
    def statements(self) -> tuple[Statement, ...]:
        """Better than 1.0? Than the best one-liner? Than cash? And was 1.0 better than cash?"""
        over = {name: self.paired[name].utility if name in self.paired else None for name in (BEST, CASH)}
        found = Found(
            answer=self.answer,
            utility=self.utility,
            growth=self.growth,
            one_liner=self.one_liner,
            over_one_liner=over[BEST],
            over_cash=over[CASH],
            one=self.one,
            doubt=self.doubt,
        )
        return statements(found)

    def __repr__(self) -> str:
        return f"Verdict({self.answer} on {', '.join(self.symbols)}, {self.decisions:,} decisions)"

    def __str__(self) -> str:
        return self.summary()

    def summary(self, controls: Sequence[Mapping[str, Any]] = ()) -> str:
        """A page of plain text: the sentence, the policy's figures, paired differences, controls where they are given.

        Args:
            controls: as in a judgement's document: name, passed, sentence.
        """
        from himari_rl.evaluation.terminal import aligned, wrapped

        def rows(of: Any, parts: Iterable[str], prefix: str = "") -> list[tuple[str, str, str]]:
            return [(f"  {prefix}{_PRINTED[part][0]}", *_told(getattr(of, part), _PRINTED[part][1])) for part in parts]

        lines = [("", "estimate", f"{100.0 * self.utility.confidence:g} % interval")]
        lines += [("policy alone", "", ""), *rows(self.own, _PRINTED)]
        lines += [(f"policy minus {ONE}, paired", "", ""), *rows(self, _PRINTED)]
        if self.paired:
            lines += [("policy minus other baselines, paired", "", "")]
        for name, difference in self.paired.items():
            lines += rows(difference, _PRINTED_OF_OTHERS, f"{name}: ")
        chances = (
            f"Chance that the policy's Sharpe ratio is above 0: {100.0 * self.probabilistic_sharpe:.1f} %. Chance that "
            f"the paired difference in utility is, deflated for {self.trials} trial{'s' * (self.trials > 1)}: "
            f"{100.0 * self.deflated_sharpe:.1f} %."
        )
        told = [wrapped(f"{'ok    ' if c['passed'] else 'FAILED'} {c['name']:<10}{c['sentence']}", 7) for c in controls]
        head = f"{', '.join(self.symbols)}: {self.decisions:,} decisions, {self.start} to {self.end}"
        after = told or ["Controls: none given with this verdict."]
        said = [wrapped(f"- {each}", 2) for each in self.statements]
        page = [
            wrapped(head),
            "",
            wrapped(self.sentence),
            "",
            *said,
            "",
            aligned(lines),
            "",
            wrapped(chances),
            "",
            *after,
        ]
        return "\n".join(page)


def summarise(run: Run, bars_per_year: float, risk_aversion: float = RISK_AVERSION) -> Summary:
    """The measures of one run."""
    g = run.log_growth
    return Summary(
        strategy=run.strategy,
        variant=run.variant.name,
        total_return=metrics.total_return(g),
        growth=metrics.growth(g, bars_per_year),
        sharpe=metrics.sharpe(g, bars_per_year),
        volatility=metrics.volatility(g, bars_per_year),
        max_drawdown=metrics.max_drawdown(run.marked_log_equity),
        utility=metrics.utility(g, run.portfolio_return, risk_aversion, bars_per_year),
        turnover=metrics.turnover(run.traded),
        cost=metrics.cost_paid(run.cost),
        exposure=metrics.mean_exposure(run.exposure),
        gross_exposure=metrics.gross_exposure(run.exposure),
    )


def lag_test(now: Run, later: Run, bars_per_year: float, rng: np.random.Generator, replications: int) -> LagTest:
    """Suspects a look-ahead where one bar of lag destroys the return before costs.

    Before costs, because a weak leak loses money after them. An honest edge on bars of any length fades over several
    bars; knowledge of the very next bar is gone in one.
    """
    gross, lagged = np.log1p(now.portfolio_return), np.log1p(later.portfolio_return)
    drop = statistics.mean_interval(gross - lagged, rng, replications=replications)
    before, after = metrics.sharpe(gross, bars_per_year), metrics.sharpe(lagged, bars_per_year)
    z = drop.estimate / drop.standard_error if drop.standard_error > 0.0 else 0.0
    return LagTest(sharpe=before, lagged_sharpe=after, z=z, suspected=look_ahead_suspected(before, after, z))


def look_ahead_suspected(sharpe: float, lagged_sharpe: float, z: float) -> bool:
    """The rule of `lag_test` on its three numbers."""
    return z > LEAK_Z and lagged_sharpe < LEAK_RETAINED * sharpe


def lag_profile(exposure: FloatArray, asset_return: FloatArray) -> dict[str, list[float]]:
    """How the return before costs fades when decisions are used k bars late, beside how fast the exposure changes.

    For reading, not a rule: an honest edge fades about as the exposure forgets; a daily candle merged without a shift
    keeps .96 .92 .85 .73 at 1, 2, 4, 8 bars and .02 at 24, and forgets in the same way.

    Args:
        exposure, asset_return: (D, A).

    Returns:
        `bars`, `retained` (return at that lag over the return as decided; 0 where that is none) and `autocorrelation`
        of the exposure, for the LAGS that fit into a quarter of the span.
    """
    lags = [lag for lag in LAGS if 4 * lag <= len(exposure)]
    now = float(np.mean(np.sum(exposure * asset_return, axis=1)))
    centred = exposure - exposure.mean(axis=0)
    power = float(np.mean(np.sum(centred**2, axis=1)))

    def late(values: FloatArray, lag: int, against: FloatArray) -> float:
        return float(np.mean(np.sum(values[:-lag] * against[lag:], axis=1)))

    retained = [late(exposure, lag, asset_return) / now if now else 0.0 for lag in lags]
    own = [late(centred, lag, centred) / power if power > 0.0 else 0.0 for lag in lags]
    return {"bars": [float(lag) for lag in lags], "retained": retained, "autocorrelation": own}


def judge(
    result: Backtest,
    rng: np.random.Generator,
    *,
    policy: str = POLICY,
    trials: int = 1,
    risk_aversion: float = RISK_AVERSION,
    confidence: float = 0.95,
    replications: int = 2000,
    every: bool = True,
    one_liner: str = "",
    doubt: str = "",
) -> Verdict:
    """Judges one policy of a backtest that has the variants `x1` and `lag`.

    Args:
        trials: configurations tried before this one was chosen; more of them ask for a larger difference.
        confidence: of every interval, and of "better".
        every: compares with the other baselines too, not with multiplier 1.0 alone.
        one_liner: which rules the backtest's best one-liner is.
        doubt: why nothing here may be called better.
    """
    mine, one = result.run(policy), result.run(ONE)
    year = result.bars_per_year
    asked: dict[str, Any] = {"risk_aversion": risk_aversion, "confidence": confidence}
    own, found = compare(result, policy, (ONE,), rng, **asked, replications=replications)
    growth, utility = found[ONE].growth, found[ONE].utility
    others = [name for name in result.strategies if name not in (policy, ONE) and not is_seed(name)] if every else []
    paired: dict[str, Measures] = {}
    first = [name for name in others if name in (BEST, CASH)]  # what statements and the gate rest on
    for names, count in ((first, replications), ([n for n in others if n not in first], OTHERS_REPLICATIONS)):
        if names:  # generators of their own: what is drawn after them does not depend on how many baselines there are
            paired |= compare(result, policy, names, rng.spawn(1)[0], **asked, replications=count)[1]
    useful = [metrics.utility_per_bar(r.log_growth, r.portfolio_return, risk_aversion) for r in (mine, one)]
    difference = statistics.moments(useful[0] - useful[1])
    deflated = statistics.deflated_sharpe(difference, trials)
    lag = lag_test(mine, result.run(policy, LAGGED.name), year, rng, replications)
    spread = metrics.action_spread(mine.multiplier, mine.active)
    gross, judged = metrics.gross_exposure(mine.exposure), metrics.gross_exposure(one.exposure) > 0.0
    answer = _answer(growth, utility, own.growth, deflated, lag, spread, gross, confidence)
    alone = of_one(one.log_growth, useful[1], year, replications, confidence) if every else None
    if not doubt:
        doubt = {LOOK_AHEAD: "a look-ahead is suspected", COLLAPSED: "it has collapsed to one answer"}.get(answer, "")
    over = paired[BEST].utility if BEST in paired else None
    found_here = Found(
        answer=answer, utility=utility, growth=growth, one_liner=one_liner, over_one_liner=over, one=alone, doubt=doubt
    )
    level = float(mine.multiplier[mine.active].mean() if mine.active.any() else mine.multiplier.mean())
    return Verdict(
        answer=answer,
        sentence=sentence(
            found_here,
            Conduct(
                own_growth=own.growth,
                sharpe=lag.sharpe,
                lagged_sharpe=lag.lagged_sharpe,
                lag_z=lag.z,
                gross=gross,
                aside=gross < ASIDE_EXPOSURE,
                spread=spread,
                level=level,
                trials=trials,
                judged=judged,
            ),
        ),
        sure=utility.positive,
        policy=policy,
        symbols=result.symbols,
        start=stamp(int(result.fill_time[0])),
        end=stamp(int(result.fill_time[-1])),
        decisions=len(result),
        bars_per_year=year,
        risk_aversion=risk_aversion,
        growth=growth,
        utility=utility,
        sharpe=found[ONE].sharpe,
        drawdown=found[ONE].drawdown,
        own=own,
        paired=paired,
        one=alone,
        one_liner=one_liner,
        doubt=doubt,
        probabilistic_sharpe=statistics.probabilistic_sharpe(statistics.moments(mine.log_growth)),
        deflated_sharpe=deflated,
        trials=trials,
        years_needed=statistics.minimum_track_record(difference, confidence=confidence) / year,
        spread=spread,
        saturation=metrics.saturation(mine.multiplier, mine.active),
        lag=lag,
        summaries=tuple(summarise(run, year, risk_aversion) for run in result.runs.values()),
    )


def _answer(
    growth: Interval,
    utility: Interval,
    own_growth: Interval,
    deflated: float,
    lag: LagTest,
    spread: float,
    gross: float,
    confidence: float,
) -> str:
    if lag.suspected:
        return LOOK_AHEAD
    if gross < ASIDE_EXPOSURE:
        return NO_EDGE
    if spread < COLLAPSED_SPREAD:
        return COLLAPSED
    if utility.lower > 0.0 and growth.upper > 0.0 and deflated >= confidence:
        return BETTER if own_growth.estimate > 0.0 else NO_EDGE  # to lose less by holding less takes no edge
    if utility.upper < 0.0 or (growth.upper < 0.0 and utility.lower <= 0.0):
        return WORSE
    return NO_EDGE


def of_one(
    growth: FloatArray, useful: FloatArray, year: float, replications: int = 2000, confidence: float = 0.95
) -> OfOne:
    """Growth and utility a year of multiplier 1.0 less those of cash, which are 0, from both per bar."""
    both = np.column_stack([growth, useful])
    block = statistics.block_length(both)
    draws = statistics.resampled_means(both, ONE_SEED, replications=replications, block=block)
    parts = [statistics.interval(float(both[:, k].mean()), draws[:, k], confidence).scaled(year) for k in (0, 1)]
    return OfOne(growth=parts[0], utility=parts[1])


def _told(part: Interval, scale: float) -> tuple[str, str]:
    digits = 2 if scale == 1.0 else 1
    estimate, low, high = (f"{scale * x + 0.0:+.{digits}f}" for x in (part.estimate, part.lower, part.upper))
    return estimate, f"{low} to {high}"
