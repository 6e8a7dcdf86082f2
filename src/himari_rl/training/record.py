"""What a training run leaves behind: the names of its files, and the manifest's record of the bars. Torch-free."""

from __future__ import annotations

import os
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from himari_rl import __version__
from himari_rl.data.panel import Panel
from himari_rl.errors import ConfigError
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


def now() -> datetime:
    """The time that a bundle bears: SOURCE_DATE_EPOCH (reproducible-builds.org) where two runs shall give one file.

    Raises:
        ConfigError: the variable is no number of seconds.
    """
    said = os.environ.get("SOURCE_DATE_EPOCH", "")
    if said and not said.isdecimal():
        raise ConfigError(f"SOURCE_DATE_EPOCH {said!r}", "seconds since 1970, or none", "unset it")
    return datetime.fromtimestamp(int(said), UTC) if said else datetime.now(UTC)


def code_version() -> str:
    """The package's version, with the commit where the source is a git checkout."""
    root = Path(__file__).parents[3]
    if not (root / ".git").exists():
        return __version__
    found = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=root, capture_output=True, text=True, check=False
    )
    return f"{__version__}+{found.stdout.strip()}" if found.returncode == 0 else __version__
