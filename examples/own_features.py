"""A feature of your own: a numeric column of the data, seen by the policy after the sixteen numbers, and leak-tested.

himari features check mine.py:build --data BTC-USD_1h.parquet        does your code know later bars?
himari walk-forward examples/own_features.py:factory --data with_basis.parquet --features basis --out runs/basis
"""

import sys
from dataclasses import dataclass

import numpy as np

from himari_rl import StateEncoder, gate, load_bars, walk_forward
from himari_rl.features.own import with_features


@dataclass
class BySlope:
    """1.0, and more where the own feature has been followed by gains."""

    slope: float

    def decide_batch(self, states, memory=None):
        """Multipliers (B, 1); number 16 is the first own feature."""
        return np.clip(1.0 + self.slope * states[:, 16:17], 0.0, 2.0), memory


def factory(train, seed):
    """A straight line from the feature to the return that a decision earns."""
    seen = StateEncoder.of(train).market_rows(train)[:-2, 16]
    earned = train.open[2:] / train.open[1:-1] - 1.0
    return BySlope(float(np.polyfit(seen, earned, 1)[0] / earned.var() / 7.7))


def main(path: str, *names: str, out: str = "runs/own-features", **options: object) -> bool:
    """Whether the gate lets it size money."""
    run = walk_forward(factory, with_features(load_bars(path), names), out=out, **options)
    print(run)
    answer = gate(run.bundle)
    print(answer.reason)
    return answer.passed


if __name__ == "__main__":
    main(*sys.argv[1:])
