"""What a training run leaves behind: the names of its files, and the manifest's record of the bars. Torch-free."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from himari_rl.data.panel import Panel
from himari_rl.schema import Bars

BUNDLE, CHECKPOINT, RECORD = "bundle", "checkpoint-{seed}.safetensors", "training.json"


def training_data(train: Bars | Panel) -> dict[str, Any]:
    """The manifest's record of the bars a policy was trained on."""

    def iso(ms: int) -> str:
        return datetime.fromtimestamp(ms / 1000, UTC).isoformat()

    return {
        "sha256": train.fingerprint,
        "source": train.source,
        "start": iso(int(train.timestamp[0])),
        "end": iso(int(train.timestamp[-1])),
        "rows": len(train),
        "interval_ms": train.interval_ms,
        "synthetic": train.synthetic,
    }
