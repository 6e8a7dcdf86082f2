"""Launches a training job on Vertex AI (Gemini Enterprise Agent Platform) or Cloud Run: `himari launch`.

    python vertex_training/launch_training.py --model base --dry-run
    python vertex_training/launch_training.py --model multi --profile cpu --symbols BTC-USD ETH-USD SOL-USD
    python vertex_training/launch_training.py --model walk-forward --profile run-job base --folds 48
    python vertex_training/launch_training.py --model base --local --num-episodes 10

Profiles, prices, regions, labels and accounts are in config/gcp_deployment.yaml. Words that it does not know go to the
job's own command, whose parser reads them before anything is paid for. Exit codes: 0 done; 1 the job failed, or no
place has a machine; 2 bad usage or bad input.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from himari_rl.cli import main as himari


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    return himari(["launch", *(sys.argv[1:] if argv is None else argv)])


if __name__ == "__main__":
    sys.exit(main())
