"""The panels over time of one run: price with position and fills, equity, drawdown, rolling figures, sizes."""

from __future__ import annotations

from typing import Any

import numpy as np

from himari_rl.card import returns
from himari_rl.card.panels import Axis, curve, panel
from himari_rl.card.performance import rolling_window, strategies
from himari_rl.card.source import Source
from himari_rl.card.trades import traded
from himari_rl.evaluation import metrics
from himari_rl.evaluation.backtest import POLICY
from himari_rl.evaluation.baselines import CASH, HOLD_ALL, ONE
from himari_rl.evaluation.one_liners import BEST
from himari_rl.schema import MAX_MULTIPLIER

COLOURS = {POLICY: "policy", ONE: "one", BEST: "best", HOLD_ALL: "hold", CASH: "cash"}
MOST_ASSETS = 4  # whose prices are drawn; of more those that were held most
ASSET_COLOURS = ("policy", "one", "best", "hold")


def time_panels(source: Source) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The panels and their common axis."""
    axis = Axis.of(source.time)
    found = [
        *_prices(source, axis),
        _equity(source, axis),
        _drawdown(source, axis),
        _difference(source, axis),
        *_rolling(source, axis),
        *_sizes(source, axis),
        panel(
            "costs",
            "Costs so far",
            [curve(axis, POLICY, np.asarray(source.curves["cost"]), colour="policy", width=1.8)],
            unit="percent",
            height=130,
            zero=True,
        ),
    ]
    return found, axis.payload()


def _largest(source: Source) -> list[int]:
    held = np.abs(source.exposure).mean(axis=0)
    return sorted(np.argsort(-held)[:MOST_ASSETS].tolist())


def _prices(source: Source, axis: Axis) -> list[dict[str, Any]]:
    market = source.market
    if market is None:
        return []
    change = traded(source.exposure, market, np.exp(source.growth()))
    found = []
    for i in _largest(source):
        name = source.symbols[i]
        curves = [
            curve(axis, "price", market.price[:-1, i], colour="other", width=1.3),
            curve(
                axis,
                "position",
                source.exposure[:, i],
                colour="policy",
                width=1,
                kind="position",
                step=True,
                unit="percent",
            ),
            curve(axis, "fills", axis.summed(change[:, i]), kind="fills"),
        ]
        title = f"{name}: price, position below (share of equity), fills (▲ bought, ▼ sold; the largest in view)"
        found.append(panel(f"price-{i}", title, curves, unit="price", height=270))
    return found


def _equity(source: Source, axis: Axis) -> dict[str, Any]:
    curves = []
    for name in strategies(source):
        shown = name in COLOURS
        look: dict[str, Any] = {"colour": COLOURS.get(name, "other"), "hidden": not shown}
        look |= {"width": 2.4} if name == POLICY else {"dash": [5, 4]} if not shown else {"width": 1.4}
        curves.append(curve(axis, name, source.equity(name), **look))
    title = "Equity over its start, out of sample, log scale (a name below shows or hides a curve)"
    return panel("equity", title, curves, unit="times", height=280)


def _drawdown(source: Source, axis: Axis) -> dict[str, Any]:
    curves = [
        curve(axis, name, np.expm1(metrics.underwater(source.equity(name))), colour=COLOURS[name], width=width)
        for name, width in ((POLICY, 1.8), (ONE, 1.2))
    ]
    return panel("drawdown", "Drawdown", curves, unit="percent", height=160, zero=True)


def _difference(source: Source, axis: Axis) -> dict[str, Any]:
    verdict = source.verdict
    difference = np.cumsum(source.growth() - source.growth(ONE))
    count = len(difference)
    per_root_bar = verdict["growth"]["standard_error"] / verdict["bars_per_year"] * np.sqrt(count)
    edge = 1.96 * per_root_bar * np.sqrt(np.arange(1, count + 1))
    faint = {"colour": "other", "dash": [4, 3], "width": 1}
    curves = [
        curve(axis, "policy minus 1.0", difference, colour="policy", width=2),
        curve(axis, "95 % of no difference", edge, **faint),
        curve(axis, "and below", -edge, **faint),
    ]
    title = (
        "Policy minus multiplier 1.0, log-growth so far; between the dashed lines 95 % of what no difference would show"
    )
    return panel("difference", title, curves, unit="percent", height=180, zero=True)


def _rolling(source: Source, axis: Axis) -> list[dict[str, Any]]:
    window = rolling_window(len(source.days[POLICY].value))
    sharpes, volatilities = [], []
    for name, width in ((POLICY, 1.8), (ONE, 1.2)):
        days = source.days[name]
        if len(days.value) <= window:
            return []
        ratio, deviation = returns.rolling(days.value, window, days.per_year)
        look: dict[str, Any] = {"colour": COLOURS[name], "width": width}
        sharpes.append(curve(axis, name, axis.daily(days.day, ratio), **look))
        volatilities.append(curve(axis, name, axis.daily(days.day, deviation), **look))
    return [
        panel("sharpe", f"Sharpe ratio a year, last {window} days", sharpes, unit="ratio", height=160, zero=True),
        panel(
            "volatility", f"Volatility a year, last {window} days", volatilities, unit="percent", height=160, zero=True
        ),
    ]


def _sizes(source: Source, axis: Axis) -> list[dict[str, Any]]:
    multiplier, market = np.asarray(source.curves["multiplier"], float), source.market
    curves = []
    if market is not None:
        name = "largest allowed" if len(source.symbols) == 1 else "smallest cap of any"
        lowest = np.minimum(market.cap.min(axis=1), MAX_MULTIPLIER)
        curves.append(curve(axis, name, lowest, colour="other", width=1, step=True))
    for colour, i in zip(ASSET_COLOURS, _largest(source), strict=False):
        name = source.symbols[i] if len(source.symbols) > 1 else "asked"
        curves.append(curve(axis, name, multiplier[:, i], colour=colour, width=1.1, step=True))
    return [
        panel("sizing", "Multiplier asked for, and what the regime allows", curves, unit="ratio", height=160, zero=True)
    ]
