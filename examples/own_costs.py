"""Costs of your own: fees of each side, and what your size does to the price. The same rule with more and more money.

    python examples/own_costs.py BTC-USD_1h.parquet
    himari walk-forward base --data BTC-USD_1h.parquet --set environment.charges.impact=1.0 \
      --set environment.charges.capital_usd=10000000 --set environment.charges.volume_usd=1000000000
"""

import sys

import numpy as np

from himari_rl import TradingEnvConfig, load_bars
from himari_rl.data.synthetic import synthetic_bars
from himari_rl.evaluation.backtest import POLICY, backtest, stage
from himari_rl.experiments.adapters import RulePolicy
from himari_rl.policy.charges import Charges
from himari_rl.policy.manifest import LedgerSpec
from himari_rl.schema import Bars


def earned(bars: Bars, capital_usd: float) -> float:
    """Log-growth of half in, half out, with so much capital: 30 % of it rests as maker orders, the rest takes."""
    charges = Charges(maker_share=0.3, maker_rate=0.0002, impact=1.0, capital_usd=capital_usd, volume_usd=1e9)
    ledger = LedgerSpec.of(TradingEnvConfig(charges=charges), bars.interval_ms)
    rule = RulePolicy(lambda states: np.where(states[:, 11] > 0.0, 2.0, 0.0))  # in after a rising hour, out after none
    found = backtest({POLICY: rule}, stage(bars, ledger), ledger, rng=np.random.default_rng(0))
    return float(found.run(POLICY).log_growth.sum())


def main(*paths: str) -> list[float]:
    """What is earned with 10 thousand to 100 million dollars."""
    bars = load_bars(paths) if paths else synthetic_bars(8760, seed=0)
    sizes = [1e4, 1e5, 1e6, 1e7, 1e8]
    figures = [earned(bars, capital) for capital in sizes]
    for capital, figure in zip(sizes, figures, strict=True):
        print(f"{capital:>13,.0f} USD   log-growth {figure:+.4f}")
    return figures


if __name__ == "__main__":
    main(*sys.argv[1:])
