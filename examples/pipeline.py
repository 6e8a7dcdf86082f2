"""The whole road in one file: bars, features, a trained policy, its verdict, a walk-forward, the gate, one decision.

    python examples/pipeline.py                                  a synthetic market, said so
    python examples/pipeline.py --data BTC-USD_1h.parquet        bars of your own: CSV, CSV.gz, Parquet

Every step is a name of the front door, and each has a command that does the same: `himari train`, `evaluate`,
`walk-forward`, `gate`. Nothing here is special: copy it, change it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from himari_rl import Bars, RiskLimits, StateEncoder, TradingEnvConfig, evaluate, gate, load_bars, train, walk_forward
from himari_rl.data.audit import audit
from himari_rl.data.synthetic import synthetic_bars
from himari_rl.errors import HimariError

ROWS = 8_760  # a year of hours


def bars_of(paths: Sequence[str]) -> Bars:
    """Recorded bars, or a synthetic market: a first look, never a result."""
    return load_bars(paths) if paths else synthetic_bars(ROWS, seed=0)


def main(argv: Sequence[str] | None = None) -> int:
    """Walks the road once; exit code 0 where the gate lets the policy size money, 1 where it does not."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="*", default=[], help="files of bars (default: a synthetic market)")
    parser.add_argument("--out", type=Path, default=Path("runs/pipeline"), help="folder of everything that is written")
    parser.add_argument("--num-episodes", type=int, default=200, help="training budget, in episodes of 500 bars")
    parser.add_argument("--seeds", type=int, default=3, help="agents in the ensemble")
    parser.add_argument("--folds", type=int, default=2, help="newest folds of the walk-forward; 0 is all of them")
    given = parser.parse_args(argv)
    try:
        return pipeline(bars_of(given.data), given.out, given.num_episodes, given.seeds, given.folds)
    except HimariError as error:  # found, expected and cure in one line
        sys.stderr.write(f"{error}\n")
        return error.exit_code


def pipeline(bars: Bars, out: Path, num_episodes: int, seeds: int, folds: int) -> int:
    """Bars to a gate's answer."""
    # 1. What is in the data, before anybody trains on it. Gaps stay gaps.
    report = audit(bars)
    print(f"1. Bars   {len(bars):,} of {bars.symbol} from {bars.source}; gaps {report.gaps}")

    # 2. What a policy sees: sixteen numbers at the close of each bar, from this bar and earlier ones only.
    encoder = StateEncoder(bars.symbols)
    last = encoder.market_rows(bars)[-1]
    print("2. State  " + ", ".join(f"{n} {v:.3g}" for n, v in zip(encoder.names, last, strict=True) if v))

    # 3. What a trade costs and may do. The same ledger trains, judges and serves.
    environment = TradingEnvConfig(commission_rate=0.001, slippage_bps=5.0, limits=RiskLimits(max_leverage=1.0))
    print(f"3. Ledger {environment.describe()}")

    # 4. PPO on the first 80 % of the bars. What comes back is the bundle, loaded: what is judged is what ships.
    policy = train(bars, out=out, environment=environment, num_episodes=num_episodes, seeds=seeds)
    print(f"4. Policy\n{policy}\n")

    # 5. Its verdict on the last 20 %, against multiplier 1.0, with the controls that every verdict must survive.
    found = evaluate(policy, bars)
    print(f"5. Verdict\n{found}\n")

    # 6. One split is not enough to say: train on the past, judge on what follows, month after month.
    run = walk_forward(
        bars,
        out=out / "walk-forward",
        environment=environment,
        train="4mo",
        num_episodes=num_episodes,
        seeds=seeds,
        folds=folds,
    )
    print(f"6. Walk-forward\n{run}\n")

    # 7. May it size money? One refusal refuses.
    answer = gate(run.bundle)
    print(f"7. Gate\n{answer}\n")

    # 8. One decision, as the server would answer it: from cash, at the close of the last bar.
    decision = policy.decide(last)
    print(f"8. Decision  multiplier {decision.multipliers[0]:.3f} of the base position, "
          f"confidence {decision.confidence:.2f}")  # fmt: skip
    return 0 if answer.passed else 1


if __name__ == "__main__":
    sys.exit(main())
