"""A rule of your own, judged like anything that was trained: folds, controls, gate.

python examples/judge_rule.py                                a synthetic market: a first look, never a result
himari walk-forward rule:examples/judge_rule.py:steady --data BTC-USD_1h.parquet --out runs/steady
"""

import sys

import numpy as np

from himari_rl import gate, load_bars, walk_forward
from himari_rl.data.synthetic import synthetic_bars
from himari_rl.experiments.adapters import RuleFactory


def steady(states):
    """15 % volatility a year: state 14 is the volatility of an hour / 0.1, and multiplier 1 is half of the equity."""
    return 0.15 / (states[:, 13] * 0.1 * np.sqrt(8760.0) + 1e-9) / 0.5


def main(*paths: str, out: str = "runs/steady", **options: object) -> bool:
    """Whether the gate lets the rule size money."""
    bars = load_bars(paths) if paths else synthetic_bars(8760, seed=0)
    run = walk_forward(RuleFactory(steady), bars, out=out, **options)
    print(run)
    print(gate(run.bundle))
    return gate(run.bundle).passed


if __name__ == "__main__":
    main(*sys.argv[1:])
