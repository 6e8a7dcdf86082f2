"""Layer 2 signals of your own, from a CSV of events, on the bars: each counts from the close of the bar it came in.

    python examples/own_signals.py BTC-USD_1h.parquet signals.csv
    himari data join BTC-USD_1h.parquet signals.csv --max-age 4h

signals.csv has timestamp and signal_action (BUY, SELL, HOLD), and where known signal_confidence and signal_tier.
"""

import sys
from pathlib import Path

from himari_rl import load_bars, walk_forward
from himari_rl.data.join import described, join_signals
from himari_rl.data.table import read_table
from himari_rl.experiments.adapters import RuleFactory


def sure(states):
    """Twice the base position where Layer 2 is surest, nothing where it guesses."""
    return 2.0 * states[:, 0]


def main(bars: str, signals: str, out: str = "runs/signals", **options: object) -> str:
    """The verdict on sizing by the signals' own confidence."""
    joined = join_signals(load_bars(bars), read_table(Path(signals)))
    print("\n".join(described(joined)))
    run = walk_forward(RuleFactory(sure), joined.bars, out=out, **options)
    print(run)
    return run.judgement.verdict.answer


if __name__ == "__main__":
    main(*sys.argv[1:])
