"""What the options against overfitting are worth on real bars: a walk-forward that ends where the judged one begins.

    python benchmarks/walk_forward_options.py --data BTC-USDT_1h.parquet --until 2021-04-01 --out runs/options

Every variant is trained on the same folds and plays the same decisions, so differences are paired. It is no verdict and
has no controls: it chooses between recipes. The bars after `--until` are never read, so that the walk-forward over them
does not pay for the choice; every variant is a look at its own span in the trial ledger. Continues where it was killed.
The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from himari_rl.data.sources import load_bars
from himari_rl.evaluation import metrics, statistics
from himari_rl.evaluation.backtest import BASE, backtest, stage
from himari_rl.evaluation.baselines import ONE
from himari_rl.experiments.fold_policies import FoldPolicies, fold_policies
from himari_rl.experiments.recipe import Recipe
from himari_rl.experiments.train_all import train_all
from himari_rl.experiments.walk_forward import REAL, Settings, plan
from himari_rl.policy.manifest import LedgerSpec
from himari_rl.schema import RISK_AVERSION
from himari_rl.training.fan_out import local_pool
from himari_rl.trials.ledger import Trials, look_of, span_of

DEFAULT = "default: 500,000 bars, five seeds"
RECIPES: dict[str, dict[str, Any]] = {
    DEFAULT: {},
    "250,000 bars": {"num_episodes": 500},
    "1,000,000 bars": {"num_episodes": 2_000},
    "2,000,000 bars": {"num_episodes": 4_000},
    "early stopping on the last 20 %": {"validation_fraction": 0.2},
    "4 block-bootstrapped copies": {"bootstrap_paths": 4},
    "1 driftless twin (synthetic)": {"synthetic_paths": 1},
}
AGENTS: dict[str, dict[str, Any]] = {"hidden 8": {"hidden_dim": 8}, "weight decay .1": {"weight_decay": 0.1}}
WARM = "warm start"
ALONE = "one seed alone"


def settings_of(variant: str) -> Settings:
    recipe = replace(Recipe(), **RECIPES.get(variant, {})).with_agent(AGENTS.get(variant, {}))
    return Settings(**vars(recipe), warm_start=variant == WARM)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--until", required=True, help="a day, UTC; later bars are not read")
    parser.add_argument("--out", default="runs/options")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--variants", nargs="*", default=[*RECIPES, *AGENTS, WARM])
    args = parser.parse_args()
    bars = load_bars(args.data)
    border = datetime.fromisoformat(args.until).replace(tzinfo=UTC).timestamp() * 1000
    bars = bars[: int(np.searchsorted(bars.timestamp, border))]
    policies: dict[str, FoldPolicies] = {}
    for variant in dict.fromkeys((DEFAULT, *args.variants)):
        settings = settings_of(variant)
        work = plan(bars, settings, controls=False)
        trained = train_all(work, Path(args.out) / settings.hash, local_pool(args.jobs))
        policies[variant] = fold_policies(work, trained, REAL, settings.seeds)
        if variant == DEFAULT:
            policies |= {f"seed {seed}": fold_policies(work, trained, REAL, (seed,)) for seed in settings.seeds}
        with Trials() as ledger:
            judged = bars[work.start_row : work.stop_row]
            ledger.look("options", *span_of(judged), look_of(settings.hash, judged))
        print(f"trained {variant}", flush=True)
    ledger_spec = LedgerSpec.of(Recipe().environment, bars.interval_ms)
    on = stage(bars[: work.stop_row], ledger_spec, work.start_row)
    result = backtest(policies, on, ledger_spec, variants=(BASE,), rng=np.random.default_rng(0))

    def utility(name: str) -> np.ndarray:
        run = result.run(name)
        return metrics.utility_per_bar(run.log_growth, run.portfolio_return, RISK_AVERSION)

    year = result.bars_per_year
    seeds = [name for name in policies if name.startswith("seed ")]
    per_bar = {name: utility(name) for name in policies if name not in seeds}
    per_bar[ALONE] = np.mean([utility(name) for name in seeds], axis=0)
    print(f"{len(result):,} decisions in {len(work.folds)} folds; utility over multiplier 1.0, and over the default")
    found = {}
    for name, mine in per_bar.items():
        over_one = statistics.mean_interval(mine - utility(ONE), np.random.default_rng(1)).scaled(100 * year)
        paired = statistics.mean_interval(mine - per_bar[DEFAULT], np.random.default_rng(1)).scaled(100 * year)
        growths = [result.run(s).log_growth for s in (seeds if name == ALONE else [name])]
        sharpe = float(np.mean([metrics.sharpe(growth, year) for growth in growths]))
        found[name] = {"utility": over_one.estimate, "over_default": paired.estimate, "sharpe": sharpe}
        told = [f"{i.estimate:+6.1f} ({i.lower:+6.1f} to {i.upper:+6.1f})" for i in (over_one, paired)]
        print(f"{name:36s}{told[0]}   {told[1]}   Sharpe {sharpe:+.2f}")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
