"""What the options against overfitting are worth where the truth is known: M2 and M4 with one history of 35,000 bars.

    python benchmarks/one_history.py --histories 5

Every history is learned by every variant, so differences are paired; shares of the optimum on the same fresh paths.
The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch

from himari_rl.agents.config import PPOConfig
from himari_rl.certification.attempts import (
    GRADING_SEED,
    bundle_of,
    config_for,
    draw_training,
    encoder_for,
    environment_for,
    market_for,
    training_market,
)
from himari_rl.certification.grading import grade
from himari_rl.certification.law import Paths
from himari_rl.certification.observe import visible
from himari_rl.certification.thresholds import Budget
from himari_rl.data.splits import PURGE_BARS
from himari_rl.data.surrogates import BLOCK_BARS
from himari_rl.envs.physics import Physics
from himari_rl.experiments.folds import MEASURED_BARS, EarlyStopping
from himari_rl.policy.protocol import DecidesBatch
from himari_rl.schema import FloatArray
from himari_rl.training.job import train_agent

CHAINS = 2_000
VARIANTS: dict[str, dict[str, float]] = {
    "default, 500,000 bars": {},
    "250,000 bars": {"bars": 250_000},
    "1,000,000 bars": {"bars": 1_000_000},
    "2,000,000 bars": {"bars": 2_000_000},
    "early stopping on the last 20 %": {"validation": 0.2},
    "2,000,000 bars with early stopping": {"bars": 2_000_000, "validation": 0.2},
    "4 block-bootstrapped copies": {"copies": 4},
    "mirrored copy": {"mirror": 1},
    "1 driftless twin (synthetic)": {"twins": 1},
    "hidden 8": {"hidden_dim": 8},
    "weight decay .1": {"weight_decay": 0.1},
    "ensemble of 5 seeds": {"members": 5},
}


class Mean:
    """An ensemble: the mean of its members, as a bundle of several seeds answers."""

    def __init__(self, members: list[DecidesBatch]) -> None:
        self.members = members

    def decide_batch(self, states: FloatArray, memory: FloatArray | None = None) -> tuple[FloatArray, FloatArray]:
        return np.mean([member.decide_batch(states)[0] for member in self.members], axis=0), np.empty(0)


def bootstrap(path: Paths, rng: np.random.Generator) -> Paths:
    """One more history of the same length, of blocks of this one."""
    rows = path.x.shape[1]
    starts = rng.integers(0, rows - BLOCK_BARS + 1, -(-rows // BLOCK_BARS))
    pick = (starts[:, None] + np.arange(BLOCK_BARS)).ravel()[:rows]
    return Paths(path.x[:, pick], path.state[:, pick], path.returns[:, pick])


def joined(parts: list[Paths]) -> Paths:
    return Paths(*(np.concatenate([getattr(part, name) for part in parts]) for name in ("x", "state", "returns")))


def learned(name: str, history: int, seed: int, how: dict[str, float]) -> DecidesBatch:
    """One agent on one history."""
    market, one = market_for(name)
    path = draw_training(market, Budget(), one, history)
    rng = np.random.default_rng([history, seed, 7])
    judge = None
    if "validation" in how:
        cut = round(path.x.shape[1] * (1.0 - how["validation"]))
        held_out = Paths(*(getattr(path, leaf)[:, cut:] for leaf in ("x", "state", "returns")))
        path = Paths(*(getattr(path, leaf)[:, : cut - PURGE_BARS] for leaf in ("x", "state", "returns")))
        short = replace(environment_for(market), episode_bars=MEASURED_BARS)
        judge = Physics(training_market(market, held_out)[1], short, encoder_for(market))
    copies = [bootstrap(path, rng) for _ in range(int(how.get("copies", 0)))]
    if "mirror" in how:
        copies.append(Paths(-path.x, -path.state, -path.returns))
    signs = [rng.choice((-1.0, 1.0), path.returns.shape) for _ in range(int(how.get("twins", 0)))]
    copies += [Paths(path.x, path.state, path.returns * sign) for sign in signs]
    rows, built = training_market(market, joined([path, *copies]))
    physics = Physics(built, environment_for(market), encoder_for(market))
    changed = {k: how[k] for k in ("hidden_dim", "weight_decay") if k in how}
    config = replace(config_for(market, PPOConfig()), **changed)  # type: ignore[arg-type]
    stopping = EarlyStopping(judge)
    bars = int(how.get("bars", 500_000))
    drawn = 1000 * history + seed
    trainer = train_agent(physics, config, rows, bars, drawn, visible=visible(market), watch=stopping)
    stopping.restore(trainer.agent)
    with tempfile.TemporaryDirectory() as folder:
        return bundle_of(name, trainer, rows, drawn, Path(folder) / "bundle")


def share(task: tuple[str, int, str]) -> tuple[str, str, float]:
    """(market, variant, share of the optimum) of one history."""
    name, history, variant = task
    torch.set_num_threads(1)
    how = VARIANTS[variant]
    members = [learned(name, history, seed, how) for seed in range(int(how.get("members", 1)))]
    policy = members[0] if len(members) == 1 else Mean(members)
    return name, variant, grade(market_for(name)[0], policy, GRADING_SEED, chains=CHAINS).share


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--histories", type=int, default=5)
    parser.add_argument("--first", type=int, default=500)
    parser.add_argument("--markets", nargs="+", default=["M2-one-history", "M4-one-history"])
    parser.add_argument("--variants", nargs="*", default=list(VARIANTS))
    parser.add_argument("--jobs", type=int, default=2)
    args = parser.parse_args()
    tasks = [(m, args.first + h, v) for v in args.variants for m in args.markets for h in range(args.histories)]
    found: dict[str, dict[str, list[float]]] = {}
    with ProcessPoolExecutor(args.jobs, mp_context=get_context("spawn")) as pool:
        for market, variant, value in pool.map(share, tasks):
            found.setdefault(variant, {}).setdefault(market, []).append(value)
            done = found[variant]
            if all(len(done.get(m, [])) == args.histories for m in args.markets):
                cells = [f"{np.median(done[m]):.3f} ({min(done[m]):.3f}-{max(done[m]):.3f})" for m in args.markets]
                print(f"{variant:38s}" + "  ".join(cells), flush=True)
    base = found.get("default, 500,000 bars", {})
    for variant, by_market in found.items():
        if base and variant != "default, 500,000 bars":
            gains = {m: np.array(v) - np.array(base[m]) for m, v in by_market.items()}
            told = ", ".join(
                f"{m} {g.mean():+.4f} +- {g.std(ddof=1) / np.sqrt(len(g)):.4f}" for m, g in gains.items() if len(g) > 1
            )
            print(f"over the default, paired: {variant}: {told}")
    print(json.dumps({"shares": found}))


if __name__ == "__main__":
    main()
