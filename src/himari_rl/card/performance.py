"""What the policy earned: the first figures, the expected ones beside the measured, absolute figures, months, falls."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from himari_rl.card import returns
from himari_rl.card.blocks import (
    NONE,
    Cell,
    Drawing,
    Drawings,
    Grid,
    Row,
    Section,
    SideBySide,
    Tile,
    Tiles,
    number,
    percent,
    span,
    verdict_mark,
)
from himari_rl.card.drawing import Plot, histogram
from himari_rl.card.source import Source
from himari_rl.data.table import stamp
from himari_rl.evaluation import statistics
from himari_rl.evaluation.backtest import POLICY, is_seed
from himari_rl.evaluation.baselines import CASH, ONE
from himari_rl.evaluation.one_liners import BEST
from himari_rl.schema import DAY_MS, FloatArray

MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
SEED = 11  # of the draws of a win rate
BOOTSTRAPPED = 60  # days: fewer have no blocks to draw
_BAR_MEASURES = ("growth", "utility", "sharpe", "drawdown")


class Expected(NamedTuple):
    """A figure that the product's owner expects."""

    name: str
    low: float
    high: float | None
    share: bool = True  # told in per cent
    below: bool = False  # a figure that should not be larger


EXPECTED = {
    "sharpe": Expected("Sharpe ratio a year", 1.2, 1.5, share=False),
    "days": Expected("winning days", 0.52, 0.55),
    "trades": Expected("winning trades", 0.52, 0.55),
    "drawdown": Expected("deepest drawdown", 0.15, 0.20, below=True),
    "diversification": Expected("risk taken away by the portfolio", 0.30, None),
}


def tiles(source: Source) -> Tiles:
    """The figures that are looked for first, each beside multiplier 1.0's."""
    own, mine = source.verdict["own"], source.days[POLICY]
    found, one = source.summaries(), source.summaries().get(ONE)
    shown = [
        ("growth a year", percent(own["growth"]["estimate"], sign=True), span(own["growth"]) + "\u202f%", "growth"),
        ("Sharpe ratio", number(own["sharpe"]["estimate"]), span(own["sharpe"], 2, scale=1.0), "sharpe"),
        ("deepest drawdown", percent(own["drawdown"]["estimate"]), span(own["drawdown"], sign=False) + "\u202f%", ""),
    ]
    made = []
    for label, value, interval, key in shown:
        notes = [interval]
        if one is not None:
            level = one[key or "max_drawdown"]
            notes.append(f"{ONE}: {number(level) if key == 'sharpe' else percent(level, sign=key == 'growth')}")
        made.append(Tile(label=label, value=value, notes=notes))
    policy = found.get(POLICY)
    if policy is not None and one is not None:
        beside = f"{ONE}: {percent(one['volatility'])}"
        made.append(Tile(label="volatility a year", value=percent(policy["volatility"]), notes=[beside]))
        beside = f"{ONE}: {percent(one['cost'])}"
        made.append(Tile(label="costs paid", value=percent(policy["cost"]), notes=["of equity, in all", beside]))
    notes = [f"winning days: {percent(returns.hit_rate(mine.value))}"]
    made.append(Tile(label="time in market", value=percent(returns.time_in_market(source.growth())), notes=notes))
    return Tiles(tiles=made)


def win_rates(source: Source) -> dict[str, tuple[float, float, float]]:
    """Share of winning days and trades with 95 % bounds: by the stationary bootstrap and by Wilson's."""
    found = {}
    moved = source.days[POLICY].value
    moved = moved[moved != 0.0]
    won = moved > 0.0
    if len(moved) >= BOOTSTRAPPED:
        part = statistics.mean_interval(won.astype(float), np.random.default_rng(SEED), replications=1000)
        found["days"] = (part.estimate, part.lower, part.upper)
    elif len(moved):
        found["days"] = wilson(int(won.sum()), len(moved))
    closed = [trade.earned for trade in source.trades if not trade.open]
    if closed:
        found["trades"] = wilson(sum(earned > 0.0 for earned in closed), len(closed))
    return found


def wilson(won: int, count: int, z: float = 1.959963984540054) -> tuple[float, float, float]:
    """A share with the bounds of Wilson (1927)."""
    share, square = won / count, z * z / count
    centre, reach = share + square / 2.0, z * math.sqrt(share * (1.0 - share) / count + square / (4.0 * count))
    return share, (centre - reach) / (1.0 + square), (centre + reach) / (1.0 + square)


