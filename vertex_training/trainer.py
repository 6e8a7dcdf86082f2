"""The base policy's training job, as a Vertex AI container runs it; `himari train base` under its earlier flags.

    python vertex_training/trainer.py --bucket-name my-bucket --data gs://my-bucket/bars/BTC-USD_1h.parquet
    python vertex_training/trainer.py --data bars.parquet --model-dir runs/mine --num-episodes 1000

Vertex AI mounts the project's buckets at /gcs, so gs://my-bucket/x is read and written as /gcs/my-bucket/x. A job that
was stopped, a spot machine's above all, continues from its last checkpoint: the same command starts and resumes.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from himari_rl.cli import main as himari
from himari_rl.cli import vertex


def arguments() -> argparse.ArgumentParser:
    """The flags that launchers and container definitions use."""
    return vertex.arguments("base", "trainer.py")


def main(argv: Sequence[str] | None = None) -> int:
    """Trains; the exit code is the command's own."""
    return himari(vertex.train_command("base", arguments(), argv))


if __name__ == "__main__":
    sys.exit(main())
