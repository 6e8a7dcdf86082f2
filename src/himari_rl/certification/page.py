"""One small HTML page: the learned policy drawn over the optimal no-trade band of each market. Works offline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from himari_rl.certification.attempts import market_for
from himari_rl.certification.certificates import Certificate
from himari_rl.certification.grading import MAX_POSITION_PCT
from himari_rl.certification.markets import HiddenRegime, KnownMarket, PortfolioMarket, Trap
from himari_rl.certification.observe import market_rows
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


def certificate_page(certificates: Sequence[Certificate], policies: Mapping[str, Policy]) -> str:
    """The whole page.

    Args:
        policies: by market, the one whose share is the median.
    """
    import plotly.graph_objects as go

    parts = []
    library: str | bool = "inline"  # plotly itself goes in once, with the first chart
    for certificate in certificates:
        market, _ = market_for(certificate.market)
        drawable = not isinstance(market, HiddenRegime | PortfolioMarket | Trap)
        figure = ""
        if drawable and certificate.market in policies:
            best = solution(market)
            two_states = len(best.states) <= 2
            x = best.states if two_states else np.linspace(-2.5, 2.5, 101)
            low, high = best.band(x)
            ours_low, ours_high = learned_band(market, policies[certificate.market], x)
            label = "cascade_risk" if market.shows == "cascade_risk" else "z"
            mode = "markers" if two_states else "lines"
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
        mark = "passed" if certificate.passed else "fell short"
        shares = ", ".join(f"{share:.3f}" for share in certificate.shares)
        parts.append(
            f"<section><h2>{certificate.market} <small class='{mark.split()[0]}'>{mark}</small></h2>"
            f"<p>{certificate.reason}. Seeds: {shares}.</p>{figure}</section>"
        )
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
