"""The portfolio policy's training job, as a Vertex AI container runs it; `himari train multi` under its earlier flags.

    python vertex_training/trainer_multiasset.py --bucket-name my-bucket --symbols BTC-USD ETH-USD SOL-USD
    python vertex_training/trainer_multiasset.py --data bars/ --model-dir runs/mine --num-episodes 1000

Vertex AI mounts the project's buckets at /gcs, so gs://my-bucket/x is read and written as /gcs/my-bucket/x. A job that
was stopped, a spot machine's above all, continues from its last checkpoint: the same command starts and resumes.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from himari_rl.cli import main as himari
from himari_rl.cli import vertex

SYMBOLS = ("BTC-USD", "ETH-USD", "SOL-USD")


def arguments() -> argparse.ArgumentParser:
    """The flags that launchers and container definitions use."""
    parser = vertex.arguments("multi", "trainer_multiasset.py")
    parser.add_argument("--symbols", nargs="+", default=SYMBOLS, help="2 to 100, in the order of the policy's answer")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Trains; the exit code is the command's own."""
    parser = arguments()
    words = vertex.train_command("multi", parser, argv)
    return himari([*words, "--symbols", *parser.parse_args(argv).symbols])


if __name__ == "__main__":
    sys.exit(main())
