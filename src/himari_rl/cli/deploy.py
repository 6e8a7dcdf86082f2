"""himari deploy: the commands that bring images, service and monitoring to Google Cloud, in their order.

himari deploy --dry-run
himari deploy --write        config/service.yaml and terraform's variables anew from config/gcp_deployment.yaml
"""

from __future__ import annotations

from typing import Annotated

import click

from himari_rl.cli.options import CLOUD_FILE, ROOT, Json, configured
from himari_rl.cli.signature import Option, make_command
from himari_rl.config import Resolved


def register(app: click.Group) -> None:
    """Adds `himari deploy`."""
    app.add_command(make_command(deploy(), "deploy"))


@configured("deploy", "monitoring.profile", usual=CLOUD_FILE)
def deploy(
    settings: Resolved,
    dry_run: Annotated[bool, Option("--dry-run", help="Print the commands, and run none.")] = False,
    write: Annotated[
        bool, Option("--write", help="Write config/service.yaml and terraform's variables from the config.")
    ] = False,
    render: Annotated[
        str | None, Option(metavar="FILE", help="Write the service file with the project's id in it.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Runs, or prints, what deploys the server: each command once, in order, stopping at the first that fails.

    Example: himari deploy --dry-run
    """
    import json
    import shlex
    import subprocess  # nosec B404 - no shell
    import sys
    from dataclasses import replace

    from himari_rl.cloud.config import UNNAMED
    from himari_rl.cloud.deploy import SERVICE_FILE, VARIABLES_FILE, commands, service_text, variables
    from himari_rl.errors import CloudError
    from himari_rl.storage import write_atomic

    cloud, config, watched = settings["cloud"], settings["deploy"], settings["monitoring"]
    if write:
        blank = replace(cloud, project=UNNAMED)
        document = variables(config, blank, watched, settings["budget"])
        write_atomic(ROOT / SERVICE_FILE, service_text(config, blank, watched).encode())
        write_atomic(ROOT / VARIABLES_FILE, f"{json.dumps(document, indent=2)}\n".encode())
        return
    if render is not None:
        cloud.project_or_refusal()
        write_atomic(render, service_text(config, cloud, watched).encode())
        return
    plan = commands(config, cloud, watched)
    if as_json:
        sys.stdout.write(json.dumps([{"why": why, "command": words} for why, words in plan]) + "\n")
        return
    for why, words in plan:
        sys.stdout.write(f"# {why}\n{shlex.join(words)}\n")
        if not dry_run:
            cloud.project_or_refusal()
            sys.stdout.flush()
            own = [sys.executable, "-m", "himari_rl", *words[1:]] if words[0] == "himari" else words
            try:
                code = subprocess.run(own, check=False, cwd=ROOT).returncode  # nosec B603
            except OSError as error:
                raise CloudError(f"{words[0]} cannot be run: {error.strerror}", "", f"install {words[0]}") from error
            if code:
                raise CloudError(f"{shlex.join(words)} ended with {code}", "", "mend it, and run himari deploy again")
