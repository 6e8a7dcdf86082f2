"""Structured log lines: one JSON object a line on stderr (log_lines.py), as Cloud Logging reads them.

Answers are sampled (one in `every`), because a line costs more than a decision, and what a shadow decides is written
where answers are. Events (a swap, a refused policy) are rare and always written.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import orjson


class Journal:
    """Writes lines."""

    def __init__(self, every: int, write: Callable[[str], object]) -> None:
        self.every = every
        self._write = write
        self._count = 0

    def answered(self, path: str, answer: dict[str, Any]) -> None:
        """One answer; every `every`-th is written. Called only where `every` is not 0."""
        self._count += 1
        if self._count >= self.every:
            self._count = 0
            kept = {name: value for name, value in answer.items() if name not in ("memory", "predictions", "state")}
            if several := answer.get("position_multipliers"):  # a log-based metric reads one field of a line
                kept["position_multiplier"] = sum(several.values()) / len(several)
            self.event("answer", path=path, sampled=self.every, **kept)

    def event(self, event: str, severity: str = "INFO", **fields: Any) -> None:
        """One line."""
        time = datetime.now(UTC).isoformat(timespec="milliseconds")
        line = {"severity": severity, "time": time, "event": event, **fields}
        try:
            text = orjson.dumps(line).decode()
        except TypeError:  # half a surrogate pair, in a name that is no UTF-8
            text = json.dumps(line, default=str)
        self._write(text + "\n")
