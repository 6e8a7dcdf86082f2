"""LitServe's own price, for benchmarks/serve.py: python benchmarks/litserve_rival.py PORT

One worker that computes nothing, in an environment that has LitServe; this project does not depend on it.
"""

from __future__ import annotations

import sys
from typing import Any

import litserve


class NoModel(litserve.LitAPI):  # type: ignore[misc]
    """Answers what the other rivals without a model answer."""

    def setup(self, device: Any) -> None:
        """Nothing to load."""

    def decode_request(self, request):  # LitServe reads annotations: with one it asks for a query parameter
        """The state."""
        return request["state"]

    def predict(self, state: Any) -> float:
        """Always 1."""
        return 1.0

    def encode_response(self, output: float) -> dict[str, Any]:
        """The contract's four fields."""
        return {"position_multiplier": output, "confidence": 0.8, "latency_ms": 0.01, "model_version": "base"}


if __name__ == "__main__":
    server = litserve.LitServer(NoModel(), accelerator="cpu", workers_per_device=1)
    server.run(host="127.0.0.1", port=int(sys.argv[1]), generate_client_file=False, log_level="warning")
