"""himari monitoring: dashboard, alerts, log-based metrics and channel on Google Cloud, as the config says.

himari monitoring --dry-run
himari monitoring --profile steady --email you@example.com

monitoring/setup_monitoring.py is the same command; monitoring/dashboard.json is what it makes of the config as it is.
"""

from __future__ import annotations

from typing import Annotated

import click

from himari_rl.cli.options import CLOUD_FILE, Json, configured
from himari_rl.cli.signature import Option, make_command
from himari_rl.config import Resolved


def register(app: click.Group) -> None:
    """Adds `himari monitoring`."""
    app.add_command(make_command(monitoring(), "monitoring"))


@configured("monitoring", "monitoring.profile", "monitoring.email", usual=CLOUD_FILE)
def monitoring(
    settings: Resolved,
    dry_run: Annotated[bool, Option("--dry-run", help="Print what would be changed, and change nothing.")] = False,
    offline: Annotated[
        bool, Option("--offline", help="Print the documents themselves as JSON; nobody is asked.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Creates or updates what watches the server; the second time there is nothing to do.

    Example: himari monitoring --email you@example.com --dry-run
    """
    import json
    import sys
    from functools import partial

    from himari_rl.cloud.dashboard import alerts, dashboard
    from himari_rl.cloud.monitor import apply_all, changes
    from himari_rl.cloud.patience import Patience
    from himari_rl.cloud.signals import log_metrics
    from himari_rl.evaluation.terminal import say

    config, service, cloud = settings["monitoring"], settings["deploy"].service, settings["cloud"]
    tell = partial(say, stream=sys.stderr)
    if offline:
        documents = {
            "dashboard": dashboard(config, service),
            "alerts": alerts(config, service),
            "log_metrics": log_metrics(service),
        }
        sys.stdout.write(json.dumps(documents, indent=2) + "\n")
        return
    if not config.email:
        tell("no monitoring.email: alerts are made, and nobody is told")
    patience = Patience(settings["deploy"].attempts, settings["deploy"].pause_s, tell)
    found = (changes if dry_run else apply_all)(config, service, cloud, patience)
    if as_json:
        sys.stdout.write(
            json.dumps({"changes": [{"what": c.what, "verb": c.verb, "differences": c.differences} for c in found]})
            + "\n"
        )
        return
    for change in found:
        sys.stdout.write(f"{change.verb} {change.what}\n" + "".join(f"    {line}\n" for line in change.differences))
    sys.stdout.write(f"{len(found)} changes{', none made' if dry_run and found else ''}\n")
