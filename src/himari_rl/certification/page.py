"""The page of `himari certify --html`: the learned policy drawn over the optimal no-trade band of each market."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from himari_rl.card.blocks import (
    Cell,
    Drawing,
    Drawings,
    Grid,
    Page,
    Prose,
    Row,
    Section,
    number,
    percent,
    verdict_mark,
)
from himari_rl.card.drawing import Plot
from himari_rl.card.template import render
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

    Raises:
        ConfigError: Jinja2 is not installed.
    """
    fell = [c.market for c in certificates if not c.passed]
    count = len(certificates)
    said = f"{count - len(fell)} of {count} market{'s' * (count != 1)} at the threshold"
    mark = verdict_mark(not fell, said, said)
    rows: list[Row] = [
        [
            c.market,
            number(c.median, 3),
            number(c.worst, 3),
            number(c.seconds, 1),
            verdict_mark(c.passed, "passed", "fell short"),
        ]
        for c in certificates
    ]
    lead = (
        "Between the two edges the optimal policy does not trade. Shares are of the optimum's growth over standing "
        "aside, under the market's known law."
    )
    summary = Section(
        name="verdict",
        title="",
        blocks=[
            Prose(lines=[mark.text], style=f"answer {mark.style}"),
            Prose(lines=["What the learner reached, and what there was to reach"], style="sentence"),
            Prose(lines=[lead], style="note"),
            Grid(head=("market", "median", "worst", "training, s", ""), rows=rows, prose=frozenset({4}), look="narrow"),
        ],
    )
    # a market may stand there twice, an anchor may not
    drawn = [_section(c, f"market-{k}", policies) for k, c in enumerate(certificates)]
    return render(Page(what="himari certify", title="Markets whose optimum is known", sections=[summary, *drawn]))


def _section(certificate: Certificate | HistoryCertificate, anchor: str, policies: Mapping[str, Policy]) -> Section:
    mark: Cell = verdict_mark(certificate.passed, "passed", "fell short")
    shares = ", ".join(number(share, 3) for share in certificate.shares)
    drawings = history_chart(certificate) if isinstance(certificate, HistoryCertificate) else None
    if isinstance(certificate, Certificate) and certificate.market in policies:
        drawings = band_chart(certificate, policies[certificate.market])
    return Section(
        name=anchor,
        title=certificate.market,
        short=certificate.market,
        blocks=[
            Prose(lines=[mark.text], style=f"answer {mark.style}"),
            Prose(lines=[f"{certificate.reason}. Seeds: {shares}."]),
            *([] if drawings is None else [drawings]),
        ],
    )


def band_chart(certificate: Certificate, policy: Policy) -> Drawings | None:
    """Both edges of the learned band over those of the optimal one; None for a market that shows no single number."""
    market, _ = market_for(certificate.market)
    if isinstance(market, HiddenRegime | PortfolioMarket | Trap):
        return None
    best = solution(market)
    few = len(best.states) <= 9  # regimes, not a score
    x = np.asarray(best.states if few else np.linspace(-2.5, 2.5, 101), float)
    optimal, learned = best.band(x), learned_band(market, policy, x)
    label = "cascade_risk" if market.shows == "cascade_risk" else "z"
    room = 0.08 * float(np.ptp(x)) if few else 0.0
    plot = Plot(
        x=(float(x[0]) - room, float(x[-1]) + room),
        y=(-0.02, 1.02),
        x_label=label,
        y_label="exposure",
        says=f"No-trade band by {label}: optimal and learned",
    )
    for edges, style in ((optimal, "c-other"), (learned, "c-policy")):
        for edge in edges:
            draw = plot.dots if few else plot.line
            draw(x.tolist(), np.asarray(edge, float).tolist(), style)
    key = [("c-other", "optimal: buy below the lower, sell above the upper"), ("c-policy", "learned")]
    return Drawings(drawings=[Drawing(title=f"No-trade band by {label}", svg=plot.svg())], key=key)


def history_chart(certificate: HistoryCertificate) -> Drawings:
    """Utility a year of every seed, beside the optimum, multiplier 1.0 and the banded one-liner on the same bars."""
    first = certificate.attempts[0].grade
    bars = {"1.0": first.one, "banded": first.banded}
    bars |= {f"{a.seed}": a.grade.utility for a in certificate.attempts} | {"optimum": first.optimum}
    low, high = min(0.0, *bars.values()), max(0.0, *bars.values())
    plot = Plot(
        x=(-0.6, len(bars) - 0.4),
        y=(100.0 * low, 100.0 * (high + 0.05 * (high - low))),
        x_names=list(bars),
        x_label="multiplier 1.0, banded 15 %, each seed, the optimum",
        y_label="utility, % a year",
        says="; ".join(f"{name} {percent(value)}" for name, value in bars.items()),
    )
    for k, (name, value) in enumerate(bars.items()):
        style = "c-policy" if name.isdigit() else "c-other"
        plot.bar(k - 0.35, k + 0.35, 100.0 * min(0.0, value), 100.0 * max(0.0, value), style)
    return Drawings(
        drawings=[Drawing(title="Utility a year", svg=plot.svg())],
        key=[("c-policy", "seeds"), ("c-other", "multiplier 1.0, banded 15 % volatility, the optimum")],
    )
