"""Where things are on Google Cloud: config/gcp_deployment.yaml, as part of the one config system."""

from __future__ import annotations

from dataclasses import dataclass

from himari_rl.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class CloudConfig:
    """Bucket, folders in it, and which markets are trained."""

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
    trials: str = "trials"
    """Folder of the trial ledger in the bucket, unless HIMARI_TRIALS names another one."""

    def __post_init__(self) -> None:
        for name in ("bucket", "data", "base_dir", "lstm_dir", "multi_dir", "trials"):
            if "://" in (said := str(getattr(self, name))) or said.startswith("/"):
                raise ConfigError(f"cloud.{name} {said}", "a name within the bucket", "leave gs://BUCKET/ out")

    def model_dir(self, kind: str) -> str:
        """The folder of a kind of policy in the bucket."""
        return {"base": self.base_dir, "lstm": self.lstm_dir, "multi": self.multi_dir}[kind]
