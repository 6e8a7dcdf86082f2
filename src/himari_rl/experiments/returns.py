"""What can be said of a strategy from its returns alone, and what cannot: for whoever brings no policy and no prices.

    judge_returns("returns.csv", trials=40)        himari judge returns.csv --trials 40

The file has a column `return` (simple, of one period) and a `time` at which each period ends.
"""

from __future__ import annotations

import csv
import io
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from himari_rl.data.table import stamp
from himari_rl.errors import ConfigError, DataError
from himari_rl.evaluation import metrics, statistics
from himari_rl.evaluation.bootstrap import BlockSums, Drawdowns, batches, drawn
from himari_rl.evaluation.control import POWER, SURE
from himari_rl.evaluation.statistics import Interval
from himari_rl.evaluation.terminal import aligned, wrapped
from himari_rl.experiments.adapters import milliseconds
from himari_rl.schema import FloatArray, IntArray, bars_per_year
from himari_rl.storage import read_bytes

LEAST = 30  # periods; below that no interval means anything
REPLICATIONS = 2000
CANNOT = (
    "whether a decision knew what came later: a look-ahead makes such returns too, and only the policy played bar by "
    "bar, and one bar late, shows it",
    "whether fees, slippage and funding are in them, and what is left at twice the costs",
    "whether it is better than doing as the signal says (multiplier 1.0), than cash or than a simple volatility rule: "
    "that is a paired difference on the same bars",
    "whether the method would find an edge that is there, and would find none in a market without one (the controls)",
    "how many things were tried: the number of trials is what you say it is",
)


