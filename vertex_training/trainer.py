"""The base policy's training job, as a Vertex AI (Gemini Enterprise Agent Platform) container runs it.

    python vertex_training/trainer.py --bucket-name himari-rl-models --model-dir models/himari-rl
    python vertex_training/trainer.py --data bars.parquet --model-dir /tmp/mine --num-episodes 10

Bars come from gs://BUCKET/data; bundle, evaluation, gate verdict and the look in the trial ledger go into the bucket,
by API and never through a mount. A job that was stopped, a spot machine's above all, goes on from its last checkpoint:
the same command starts and resumes. New bars make a new run beside the old one.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from himari_rl.cli import vertex


def arguments() -> argparse.ArgumentParser:
    """The flags that launchers and container definitions use."""
    return vertex.arguments("base", "trainer.py")


def main(argv: Sequence[str] | None = None) -> int:
    """Trains, judges and asks the gate; exit codes are in himari_rl/cli/vertex.py."""
    return vertex.main("base", arguments(), argv, Path(__file__).resolve().parents[1])


if __name__ == "__main__":
    sys.exit(main())
