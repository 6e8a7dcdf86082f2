"""The earlier trainers' flags as a `himari train` command: what vertex_training/ is made of.

Vertex AI mounts the project's buckets at /gcs, so gs://my-bucket/x is read and written as /gcs/my-bucket/x.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence

from himari_rl.training.config import TrainConfig

MOUNT = "/gcs"


def mounted(place: str) -> str:
    """A gs:// address as the path it is mounted at; any other path as it is."""
    return f"{MOUNT}/{place.removeprefix('gs://')}" if place.startswith("gs://") else place


def arguments(kind: str, script: str) -> argparse.ArgumentParser:
    """The flags that launchers and container definitions use."""
    parser = argparse.ArgumentParser(prog=script, description=f"Trains the {kind} policy, as a Vertex AI job runs it.")
    parser.add_argument("--bucket-name", help="bucket of the bars and the model, where they are not given")
    parser.add_argument("--data", nargs="+", help="bars [default: gs://BUCKET/data]")
    parser.add_argument("--model-dir", help=f"the run's folder [default: AIP_MODEL_DIR, or gs://BUCKET/models/{kind}]")
    usual = TrainConfig()
    parser.add_argument("--num-episodes", type=int, default=usual.num_episodes, help="episodes of 500 bars")
    every = "episodes between two checkpoints"
    parser.add_argument("--save-interval", type=int, default=usual.save_interval, help=every)
    parser.add_argument("--seed", type=int, default=0)
    return parser


def train_command(kind: str, parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> list[str]:
    """The words of `himari train KIND` for these flags; a missing place is a usage error (exit code 2)."""
    given = parser.parse_args(argv)
    bucket = f"gs://{given.bucket_name}" if given.bucket_name else None
    data = given.data or ([f"{bucket}/data"] if bucket else None)
    model_dir = given.model_dir or os.environ.get("AIP_MODEL_DIR") or (f"{bucket}/models/{kind}" if bucket else None)
    if data is None or model_dir is None:
        parser.error("nothing says where the bars or the model are; give --bucket-name, or --data and --model-dir")
    options = ["--num-episodes", given.num_episodes, "--save-interval", given.save_interval, "--seed", given.seed]
    places = ["--data", *map(mounted, data), "--out", mounted(model_dir)]
    return ["train", kind, *places, *map(str, options), "--resume"]