@dataclass(frozen=True, kw_only=True, repr=False)
class ReturnsJudgement:
    """Figures of a series of returns; `print` it for a page."""

    source: str
    periods: int
    start: str
    end: str
    per_year: float
    trials: int
    growth: float  # mean log-growth a year
    volatility: float  # a year
    sharpe: Interval  # a year, from the stationary bootstrap
    drawdown: Interval  # deepest fall, a share of the peak
    probabilistic_sharpe: float  # chance that the true Sharpe ratio is above 0, of one trial
    deflated_sharpe: float  # the same, given the trials
    noise: float  # Sharpe ratio a year that the best of so many worthless strategies is expected to show
    detectable: float  # Sharpe ratio a year that so many periods show with 95 % power
    years_needed: float  # until a true Sharpe ratio like the one found is shown, of one trial

    @property
    def answer(self) -> str:
        """shown, or not_shown: whether a Sharpe ratio above 0 stands after the trials."""
        return "shown" if self.deflated_sharpe > SURE else "not_shown"

    @property
    def sentence(self) -> str:
        tried = f"{self.trials} trial{'s' * (self.trials != 1)}"
        found = f"a Sharpe ratio above 0 with a chance of {100.0 * self.deflated_sharpe:.1f} %, given {tried}"
        if self.answer == "shown":
            return f"These returns show {found}. That is not yet a verdict on the policy behind them."
        return f"These returns do not show an edge: {found}, where more than {100.0 * SURE:.0f} % is asked."

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; infinite years are null."""
        found = asdict(self) | {"answer": self.answer, "sentence": self.sentence, "cannot_say": list(CANNOT)}
        return found | {"years_needed": None if math.isinf(self.years_needed) else self.years_needed}

    def __repr__(self) -> str:
        return f"ReturnsJudgement({self.source}: {self.answer})"

    def __str__(self) -> str:
        span = (self.sharpe.lower, self.sharpe.upper)
        fall = (100.0 * self.drawdown.lower, 100.0 * self.drawdown.upper)
        needed = "never" if math.isinf(self.years_needed) else f"{self.years_needed:.1f} years"
        rows = [
            ("growth a year", f"{100.0 * self.growth:+.1f} %", ""),
            ("volatility a year", f"{100.0 * self.volatility:.1f} %", ""),
            ("Sharpe ratio a year", f"{self.sharpe.estimate:+.2f}", f"{span[0]:+.2f} to {span[1]:+.2f}"),
            ("deepest drawdown", f"{100.0 * self.drawdown.estimate:.1f} %", f"{fall[0]:.1f} to {fall[1]:.1f}"),
            ("chance that Sharpe > 0", f"{100.0 * self.probabilistic_sharpe:.1f} %", "if it was the only trial"),
            (f"the same after {self.trials} trials", f"{100.0 * self.deflated_sharpe:.1f} %", "deflated Sharpe ratio"),
            (f"best of {self.trials} noises", f"{self.noise:+.2f}", "Sharpe ratio a year, expected"),
            ("shown with 95 % power", f"{self.detectable:.2f}", "Sharpe ratio a year, at least"),
            ("needed for this Sharpe", needed, "of one trial"),
        ]
        head = f"{self.source}: {self.periods:,} returns, {self.start} to {self.end}, {self.per_year:,.0f} a year"
        cannot = "\n".join(wrapped(f"- {each}", 2) for each in CANNOT)
        said = "Returns alone cannot say:"
        more = "himari walk-forward MODULE:FACTORY judges the policy itself (docs/judge.md)."
        return "\n".join((head, "", aligned(rows), "", wrapped(self.sentence), "", said, cannot, "", wrapped(more)))


def judge_returns(
    source: str | Path | FloatArray,
    trials: int = 1,
    *,
    per_year: float | None = None,
    seed: int = 0,
) -> ReturnsJudgement:
    """Judges returns: a CSV, or simple returns (T,) with `per_year`.

    Args:
        trials: everything that was tried before these returns were chosen, these included.
        per_year: periods a year of 365 days, where the file has no time.

    Raises:
        DataError: no such column, a number that is none, too few of them. ConfigError: fewer than one trial.
    """
    if isinstance(source, str | Path):
        returns, time = read_returns(str(source))
        name = str(source)
    else:
        returns, time, name = np.asarray(source, float), None, "returns"
    if len(returns) < LEAST:
        raise DataError(f"{len(returns)} returns in {name}", f"at least {LEAST}", "bring a longer history")
    if not np.isfinite(returns).all() or (returns <= -1.0).any():
        row = int(np.flatnonzero(~np.isfinite(returns) | (returns <= -1.0))[0])
        raise DataError(f"{name}: return {returns[row]:g} in row {row}", "simple returns above -1")
    year = per_year if time is None else float(bars_per_year(len(returns) - 1, int(time[0]), int(time[-1])))
    if year is None or not 0.0 < year < 1e8:
        raise ConfigError(f"{name} has no time", "how many periods a year has", "give --per-year, 365 for days")
    growth = np.log1p(returns)
    of = statistics.moments(growth)
    rng, root = np.random.default_rng(seed), math.sqrt(year)
    spread = math.sqrt(of.dependence / (of.count - 1))
    reach = statistics.NORMAL.inv_cdf(0.975) + statistics.NORMAL.inv_cdf(POWER)
    sharpe, drawdown = _intervals(growth, rng)
    return ReturnsJudgement(
        source=name,
        periods=len(returns),
        start="?" if time is None else stamp(int(time[0])),
        end="?" if time is None else stamp(int(time[-1])),
        per_year=year,
        trials=trials,
        growth=metrics.growth(growth, year),
        volatility=metrics.volatility(growth, year),
        sharpe=sharpe.scaled(root),
        drawdown=drawdown,
        probabilistic_sharpe=statistics.probabilistic_sharpe(of),
        deflated_sharpe=statistics.deflated_sharpe(of, trials),
        noise=spread * statistics.expected_maximum(trials) * root,
        detectable=reach * spread * root,
        years_needed=statistics.minimum_track_record(of, confidence=SURE) / year,
    )


def _intervals(growth: FloatArray, rng: np.random.Generator) -> tuple[Interval, Interval]:
    """Sharpe ratio of a period and deepest drawdown, from the same resamples."""
    sums, paths = BlockSums(np.column_stack([growth, growth * growth])), Drawdowns(growth[:, None])
    means, depth = [], []
    resamples = drawn(len(growth), rng, REPLICATIONS, statistics.block_length(growth))
    for some in batches(resamples, paths.together):
        means += [sums.means(each) for each in some]
        depth.append(paths.deepest(some))
    mean, square = np.array(means).T
    deviation = np.sqrt(np.maximum(square - mean * mean, 0.0) * (len(growth) / (len(growth) - 1)))
    return (
        statistics.interval(metrics.sharpe(growth), metrics.sharpe_ratio(mean, deviation)),
        statistics.interval(metrics.max_drawdown(growth.cumsum()), np.concatenate(depth)[:, 0]),
    )


def read_returns(path: str) -> tuple[FloatArray, IntArray | None]:
    """Simple returns (T,) of a CSV and the times (T,), ms UTC, where it has them.

    Raises:
        DataError: no column `return`, a number or time that is none, or times that do not rise.
    """
    rows = list(csv.DictReader(io.StringIO(read_bytes(path).decode("utf-8-sig"))))
    if not rows or "return" not in rows[0]:
        has = f"the columns {', '.join(rows[0])}" if rows else "no rows"
        raise DataError(f"{path} has {has}", "a column `return`, simple returns, and `time`")
    found, times = [], []
    for line, row in enumerate(rows, 2):
        try:
            found.append(float(row["return"]))
            if "time" in row:
                times.append(milliseconds(str(row["time"])))
        except (TypeError, ValueError) as error:
            raise DataError(f"{path}, line {line}: {error}", "a number, and a time where there is one") from error
    time = np.array(times, np.int64) if times else None
    if time is not None and (np.diff(time) <= 0).any():
        late = int(np.flatnonzero(np.diff(time) <= 0)[0]) + 3
        raise DataError(f"{path}, line {late}: a time that is not after the one before", "rising times", "sort it")
    return np.array(found), time
