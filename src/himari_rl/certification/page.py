"""One small HTML page: the learned policy drawn over the optimal no-trade band of each market. Works offline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from himari_rl.certification.attempts import market_for
from himari_rl.certification.certificates import Certificate
from himari_rl.certification.generators import HiddenRegime, Trap
from himari_rl.certification.grading import MAX_POSITION_PCT
from himari_rl.certification.history_certificates import HistoryCertificate
from himari_rl.certification.law import KnownMarket
from himari_rl.certification.observe import market_rows
from himari_rl.certification.portfolios import PortfolioMarket
from himari_rl.certification.solvers.optimum import solution
from himari_rl.features.encoder import write_account
from himari_rl.policy.runtime import Policy
from himari_rl.schema import FloatArray

HELD = np.linspace(0.0, 1.0, 101)


def learned_band(market: KnownMarket, policy: Policy, x: FloatArray) -> tuple[FloatArray, FloatArray]:
    """(X,) lowest and highest exposure the policy keeps, over everything that may be held, for each visible x (X,)."""
    rows = np.repeat(market_rows(market, x[:, None]), len(HELD), axis=0)
    held = np.tile(HELD, len(x))[:, None]
    none = np.zeros_like(held)
    write_account(rows, held, none, none + 0.5, MAX_POSITION_PCT)
    wanted = policy.decide_batch(rows)[0].reshape(len(x), len(HELD)) * MAX_POSITION_PCT
    return wanted[:, 0], wanted[:, -1]


def certificate_page(certificates: Sequence[Certificate | HistoryCertificate], policies: Mapping[str, Policy]) -> str:
    """The whole page.

    Args:
        policies: by market, the one whose share is the median.
    """
    import plotly.graph_objects as go

    parts = []
    library: str | bool = "inline"  # plotly itself goes in once, with the first chart
    for certificate in certificates:
        if isinstance(certificate, HistoryCertificate):
            figure, library = history_chart(certificate, library), False
            parts.append(_section(certificate, figure))
            continue
        market, _ = market_for(certificate.market)
        drawable = not isinstance(market, HiddenRegime | PortfolioMarket | Trap)
        figure = ""
        if drawable and certificate.market in policies:
            best = solution(market)
            few = len(best.states) <= 9  # regimes, not a score
            x = best.states if few else np.linspace(-2.5, 2.5, 101)
            low, high = best.band(x)
            ours_low, ours_high = learned_band(market, policies[certificate.market], x)
            label = "cascade_risk" if market.shows == "cascade_risk" else "z"
            mode = "markers" if few else "lines"
            chart = go.Figure(layout={"template": "plotly_white", "height": 320, "margin": {"t": 20, "b": 40}})
            for y, name, colour in (
                (low, "optimal: buy below", "#9aa5b1"),
                (high, "optimal: sell above", "#9aa5b1"),
                (ours_low, "learned: buy below", "#0b7285"),
                (ours_high, "learned: sell above", "#d9480f"),
            ):
                chart.add_scatter(x=x, y=y, name=name, mode=mode, line={"color": colour, "width": 2})
            chart.update_xaxes(title=label)
            chart.update_yaxes(title="exposure", range=[-0.02, 1.02])
            figure, library = chart.to_html(full_html=False, include_plotlyjs=library), False
        parts.append(_section(certificate, figure))
    style = (
        "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#212529}"
        "small{font-weight:400}.passed{color:#2b8a3e}.fell{color:#c92a2a}section{margin-bottom:2.5rem}"
    )
    return (
        "<!doctype html><html lang='en'><meta charset='utf-8'><title>himari certify</title>"
        f"<style>{style}</style><h1>What the learner reached, and what there was to reach</h1>"
        "<p>Between the two edges the optimal policy does not trade. Shares are of the optimum's growth over standing "
        f"aside, under the market's known law.</p>{''.join(parts)}</html>\n"
    )


def _section(certificate: Certificate | HistoryCertificate, figure: str) -> str:
    mark = "passed" if certificate.passed else "fell short"
    shares = ", ".join(f"{share:.3f}" for share in certificate.shares)
    return (
        f"<section><h2>{certificate.market} <small class='{mark.split()[0]}'>{mark}</small></h2>"
        f"<p>{certificate.reason}. Seeds: {shares}.</p>{figure}</section>"
    )


def history_chart(certificate: HistoryCertificate, library: str | bool) -> str:
    """Utility a year of every seed, beside the optimum, multiplier 1.0 and the banded one-liner on the same bars."""
    import plotly.graph_objects as go

    first = certificate.attempts[0].grade
    bars = {"multiplier 1.0": first.one, "banded 15 %": first.banded}
    bars |= {f"seed {a.seed}": a.grade.utility for a in certificate.attempts} | {"optimum": first.optimum}
    yardsticks = ("multiplier 1.0", "banded 15 %", "optimum")
    colours = ["#9aa5b1" if name in yardsticks else "#0b7285" for name in bars]
    chart = go.Figure(layout={"template": "plotly_white", "height": 280, "margin": {"t": 20, "b": 40}})
    chart.add_bar(x=list(bars), y=[100.0 * value for value in bars.values()], marker={"color": colours})
    chart.update_yaxes(title="utility, % a year")
    return str(chart.to_html(full_html=False, include_plotlyjs=library))
