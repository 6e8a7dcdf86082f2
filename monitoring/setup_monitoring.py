"""Dashboard, alerts, log-based metrics and channel on Google Cloud: `himari monitoring`, again and again without harm.

    python monitoring/setup_monitoring.py --dry-run
    python monitoring/setup_monitoring.py --email you@example.com

What is watched stands in src/himari_rl/cloud/signals.py, thresholds and profile in config/gcp_deployment.yaml.
dashboard.json beside this file is the dashboard of that config, for the console's own import.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from himari_rl.cli import main as himari


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    return himari(["monitoring", *(sys.argv[1:] if argv is None else argv)])


if __name__ == "__main__":
    sys.exit(main())
