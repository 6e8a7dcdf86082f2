"""A verdict for the eye: tables on a terminal, a portfolio's too. Pages are made in card/."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.panel import Panel
from rich.table import Table

from himari_rl.evaluation.backtest import BASE, LAGGED
from himari_rl.evaluation.baselines import ONE
from himari_rl.evaluation.portfolio import PortfolioMeasures
from himari_rl.evaluation.portfolio_baselines import EQUAL
from himari_rl.evaluation.statements import BETTER, LOOK_AHEAD, NO_EDGE
from himari_rl.evaluation.statistics import Interval
from himari_rl.evaluation.terminal import figures, wrapped
from himari_rl.evaluation.verdict import Summary, Verdict

if TYPE_CHECKING:
    from himari_rl.evaluation.control import Control

COLOURS = {BETTER: "green", NO_EDGE: "yellow", LOOK_AHEAD: "red"}


def render(
    verdict: Verdict, console: Console, controls: Sequence[Control] = (), detectable: float | None = None
) -> None:
    """Prints strategies, cost and lag variants, intervals, controls and the sentence."""
    console.print(
        f"\n{', '.join(verdict.symbols)}: {verdict.decisions:,} decisions, {verdict.start} to {verdict.end}",
        style="bold",
    )
    console.print(_strategies(verdict))
    console.print(_variants(verdict))
    console.print(_differences(verdict))
    document = verdict.to_dict()
    console.print(baselines_table(document))
    console.print(
        f"Chance that the policy's Sharpe ratio is above 0: {_percent(verdict.probabilistic_sharpe)}. Chance that the "
        f"difference in utility is, deflated for {verdict.trials} trial{'s' * (verdict.trials > 1)}: "
        f"{_percent(verdict.deflated_sharpe)}; record needed to establish it: {_years(verdict.years_needed)}. "
        f"Multipliers spread by {verdict.spread:.3f} and stand at a bound {_percent(verdict.saturation)} of the time. "
        f"Sharpe ratio before costs {verdict.lag.sharpe:.2f}, one bar later {verdict.lag.lagged_sharpe:.2f}."
    )
    for control in controls:
        console.print(control_line(control.name, control.passed, control.sentence))
    if detectable is not None:
        smallest = f"{100.0 * detectable:.1f} % a year (power 95 %)"
        console.print(f"Smallest difference in utility this data can show: {smallest}.")
    print_verdict(console, document)


def control_line(name: str, passed: bool, sentence: str) -> str:
    """One control's outcome, in rich's markup."""
    mark = "[green]ok    [/]" if passed else "[red]FAILED[/]"
    return f"{mark} {name:<10}{sentence}"


def render_portfolio(portfolio: PortfolioMeasures, console: Console) -> None:
    """Prints a portfolio's rules beside their intervals, and each asset's part."""
    title = f"gates of the portfolio, and the policy minus {EQUAL}, paired; 95 %"
    rules = figures(title, "measure", ("gate", "policy", f"minus {EQUAL}", "passed"))
    for rule in portfolio.gates:
        answer = "yes" if rule.sure else "yes, not surely" if rule.passed else "no"
        demand = f"{rule.comparison} {rule.threshold:g}"
        rules.add_row(rule.name, demand, _told(rule.value, ""), _told(rule.difference, "+"), answer)
    console.print(rules)
    parts = figures("what each asset did", "asset", ("share of\nexposure %", "growth\n%/y", "share of\nrisk %"))
    for part in portfolio.parts:
        numbers = (f"{100 * part.share:.1f}", f"{100 * part.growth:+.1f}", f"{100 * part.risk:.1f}")
        parts.add_row(part.symbol, *numbers)
    console.print(parts)
    console.print(
        f"Diversification ratio of the mean exposure: {portfolio.diversification_ratio:.3f} (1 is one asset)."
    )


def _strategies(verdict: Verdict) -> Table:
    numbers = (
        "growth\n%/y",
        "Sharpe",
        "vol.\n%/y",
        "draw-\ndown\n%",
        "utili-\nty %/y",
        "turn-\nover\n%",
        "cost\n%",
        "expo-\nsure",
    )
    table = figures("in the same ledger, with the same costs and limits", "strategy", numbers)
    for row in verdict.summaries:
        if row.variant == BASE.name:
            table.add_row(
                row.strategy.replace("volatility", "vol."),  # eighty columns hold no longer name beside the numbers
                _signed(row.growth),
                f"{row.sharpe:.2f}",
                _plain(row.volatility),
                _plain(row.max_drawdown),
                _signed(row.utility),
                f"{100.0 * row.turnover:.2f}",
                _plain(row.cost),
                f"{row.exposure:.2f}",
                style="bold" if row.strategy == verdict.policy else "",
            )
    return table


def _variants(verdict: Verdict) -> Table:
    numbers = ("growth\n%/y", "Sharpe", f"{ONE}\ngrowth %/y", "\nSharpe", "difference\n%/y")
    table = figures("at other costs, and with every decision used one bar later", "variant", numbers)
    found: dict[tuple[str, str], Summary] = {(row.strategy, row.variant): row for row in verdict.summaries}
    for (strategy, variant), mine in found.items():
        if strategy == verdict.policy:
            one = found[ONE, variant]
            label = "one bar later" if variant == LAGGED.name else f"costs {variant}"
            values = (_signed(mine.growth), f"{mine.sharpe:.2f}", _signed(one.growth), f"{one.sharpe:.2f}")
            table.add_row(label, *values, _signed(mine.growth - one.growth))
    return table


def _differences(verdict: Verdict) -> Table:
    numbers = ("difference", f"{100.0 * verdict.growth.confidence:g} % interval", "share of resamples above 0")
    table = figures(f"policy minus {ONE}, paired; stationary bootstrap", "measure", numbers)
    parts = (("utility %/y", verdict.utility), ("growth %/y", verdict.growth), ("drawdown %", verdict.drawdown))
    for name, part in parts:
        table.add_row(name, _signed(part.estimate), f"{_signed(part.lower)} to {_signed(part.upper)}", _above(part))
    part = verdict.sharpe
    table.add_row("Sharpe", f"{part.estimate:+.2f}", f"{part.lower:+.2f} to {part.upper:+.2f}", _above(part))
    return table


def baselines_table(verdict: Mapping[str, Any]) -> Table:
    """The policy minus each baseline in utility and Sharpe ratio, from a verdict's document."""
    level = f"{100.0 * verdict['utility']['confidence']:g} % interval"
    table = figures("policy minus each baseline, paired", "baseline", ("utility\n%/y", level, "Sharpe\na year", level))
    for name, part in ({ONE: verdict} | verdict["less"]).items():
        gain, ratio = part["utility"], part["sharpe"]
        useful = (_signed(gain["estimate"]), f"{_signed(gain['lower'])} to {_signed(gain['upper'])}")
        table.add_row(name, *useful, f"{ratio['estimate']:+.2f}", f"{ratio['lower']:+.2f} to {ratio['upper']:+.2f}")
    return table


def print_verdict(console: Console, verdict: Mapping[str, Any]) -> None:
    """The sentence in its frame and the statements below it, from a verdict's document."""
    console.print(Panel(verdict["sentence"], title="verdict", border_style=COLOURS.get(verdict["answer"], "red")))
    for said in verdict["statements"]:
        console.print(wrapped(f"- {said}", 2), markup=False)


def _told(part: Interval, sign: str) -> str:
    return f"{part.estimate:{sign}.2f} ({part.lower:{sign}.2f} to {part.upper:{sign}.2f})"


def _above(part: Interval) -> str:
    return _percent(part.positive)


def _percent(share: float) -> str:
    return f"{_plain(share)} %"


def _plain(share: float) -> str:
    return f"{100.0 * share + 0.0:.1f}"


def _signed(share: float) -> str:
    return f"{100.0 * share + 0.0:+.1f}"


def _years(years: float) -> str:
    if not math.isfinite(years):
        return "none would do, it is not positive"
    return f"{years:,.1f} years" if years < 1000 else "over 1,000 years"
