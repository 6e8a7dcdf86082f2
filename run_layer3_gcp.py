"""Layer 3 in one readable file: bars in, a judged policy bundle out. Every other way in is this with more options.

    python run_layer3_gcp.py --data BTC-USD_1h.parquet --model-dir runs/layer3

The bundle in MODEL_DIR/bundle is what cloud_run/api_server.py serves. Exit code 0: better than multiplier 1.0;
1: not, and the verdict says whether 1.0 or cash was; 2 and above: something is wrong with the input, in one line.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from himari_rl.cli import main as himari
from himari_rl.evaluation.statements import BETTER
from himari_rl.experiments.evaluate import SUMMARY
from himari_rl.training.config import TrainConfig


def pipeline(data: Sequence[str], model_dir: Path, num_episodes: int, seed: int, overwrite: bool = False) -> int:
    """Bars -> audit -> training -> bundle -> verdict, with its controls, on the bars that training never saw."""
    bundle, bars = model_dir / "bundle", ["--data", *data]
    training = ["--num-episodes", str(num_episodes), "--seed", str(seed), "--out", str(model_dir)]
    for command in (
        ["data", "audit", *data],
        ["train", "base", *bars, *training, *(["--overwrite"] if overwrite else [])],
        ["evaluate", str(bundle), *bars, "--seed", str(seed)],
    ):
        code = himari(command)
        if code:
            return max(2, code)  # 1 is an answer, not an accident
    verdict = json.loads((bundle / SUMMARY).read_bytes())["verdict"]
    return 0 if verdict["answer"] == BETTER else 1


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the pipeline on one history."""
    parser = argparse.ArgumentParser(prog="run_layer3_gcp.py", description="Bars in, a judged policy bundle out.")
    parser.add_argument("--data", nargs="+", required=True, help="CSV, CSV.gz, Parquet files or a folder")
    parser.add_argument("--model-dir", type=Path, default=Path("runs/layer3"), help="folder of the run")
    parser.add_argument("--num-episodes", type=int, default=TrainConfig.num_episodes, help="episodes of 500 bars")
    parser.add_argument("--seed", type=int, default=0, help="first of the five")
    parser.add_argument("--overwrite", action="store_true", help="set a run in that folder aside, with the date")
    given = parser.parse_args(argv)
    return pipeline(given.data, given.model_dir, given.num_episodes, given.seed, given.overwrite)


if __name__ == "__main__":
    sys.exit(main())
