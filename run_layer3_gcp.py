"""The production runner of Layer 3: Layer 2's signals in, journalled position sizes out. It is `himari run`.

    python run_layer3_gcp.py --url https://layer3-xyz.run.app --symbols BTC-USDT --port 9000      cloud
    python run_layer3_gcp.py --bundle runs/btc/bundle --signals signals.jsonl                     local
    python run_layer3_gcp.py halt --why "the exchange is down"                                    kill switch

Every signal is sized within 150 ms or with exactly 1.0 and the cause; nothing is told that is not in the journal.
`--config run.yaml` sets enable_rl, rl_timeout_ms, fallback_on_timeout, fallback_multiplier, log_rl_predictions (section
run), portfolio.*, risk.* and halt.*; docs/runner.md says what they mean. A policy is trained and judged by
examples/pipeline.py, in as few lines.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from himari_rl.cli import main as himari


def main(argv: Sequence[str] | None = None) -> int:
    """`himari run` with these words."""
    return himari(["run", *(sys.argv[1:] if argv is None else argv)])


if __name__ == "__main__":
    sys.exit(main())
