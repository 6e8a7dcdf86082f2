"""What the policy did and does, as sections: trades, multiplier by feature, band, limits, signals, portfolio."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from himari_rl.card.behaviour import Behaviour, Dependence, behaviour
from himari_rl.card.blocks import (
    Cell,
    Download,
    Drawing,
    Drawings,
    Folded,
    Grid,
    Prose,
    Row,
    Section,
    number,
    percent,
    span,
    verdict_mark,
)
from himari_rl.card.drawing import Plot
from himari_rl.card.limits import shrunk_by
from himari_rl.card.performance import wilson
from himari_rl.card.signals import SignalQuality, signal_quality
from himari_rl.card.source import UNKEPT, Source
from himari_rl.card.trades import Trade, as_csv
from himari_rl.data.table import stamp
from himari_rl.evaluation.record import SHIPPED
from himari_rl.evaluation.statistics import Interval
from himari_rl.policy.protocol import DecidesBatch
from himari_rl.schema import MAX_MULTIPLIER, FloatArray

SHOWN = 8  # trades of each list
MOST_IN_FILE = 5000  # trades in the page's own file
_PERSON = {
    "signal_confidence": "confidence of the signal",
    "unrealised_pnl": "unrealised P&L (share of equity, times 2)",
    "momentum_1h": "momentum 1 h (1 is 10 %)",
    "momentum_4h": "momentum 4 h (1 is 20 %)",
    "volatility": "volatility of 20 bars (1 is 10 %)",
    "win_rate": "win rate of the last ten trades",
    "cascade_risk": "cascade risk",
}


def trade_list(source: Source) -> Section:
    """The newest, best and worst trades, and all of them as a file."""
    found = source.trades
    blocks: list[Any] = []
    if source.market is None:
        blocks.append(Prose(lines=[UNKEPT], style="soft"))
    elif not found:
        blocks.append(Prose(lines=["The policy never held anything."]))
    else:
        blocks += _trades(source, found)
    return Section(name="trades", short="trades", title="Trades", blocks=blocks)


def _trades(source: Source, found: Sequence[Trade]) -> list[Any]:
    closed = [trade for trade in found if not trade.open]
    times = np.append(source.time, source.end_time)
    gains = [trade.earned for trade in closed if trade.earned > 0.0]
    losses = [trade.earned for trade in closed if trade.earned < 0.0]
    said = f"{len(found):,} trades, each one stretch of one asset on one side"
    if closed:
        share, low, high = wilson(len(gains), len(closed))
        days = [(times[trade.last] - times[trade.first]) / 86_400_000 for trade in closed]
        said += (
            f"; {percent(share)} of the {len(closed):,} closed ones won "
            f"({span({'lower': low, 'upper': high}, sign=False)}\u202f%), "
            f"median length {number(float(np.median(days)), 1)} days"
        )
    if gains and losses:
        mean = [float(np.mean(each)) for each in (gains, losses)]
        said += (
            f", mean gain {percent(mean[0], 2, sign=True)} and mean loss {percent(mean[1], 2, sign=True)} of equity, "
            f"payoff {number(-mean[0] / mean[1])}"
        )
    ranked = sorted(found, key=lambda trade: trade.earned)
    lists = {
        f"The newest {min(SHOWN, len(found))}": found[: -SHOWN - 1 : -1],
        "The best": ranked[: -SHOWN - 1 : -1],
        "The worst": ranked[:SHOWN],
    }
    kept = found[-MOST_IN_FILE:]
    text = as_csv(kept, source.time, source.end_time).encode()
    label = f"All {len(found):,} trades as CSV" if kept is found or len(kept) == len(found) else (
        f"The newest {len(kept):,} of {len(found):,} trades as CSV"
    )  # fmt: skip
    name = f"trades-{'-'.join(source.symbols)[:60]}.csv".replace("/", "-")
    folded = [Folded(summary=title, blocks=[_trade_grid(some, times)]) for title, some in lists.items()]
    return [
        Prose(lines=[said + "."]),
        *folded,
        Download(label=label, name=name, base64=base64.b64encode(text).decode("ascii")),
    ]


def _trade_grid(some: Sequence[Trade], times: FloatArray) -> Grid:
    rows: list[Row] = [
        [
            stamp(int(times[trade.first]))[:16].replace("T", " "),
            trade.symbol,
            "long" if trade.side > 0 else "short",
            "open" if trade.open else stamp(int(times[trade.last]))[:16].replace("T", " "),
            f"{trade.last - trade.first:,}",
            f"{trade.fills:,}",
            f"{trade.entry:,.6g}",
            f"{trade.exit:,.6g}",
            percent(trade.exposure),
            Cell(percent(trade.earned, 2, sign=True), "better" if trade.earned > 0.0 else "worse"),
            percent(trade.cost, 2),
        ]
        for trade in some
    ]
    head = ("opened (UTC)", "symbol", "side", "closed (UTC)", "bars", "fills", "entry", "exit", "mean size",
            "earned, of equity", "costs")  # fmt: skip
    return Grid(head=head, rows=rows, prose=frozenset({1, 2, 3}))


def conduct(source: Source) -> Section:
    """Multiplier by feature, and the no-trade band."""
    title, states = "What the policy does", source.curves.get(f"{SHIPPED}state")
    policy: DecidesBatch | None = source.policy
    found = None if policy is None or states is None else behaviour(
        policy, np.asarray(states), len(source.symbols), source.own_features
    )  # fmt: skip
    if found is None:
        lines = ["There is no policy to ask: its past decisions are all that is known of it."]
        return Section(name="conduct", short="behaviour", title=title, blocks=[Prose(lines=lines, style="soft")])
    return Section(name="conduct", short="behaviour", title=title, blocks=_conduct(found))


def _conduct(found: Behaviour) -> list[Any]:
    low, high = found.band
    band = _dependence(found.held, "held, multiple of the base position")
    drawings = [
        Drawing(
            title="No-trade band: wanted by held",
            svg=band.line([0.0, MAX_MULTIPLIER], [0.0, MAX_MULTIPLIER], "c-other thin dashed").svg(),
            note=f"On the dashed line nothing is traded. From nothing it buys up to {number(low)}; from twice the base "
            f"position it sells down to {number(high)}: between them it waits.",
        )
    ]
    drawings += [
        Drawing(title=_title(each), svg=_dependence(each, _PERSON.get(each.name, "")).svg()) for each in found.features
    ]
    lines = [
        f"Partial dependence: of {found.states} recorded states of the newest window one feature at a time is set to "
        "each value while the others stay. The feature that moves the answer most stands first."
    ]
    if found.constant:
        lines.append(f"Constant in these states: {', '.join(found.constant)}.")
    key = [("c-policy", "mean multiplier; pale: the middle 80 % of answers")]
    return [Prose(lines=lines, style="note"), Drawings(drawings=drawings, key=key)]


def _title(of: Dependence) -> str:
    return f"{of.name.replace('_', ' ')} (moves it by {number(of.reach)})"


def _dependence(of: Dependence, label: str) -> Plot:
    x = (of.x[0], of.x[-1]) if not of.labels else (-0.4, len(of.labels) - 0.6)
    plot = Plot(
        x=x,
        y=(0.0, MAX_MULTIPLIER),
        x_label=label,
        y_label="multiplier",
        x_names=of.labels,
        decimals=1,
        says=f"Multiplier by {of.name}: {', '.join(f'{value:.2f}' for value in of.mean)}",
    )
    if not of.labels:
        return plot.band(of.x, of.low, of.high, "c-policy").line(of.x, of.mean, "c-policy")
    for at, low, high in zip(of.x, of.low, of.high, strict=True):
        plot.band((at - 0.22, at + 0.22), (low, low), (high, high), "c-policy")
    return plot.dots(of.x, of.mean, "c-policy")


def limits(source: Source) -> Section:
    """Why a limit shrank what."""
    title = "What the limits took away"
    if source.market is None:
        blocks: list[Any] = [Prose(lines=[UNKEPT], style="soft")]
    else:
        multiplier = np.asarray(source.curves["multiplier"], float)
        found = shrunk_by(multiplier, source.exposure, source.market, source.ledger)
        rows: list[Row] = [
            [each.cause, f"{each.bars:,}", percent(each.share), percent(each.taken), percent(each.overall, 2)]
            for each in found
        ]
        head = ("limit", "decisions", "of all", "taken from them", "taken, mean of all")
        note = "Exposure taken away, as a share of equity, by each limit in the ledger's own order."
        blocks = [Grid(head=head, rows=rows, note=note)]
    return Section(name="limits", short="limits", title=title, blocks=blocks)


def signals(source: Source) -> Section:
    """Layer 2's own quality by tier."""
    title = "Layer 2's signals by themselves"
    if source.market is None:
        return Section(name="signals", title=title, blocks=[Prose(lines=[UNKEPT], style="soft")])
    found = signal_quality(source.market)
    if not found:
        return Section(name="signals", title=title, blocks=[Prose(lines=["Layer 2 never had a side on these bars."])])
    note = (
        "The return of the next bar, fill to fill, on the signal's side, before costs and sizes; SELL counts as a side "
        "whether or not shorts are allowed. In brackets 95 % intervals of the stationary bootstrap."
    )
    head = ("tier", "decisions", "of all", "hit rate, %", "earned, basis points a bar")
    grid = Grid(head=head, rows=[_signal(each) for each in found], look="wide", note=note)
    return Section(name="signals", short="signals", title=title, blocks=[grid])


