"""An agent of Stable-Baselines3, trained in our ledger for every fold and for both controls, judged and gated.

python examples/judge_sb3.py BTC-USD_1h.parquet
himari walk-forward sb3:PPO:total_timesteps=20000 --data BTC-USD_1h.parquet --folds 6 --out runs/sb3

One that is trained already: `himari walk-forward sb3:mine.zip`, Sb3File("mine.zip") in place of Sb3Factory("PPO", ...).
"""

import sys

from himari_rl import gate, load_bars, walk_forward
from himari_rl.data.synthetic import synthetic_bars
from himari_rl.experiments.sb3 import Sb3Factory


def main(*paths: str, out: str = "runs/sb3", total_timesteps: int = 20_000, **options: object) -> bool:
    """Whether the gate lets the agent size money."""
    agent = Sb3Factory("PPO", total_timesteps=total_timesteps)
    bars = load_bars(paths) if paths else synthetic_bars(8760, seed=0)
    run = walk_forward(agent, bars, out=out, **({"folds": 6} | options))
    print(run)
    print(gate(run.bundle))
    return gate(run.bundle).passed


if __name__ == "__main__":
    main(*sys.argv[1:])
