"""Where things are on Google Cloud: config/gcp_deployment.yaml, as part of the one config system."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

from himari_rl.errors import ConfigError

UNNAMED = "PROJECT_ID"
"""Stands in a printed plan where nothing names the project."""


@dataclass(frozen=True, kw_only=True)
class CloudConfig:
    """Project, bucket, folders in it, images, and which markets are trained."""

    project: str = ""
    """Google Cloud project; empty: GOOGLE_CLOUD_PROJECT says it."""
    region: str = "us-central1"
    """Where bucket, images and service are."""
    repository: str = "himari"
    """Artifact Registry repository of the images."""
    training_image: str = "himari-train:latest"
    """Name and tag of the training image in the repository."""
    serving_image: str = "himari-serve:latest"
    """Name and tag of the server's image in the repository."""
    bucket: str = ""
    """Bucket of bars, models and trial ledger, without gs://; --bucket-name goes before it."""
    data: str = "data"
    """Folder of the bars in the bucket."""
    interval: str = "1h"
    """Which bars of that folder are trained on."""
    symbol: str = "BTC-USD"
    """What the base and the recurrent policy size."""
    symbols: tuple[str, ...] = ("BTC-USD", "ETH-USD", "SOL-USD")
    """What the portfolio policy sizes, in the order of its answer."""
    base_dir: str = "models/himari-rl"
    """Folder of the base policy's run in the bucket."""
    lstm_dir: str = "models/himari-rl-lstm"
    """Folder of the recurrent policy's run in the bucket."""
    multi_dir: str = "models/himari-rl-multiasset"
    """Folder of the portfolio policy's run in the bucket."""
    walk_forward_dir: str = "walk-forward"
    """Folder of the walk-forwards in the bucket, one below it for each kind of policy."""
    trials: str = "trials"
    """Folder of the trial ledger in the bucket, unless HIMARI_TRIALS names another one."""
    costs: str = "costs"
    """Folder of the cost ledger in the bucket: one object for each attempt of a job."""
    trainer_account: str = "himari-trainer"
    """Service account of training jobs: a name in the project, or a whole address."""
    vertex_endpoint: str = ""
    """HOST:PORT of an emulator of Vertex AI, asked over TLS without credentials; empty: Google's own."""
    rest_endpoint: str = ""
    """Address of an emulator of Google's REST APIs, asked without credentials; empty: Google's own."""

    def __post_init__(self) -> None:
        places = ("bucket", "data", "base_dir", "lstm_dir", "multi_dir", "walk_forward_dir", "trials", "costs")
        for name in places:
            if "://" in (said := str(getattr(self, name))) or said.startswith("/"):
                raise ConfigError(f"cloud.{name} {said}", "a name within the bucket", "leave gs://BUCKET/ out")

    def model_dir(self, kind: str) -> str:
        """The folder of a kind of policy in the bucket."""
        return {"base": self.base_dir, "lstm": self.lstm_dir, "multi": self.multi_dir}[kind]

    def project_named(self) -> str:
        """The project, or an empty string where neither config nor GOOGLE_CLOUD_PROJECT names one."""
        return self.project or os.environ.get("GOOGLE_CLOUD_PROJECT", "")

    def project_or_refusal(self) -> str:
        """The project.

        Raises:
            ConfigError: nothing names it.
        """
        if found := self.project_named():
            return found
        raise ConfigError("nothing names the Google Cloud project", "cloud.project", "export GOOGLE_CLOUD_PROJECT=ID")

    def image(self, name: str) -> str:
        """The whole address of an image."""
        return f"{self.region}-docker.pkg.dev/{self.project_named() or UNNAMED}/{self.repository}/{name}"

    def account(self, name: str) -> str:
        """The address of a service account."""
        return name if "@" in name else f"{name}@{self.project_named() or UNNAMED}.iam.gserviceaccount.com"


def label(text: str) -> str:
    """A text as a label's value: lower case, digits, dashes and underscores, 63 at most."""
    return re.sub(r"[^a-z0-9_-]+", "-", text.lower()).strip("-")[:63]