def _signal(of: SignalQuality) -> Row:
    style = "better" if of.earned.lower > 0.0 else "worse" if of.earned.upper < 0.0 else ""
    hit, earned = (
        f"{number(scale * part.estimate, digits, sign=signed)} "
        f"({span({'lower': part.lower, 'upper': part.upper}, digits, scale=scale, sign=signed)})"
        for part, scale, digits, signed in ((of.hit_rate, 100.0, 1, False), (of.earned, 1e4, 2, True))
    )
    return [of.name, f"{of.count:,}", percent(of.share), hit, Cell(earned, style)]


def portfolio(source: Source, taken_away: Interval, measured: Mapping[str, Any] | None) -> Section:
    """Shares, concentration and the risk that several assets take from each other."""
    exposure = np.abs(source.exposure)
    gross = exposure.sum(axis=1)
    mean = exposure.mean(axis=0) / max(float(gross.mean()), 1e-12)
    rows: list[Row] = [
        [symbol, percent(float(share)), percent(float(size))]
        for symbol, share, size in zip(source.symbols, mean, exposure.mean(axis=0), strict=True)
    ]
    reached = taken_away.estimate > 0.30
    said = (
        f"Risk taken away against the weighted sum of the assets' own: {percent(taken_away.estimate)} "
        f"({span(vars(taken_away), sign=False)}\u202f%); expected is more than 30\u202f%."
    )
    mark = verdict_mark(reached, "reached" if taken_away.lower > 0.30 else "reached, not surely", "missed")
    blocks: list[Any] = [
        Prose(lines=[f"{mark.text}. {said}"], style=mark.style),
        Grid(head=("asset", "share of exposure", "mean |exposure|"), rows=rows, look="narrow"),
    ]
    if measured is not None:
        blocks.append(_rules(measured))
    return Section(name="portfolio", short="portfolio", title="Portfolio", blocks=blocks)


def _rules(measured: Mapping[str, Any]) -> Grid:
    rows: list[Row] = [
        [
            rule["name"],
            f"{rule['comparison']} {rule['threshold']:g}",
            f"{number(rule['value']['estimate'])} ({span(rule['value'], 2, scale=1.0, sign=False)})",
            f"{number(rule['difference']['estimate'], sign=True)} ({span(rule['difference'], 2, scale=1.0)})",
            verdict_mark(rule["passed"], "yes" if rule["sure"] else "yes, not surely", "no"),
        ]
        for rule in measured["gates"]
    ]
    return Grid(head=("rule", "must be", "policy", "minus equal weight", ""), rows=rows, prose=frozenset({4}))
