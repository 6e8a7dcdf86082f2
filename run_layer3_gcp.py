"""Layer 3 in one readable file: bars in, a judged policy bundle out. Every other way in is this with more options.

    python run_layer3_gcp.py --data BTC-USD_1h.parquet --model-dir runs/layer3

The bundle in MODEL_DIR/bundle is what cloud_run/api_server.py serves. Exit code 0: better than multiplier 1.0;
1: not, so keep 1.0; 2: something is wrong with the input.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.console import Console

from himari_rl import load_policy
from himari_rl.data.audit import audit
from himari_rl.data.sources import load_bars
from himari_rl.data.splits import train_test
from himari_rl.errors import HimariError
from himari_rl.evaluation.backtest import POLICY, backtest, stage
from himari_rl.evaluation.display import render
from himari_rl.evaluation.verdict import BETTER, Verdict, judge
from himari_rl.training.job import Job, run_job


def pipeline(data: Sequence[str], model_dir: Path, job: Job, console: Console) -> Verdict:
    """Bars -> audit -> training -> bundle -> verdict on the bars that training never saw."""
    bars = load_bars(data)
    report = audit(bars)
    console.print(f"{report.rows:,} bars of {report.symbol}, {report.gaps:,} gaps, sha256 {report.sha256}")
    for leak in report.suspected_leaks:
        console.print(f"suspected leak: {leak.message}", style="yellow", markup=False)

    trained = run_job(job, bars, model_dir)
    console.print(f"trained on {trained.bars:,} bars in {trained.seconds:.1f} s: {trained.bundle}")

    policy = load_policy(trained.bundle)  # what is judged is what ships
    _, test = train_test(bars, job.test_fraction, purge_bars=0)
    rng = np.random.default_rng(job.seeds[0])
    ground = stage(bars, policy.manifest.ledger, len(bars) - len(test))
    verdict = judge(backtest({POLICY: policy}, ground, policy.manifest.ledger, rng=rng), rng)
    render(verdict, console)
    return verdict


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the pipeline on one history."""
    parser = argparse.ArgumentParser(prog="run_layer3_gcp.py", description="Bars in, a judged policy bundle out.")
    parser.add_argument("--data", nargs="+", required=True, help="CSV, CSV.gz, Parquet files or a folder")
    parser.add_argument("--model-dir", type=Path, default=Path("runs/layer3"), help="folder of the run")
    parser.add_argument("--num-episodes", type=int, default=1000, help="episodes of 500 bars")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(argv)
    job = Job(num_episodes=given.num_episodes, seeds=(given.seed,))
    try:
        verdict = pipeline(given.data, given.model_dir, job, Console(highlight=False))
    except HimariError as error:
        sys.stderr.write(f"run_layer3_gcp: {error}\n")
        return error.exit_code
    return 0 if verdict.answer == BETTER else 1


if __name__ == "__main__":
    sys.exit(main())
