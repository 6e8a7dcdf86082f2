"""A policy on one page, for people: what `print(policy)` shows. Every line is a fact of the manifest."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from himari_rl.policy.ledger_config import LedgerConfig
from himari_rl.policy.manifest import Manifest

KINDS = {
    "base": "feed-forward, without memory",
    "lstm": "recurrent: pass back the memory of each decision",
    "multi": "several assets together",
    "external": "somebody's own code, named with its hash",
}
BELIEVES = "a multiple of 15 % volatility, remembered: pass back the memory of each decision"


def policy_page(manifest: Manifest) -> str:
    """Version, kind, symbols, what it was trained on and in, how it was judged, and what the gate said."""
    data, network, seeds = manifest.training_data, manifest.network, manifest.seeds
    layers = f"{network.lstm_layers} x LSTM {network.lstm_hidden} + " if network.lstm_layers else ""
    hidden = " x ".join(map(str, network.hidden)) or "linear"
    market = "an artificial market, " if data.synthetic else ""
    judged = manifest.evaluation or {}
    lines = {
        "policy": manifest.version,
        "kind": f"{manifest.kind}, {BELIEVES if manifest.beliefs else KINDS[manifest.kind]}",
        "symbols": ", ".join(manifest.symbols),
        "state": f"{manifest.state_dim} numbers in, a multiplier in [0, 2] for each symbol out",
        "network": f"{layers}{hidden}, head {network.head}",
    }
    if manifest.external is not None:
        code = manifest.external
        lines["network"] = f"none: {code.name}, sha256 {code.sha256[:12]}, kept as {code.kept}"
    lines |= {
        "seeds": f"{', '.join(map(str, seeds))}" + (f" (mean of {len(seeds)})" if len(seeds) > 1 else ""),
        "trained on": f"{market}{data.source}",
        "bars": f"{data.rows:,} of {data.interval_ms / 60_000:g} minutes, {data.start} to {data.end}",
        "ledger": _ledger(manifest.ledger.config),
        "evaluation": str(judged.get("sentence", "none: this policy has not been judged")),
        "gate": _gate(manifest.gate),
        "made": f"{manifest.created_at} by {manifest.code_version}, {'signed' if manifest.signature else 'not signed'}",
    }
    return "\n".join(f"{name:<11} {text}" for name, text in lines.items())


def _ledger(config: LedgerConfig) -> str:
    side = "long and short" if config.allow_short else "long only"
    cost = f"commission {config.commission_rate * 1e4:g} bps + slippage {config.slippage_bps:g} bps of what is traded"
    return f"{side}, base position {config.max_position_pct:.0%} of equity, {cost}"


def _gate(said: Mapping[str, Any] | None) -> str:
    if said is None:
        return "not asked: nothing has released this policy"
    exceptions = said.get("exceptions") or []
    found = str(said.get("reason") or ("passed" if said.get("passed") else "refused"))
    return found + (f", with exceptions: {', '.join(map(str, exceptions))}" if exceptions else "")
