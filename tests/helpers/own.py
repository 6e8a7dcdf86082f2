"""Markets with own features, one of which knows the drift of the next bar, and small policies that read them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from helpers.stream import market, said
from himari_rl.agents.config import LSTMPPOConfig, MultiPPOConfig, PPOConfig
from himari_rl.data.panel import Panel, panel_of
from himari_rl.data.surrogates import planted
from himari_rl.data.synthetic import synthetic_bars
from himari_rl.experiments.train import train
from himari_rl.schema import Bars

NAMES = ("x", "y")
EDGE = 0.125
KINDS = ("base", "recurrent", "multi")
"""With beliefs; the recurrent PPO on raw returns; two assets with beliefs."""
_SMALL: dict[str, Any] = {"num_envs": 20, "hidden_dim": 8, "minibatch": 500}


def told(bars: Bars, seed: int = 0) -> Bars:
    """The same bars with two more columns, which know nothing."""
    rng = np.random.default_rng(seed)
    return replace(bars, extra={"y": rng.normal(0.0, 3.0, len(bars)), "x": rng.uniform(-1.0, 1.0, len(bars))})


def market_of_x(days: int, seed: int = 0, edge: float = EDGE) -> Bars:
    """A market whose drift only the column x knows: Layer 2 says BUY, with a confidence that means nothing."""
    known = planted(synthetic_bars(24 * days, seed), np.random.default_rng(seed + 3), edge)
    assert known.signals is not None
    rng = np.random.default_rng(seed + 1)
    quiet = replace(known.signals, confidence=rng.uniform(0.4, 0.6, len(known)))
    extra = {"x": known.signals.confidence, "y": rng.normal(0.0, 3.0, len(known))}
    return replace(known, signals=quiet, extra=extra, synthetic=False)


def markets(kind: str, rows: int) -> list[Bars]:
    """Streams of each symbol of a kind, with signals, funding, bars without volume, and both columns."""
    symbols = ("BTC-USDT", "ETH-USDT") if kind == "multi" else ("BTC-USDT",)
    return [told(market(symbol, seed, rows), seed) for seed, symbol in enumerate(symbols, start=5)]


def history_of(every: Sequence[Bars]) -> Bars | Panel:
    return every[0] if len(every) == 1 else panel_of(every)


def trained(folder: Path, kind: str, every: Sequence[Bars], features: Sequence[str] = NAMES) -> Path:
    """The bundle of a policy that was trained for a moment."""
    agents = {
        "base": PPOConfig(**_SMALL),
        "recurrent": LSTMPPOConfig(**_SMALL, lstm_hidden_dim=4, lstm_num_layers=1, beliefs=False),
        "multi": MultiPPOConfig(**_SMALL),
    }
    options: dict[str, Any] = {"num_episodes": 2, "seeds": 1}
    name = {"recurrent": "lstm"}.get(kind, kind)
    train(history_of(every), name, out=folder, agent=agents[kind], features=features, **options)
    return folder / "bundle"


def line_of(bars: Bars, row: int, names: Sequence[str] = NAMES, **changes: Any) -> dict[str, Any]:
    """The signal of one closed bar with its features."""
    return said(bars, row, features={name: float(bars.extra[name][row]) for name in names}, **changes)
