"""A measured portfolio for the eye: its gates, and what each asset did."""

from __future__ import annotations

from rich.console import Console

from himari_rl.evaluation.portfolio import PortfolioMeasures
from himari_rl.evaluation.portfolio_baselines import EQUAL
from himari_rl.evaluation.statistics import Interval
from himari_rl.evaluation.terminal import figures


def render_portfolio(portfolio: PortfolioMeasures, console: Console) -> None:
    """Prints the gates beside their intervals, and each asset's part."""
    title = f"gates of the portfolio, and the policy minus {EQUAL}, paired; 95 %"
    gates = figures(title, "measure", ("gate", "policy", f"minus {EQUAL}", "passed"))
    for gate in portfolio.gates:
        answer = "yes" if gate.sure else "yes, not surely" if gate.passed else "no"
        demand = f"{gate.comparison} {gate.threshold:g}"
        gates.add_row(gate.name, demand, _told(gate.value, ""), _told(gate.difference, "+"), answer)
    console.print(gates)
    parts = figures("what each asset did", "asset", ("share of\nexposure %", "growth\n%/y", "share of\nrisk %"))
    for part in portfolio.parts:
        numbers = (f"{100 * part.share:.1f}", f"{100 * part.growth:+.1f}", f"{100 * part.risk:.1f}")
        parts.add_row(part.symbol, *numbers)
    console.print(parts)
    console.print(
        f"Diversification ratio of the mean exposure: {portfolio.diversification_ratio:.3f} (1 is one asset)."
    )


def _told(part: Interval, sign: str) -> str:
    return f"{part.estimate:{sign}.2f} ({part.lower:{sign}.2f} to {part.upper:{sign}.2f})"
