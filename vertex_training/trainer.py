"""The base policy's training job, as a Vertex AI container runs it; `himari train base` under its earlier flags.

    python vertex_training/trainer.py --bucket-name my-bucket --data gs://my-bucket/bars/BTC-USD_1h.parquet
    python vertex_training/trainer.py --data bars.parquet --model-dir runs/mine --num-episodes 1000

Vertex AI mounts the project's buckets at /gcs, so gs://my-bucket/x is read and written as /gcs/my-bucket/x. A job that
was stopped, a spot machine's above all, continues from its last checkpoint: the same command starts and resumes.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from himari_rl.cli import main as himari

MOUNT = "/gcs"


def mounted(place: str) -> str:
    """A gs:// address as the path it is mounted at; any other path as it is."""
    return f"{MOUNT}/{place.removeprefix('gs://')}" if place.startswith("gs://") else place


def arguments() -> argparse.ArgumentParser:
    """The flags that launchers and container definitions use."""
    parser = argparse.ArgumentParser(prog="trainer.py", description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--bucket-name", help="bucket of the bars and the model, where they are not given")
    parser.add_argument("--data", nargs="+", help="bars [default: gs://BUCKET/data]")
    parser.add_argument("--model-dir", help="the run's folder [default: AIP_MODEL_DIR, or gs://BUCKET/models/base]")
    parser.add_argument("--num-episodes", type=int, default=1000, help="episodes of 500 bars")
    parser.add_argument("--save-interval", type=int, default=100, help="episodes between two checkpoints")
    parser.add_argument("--seed", type=int, default=0)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Trains; the exit code is the command's own."""
    parser = arguments()
    given = parser.parse_args(argv)
    bucket = f"gs://{given.bucket_name}" if given.bucket_name else None
    data = given.data or ([f"{bucket}/data"] if bucket else None)
    model_dir = given.model_dir or os.environ.get("AIP_MODEL_DIR") or (f"{bucket}/models/base" if bucket else None)
    if data is None or model_dir is None:
        parser.error("nothing says where the bars or the model are; give --bucket-name, or --data and --model-dir")
    options = ["--num-episodes", given.num_episodes, "--save-interval", given.save_interval, "--seed", given.seed]
    places = ["--data", *map(mounted, data), "--out", mounted(model_dir)]
    return himari(["train", "base", *places, *map(str, options), "--resume"])


if __name__ == "__main__":
    sys.exit(main())
