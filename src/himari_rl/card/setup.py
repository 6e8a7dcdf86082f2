"""In what the policy was judged, as sections: fees and limits, data and its coverage, settings, cost of the run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from himari_rl.card.blocks import (
    Cell,
    Folded,
    Grid,
    Prose,
    Row,
    Section,
)
from himari_rl.policy.ledger_config import LedgerConfig

_PARTS = (  # what each part of LedgerConfig.describe() is
    "costs per unit of traded notional",
    "short positions",
    "base position, of equity",
    "gross exposure, of equity",
    "daily loss stop, of equity",
    "multiplier caps: NORMAL / HIGH_VOL / CRISIS / CASCADE",
)


def ledger(config: LedgerConfig) -> Section:
    """Fees and limits."""
    limits = config.limits
    starts = (
        ("HIGH_VOL", "20-bar volatility", limits.high_vol_volatility),
        ("CRISIS", "20-bar volatility", limits.crisis_volatility),
        ("CRISIS", "cascade risk", limits.crisis_risk),
        ("CASCADE", "cascade risk", limits.cascade_risk),
    )
    entered = "; ".join(f"{regime} from {what} {level:g}" for regime, what, level in starts if np.isfinite(level))
    parts = config.describe().split(", ")
    names = (*_PARTS, *[""] * len(parts))[: len(parts)]
    rows = [*zip(names, parts, strict=True), ("regimes", entered or "never entered")]
    grid = Grid(head=("what", "in the ledger that judged"), rows=rows, prose=frozenset({1}))
    return Section(name="ledger", short="ledger", title="Fees and limits", blocks=[grid])


def facts(found: Sequence[Mapping[str, Any]], accepted: Sequence[str], data: Mapping[str, Any]) -> Section:
    """What the data says of itself.

    Args:
        data: the document's own lines on it: source, digest, rows, span ...
    """
    rows: list[Row] = []
    for fact in found:
        level = "accepted" if fact["name"] in accepted else fact["level"]
        rows.append([fact["name"], Cell(level, "mark worse" if level == "refusal" else "mark soft"), fact["sentence"]])
    blocks: list[Any] = []
    if rows:
        blocks.append(Grid(head=("fact", "", "what was found"), rows=rows, prose=frozenset({1, 2})))
    else:
        blocks.append(Prose(lines=["Nothing was recorded."]))
    if data:
        lines = [[name, str(value)] for name, value in data.items()]
        blocks.append(Grid(head=("data", ""), rows=lines, prose=frozenset({1})))
    return Section(name="data", short="data", title="What the data says of itself", blocks=blocks)


def settings(found: Mapping[str, Any], digest: str) -> Section:
    """Every setting, with the hash of all of them."""
    rows = [[name, value] for name, value in _flat(found)]
    grid = Grid(head=("setting", "value"), rows=rows, prose=frozenset({1}), look="narrow")
    summary = f"{len(rows)} settings" + (f", hash {digest}" if digest else "")
    return Section(name="settings", title="Settings", blocks=[Folded(summary=summary, blocks=[grid])])


def _flat(found: Mapping[str, Any], before: str = "") -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    for name, value in found.items():
        if isinstance(value, Mapping):
            rows += _flat(value, f"{before}{name}.")
        else:
            rows.append((f"{before}{name}", ", ".join(map(str, value)) if isinstance(value, list) else str(value)))
    return rows


def cost(found: Mapping[str, Any], budget: str) -> Section:
    """Seconds and money of the run."""
    line = (
        f"{found['seconds']:,.0f} s in all, {found['training_seconds']:,.0f} s of it training on "
        f"{found['bars_trained']:,} bars; {found['usd']:.4f} USD at {found['usd_per_hour']:.2f} USD an hour."
    )
    lines = [line, *([f"{budget[:1].upper()}{budget[1:]}."] if budget else [])]
    return Section(name="cost", title="What it cost", blocks=[Prose(lines=lines)])