def expected(source: Source, diversification: statistics.Interval | None) -> Section:
    """What the owner expects of the product, beside what was measured."""
    own = source.verdict["own"]
    measured = {
        name: tuple(own[name][key] for key in ("estimate", "lower", "upper")) for name in ("sharpe", "drawdown")
    }
    measured |= win_rates(source)
    if diversification is not None:
        measured["diversification"] = (diversification.estimate, diversification.lower, diversification.upper)
    rows = [_expected(EXPECTED[name], *measured[name]) for name in EXPECTED if name in measured]
    head = ("figure", "expected", "measured", "95 % interval", "")
    note = "Out of sample, after costs. Winning days are those with a gain among those on which anything moved."
    return Section(
        name="expected",
        short="expected",
        title="Expected and measured",
        blocks=[Grid(head=head, rows=rows, prose=frozenset({4}), note=note)],
    )


def _expected(of: Expected, estimate: float, low: float, high: float) -> Row:
    def told(value: float) -> str:
        return percent(value) if of.share else number(value)

    if of.high is None:
        wanted = f"above {percent(of.low, 0)}"
    else:
        wanted = f"{number(100 * of.low, 0)} to {percent(of.high, 0)}" if of.share else f"{of.low:g} to {of.high:g}"
    if of.below:
        limit = of.high if of.high is not None else of.low
        reached, surely = estimate <= limit, high <= limit
    else:
        reached, surely = estimate >= of.low, low >= of.low
    mark = verdict_mark(reached, "reached" if surely else "reached, not surely", "missed")
    scale = 100.0 if of.share else 1.0
    bounds = span({"lower": low, "upper": high}, 1 if of.share else 2, scale=scale, sign=False)
    return [of.name, wanted, told(estimate), f"{bounds}\u202f%" if of.share else bounds, mark]


def absolute(source: Source) -> Section:
    """Every strategy's own figures, in one ledger, and the policy's paired difference to each."""
    rows: list[Row] = []
    first = [POLICY, ONE, BEST, CASH]
    found = source.summaries()
    names = [n for n in first if n in found] + [n for n in found if n not in first and not is_seed(n)]
    for name in names:
        row = found[name]
        style = "strong" if name == POLICY else ""
        told = (
            percent(row["total_return"], sign=True),
            percent(row["growth"], sign=True),
            number(row["sharpe"]),
            percent(row["volatility"]),
            percent(row["max_drawdown"]),
            percent(row["utility"], sign=True),
            percent(row["turnover"], 2),
            percent(row["cost"]),
            percent(row["gross_exposure"], 0),
        )
        rows.append([name, *(Cell(text, style) for text in told)])
    head = ("strategy", "return", "growth a year", "Sharpe a year", "volatility a year", "deepest drawdown",
            "utility a year", "turnover a bar", "costs paid", "gross exposure")  # fmt: skip
    blocks = [
        Grid(
            head=head,
            rows=rows,
            note="The same bars, the same costs, the same limits. Growth is logarithmic; utility is growth less what "
            f"the variance costs at a risk aversion of {source.verdict['risk_aversion']:g}.",
        ),
        _differences(source.verdict),
    ]
    return Section(name="baselines", short="baselines", title="Policy and baselines", blocks=blocks)


def _differences(verdict: Mapping[str, Any]) -> Grid:
    lines = {f"minus {ONE}": {name: verdict[name] for name in _BAR_MEASURES}}
    lines |= {f"minus {name}": measures for name, measures in verdict["less"].items()}
    rows: list[Row] = []
    for name, measures in lines.items():
        row: Row = [name]
        for part in _BAR_MEASURES:
            ratio, of = part == "sharpe", measures[part]
            digits, scale = (2, 1.0) if ratio else (1, 100.0)
            good = of["upper"] < 0.0 if part == "drawdown" else of["lower"] > 0.0
            bad = of["lower"] > 0.0 if part == "drawdown" else of["upper"] < 0.0
            text = f"{number(scale * of['estimate'], digits, sign=True)} ({span(of, digits, scale=scale)})"
            row.append(Cell(text, "better" if good else "worse" if bad else ""))
        rows.append(row)
    return Grid(
        look="wide",
        head=("policy, paired", "growth, % a year", "utility, % a year", "Sharpe a year", "drawdown, %"),
        rows=rows,
        note="In brackets 95 % intervals of the stationary bootstrap; coloured where they leave 0 out.",
    )


def performance(source: Source) -> Section:
    """Months, figures of a tear sheet, the distribution of daily returns."""
    mine, one = source.days[POLICY], source.days[ONE]
    table = returns.months(source.time, source.growth())
    reach = max((abs(value) for _, parts, _ in table for value in parts if value is not None), default=0.0) or 1.0
    rows: list[Row] = []
    for year, parts, whole in table:
        cells = [
            Cell("" if value is None else number(100.0 * value, 1), "", None if value is None else value / reach)
            for value in parts
        ]
        rows.append([str(year), *cells, Cell(number(100.0 * whole, 1), "strong")])
    blocks = [
        Grid(
            head=("%", *MONTHS, "year"), rows=rows, look="heat months", note="Simple returns after costs, by UTC month."
        ),
        SideBySide(
            blocks=[
                Grid(head=("of daily returns", "policy", ONE), rows=_tear_sheet(mine, one), look="narrow"),
                Drawings(drawings=[_distribution(mine.value)]),
            ]
        ),
    ]
    return Section(name="returns", short="returns", title="Returns", blocks=blocks)


def _tear_sheet(mine: returns.Daily, one: returns.Daily) -> list[Row]:
    def both(name: str, told: Any, *of: Any) -> Row:
        return [name, *(told(*(f(each) for f in of)) for each in (mine, one))]

    def signed(value: float) -> str:
        return percent(value, 2, sign=True)

    return [
        both("compound growth a year", lambda v: percent(v, sign=True),
             lambda d: returns.compound_growth(d.value, d.per_year)),
        both("Sharpe ratio", number, lambda d: returns.sharpe(d.value, d.per_year)),
        both("Sortino ratio", number, lambda d: returns.sortino(d.value, d.per_year)),
        both("Calmar ratio", number, lambda d: returns.calmar(d.value, d.per_year)),
        both("value at risk, 95 %, a day", signed, lambda d: returns.value_at_risk(d.value)),
        both("expected shortfall, 95 %, a day", signed, lambda d: returns.expected_shortfall(d.value)),
        both("mean of the worst 5 % of days", signed, lambda d: returns.worst_mean(d.value)),
        both("hit rate", percent, lambda d: returns.hit_rate(d.value)),
        both("payoff: mean gain over mean loss", number, lambda d: returns.payoff(d.value)),
        both("days in market", percent, lambda d: returns.time_in_market(d.value)),
        both("best day", signed, lambda d: float(d.value.max())),
        both("worst day", signed, lambda d: float(d.value.min())),
    ]  # fmt: skip


def _distribution(value: FloatArray) -> Drawing:
    moved = value[value != 0.0]
    if not len(moved):
        return Drawing(title="Distribution of daily returns", svg="", note="Nothing ever moved.")
    edges, counts = histogram(100.0 * moved)
    most = float(counts.max()) or 1.0
    plot = Plot(
        x=(float(edges[0]), float(edges[-1])),
        y=(0.0, most * 1.08),
        x_label="daily return, %",
        y_label="days",
        says="How often each daily return occurred",
    )
    for left, right, count in zip(edges[:-1].tolist(), edges[1:].tolist(), counts.tolist(), strict=True):
        middle = 0.5 * (left + right)
        plot.bar(left, right, 0.0, count, "c-policy" if middle >= 0.0 else "c-worse")
    plot.upright(100.0 * returns.value_at_risk(value), "VaR 95 %", "c-other")
    idle = len(value) - len(moved)
    note = (
        f"The {len(moved):,} days on which anything moved, {idle:,} others are 0. The outermost bars hold all beyond."
    )
    return Drawing(title="Distribution of daily returns", svg=plot.svg(), note=note)


def drawdowns(source: Source) -> Section:
    """The five worst."""
    time = source.time
    rows: list[Row] = []
    for k, fall in enumerate(returns.falls(source.equity()), start=1):
        start = int(time[max(fall.peak, 0)])
        end = int(time[fall.recovered]) if fall.recovered is not None else None
        rows.append(
            [
                str(k),
                Cell(percent(fall.depth), "strong"),
                stamp(start)[:10],
                stamp(int(time[fall.trough]))[:10],
                NONE if end is None else stamp(end)[:10],
                number((int(time[fall.trough]) - start) / DAY_MS, 0),
                "not yet" if end is None else number((end - start) / DAY_MS, 0),
            ]
        )
    head = ("", "depth", "peak", "deepest", "recovered", "days down", "days in all")
    return Section(
        name="drawdowns",
        short="drawdowns",
        title="The five deepest drawdowns",
        blocks=[Grid(head=head, rows=rows, note="Of equity marked at closes.")],
    )


def rolling_window(days: int) -> int:
    """Days of the rolling figures: 90, or a quarter of a shorter span."""
    return max(5, min(90, days // 4))


def strategies(source: Source) -> Sequence[str]:
    """Names of the strategies whose equity is drawn, those that are shown first in front."""
    names = [name.removeprefix("equity/") for name in source.curves if name.startswith("equity/")]
    first = [POLICY, ONE, BEST, "buy and hold", CASH]
    return [n for n in first if n in names] + sorted(n for n in names if n not in first and not is_seed(n))
