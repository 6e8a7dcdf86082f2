"""himari serve runs/mine/bundle --port 8080

Loads one policy bundle, checks all of it, and answers POST /predict until Ctrl-C.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def serve(
    bundle: Annotated[Path, typer.Argument(help="Folder of a policy bundle (manifest.json, weights.safetensors).")],
    port: Annotated[int, typer.Option(help="Port to listen on; 0 takes a free one.")] = 8080,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 is every interface.")] = "127.0.0.1",
) -> None:
    """Serves a policy over HTTP: POST /predict, GET /ready, GET /docs.

    Example: himari serve runs/demo/bundle --port 8080
    """
    from rich.console import Console

    from himari_rl.policy.runtime import load_policy
    from himari_rl.serving.app import create_app
    from himari_rl.serving.run import listen
    from himari_rl.serving.run import serve as run

    policy = load_policy(bundle)
    sock = listen(host, port)
    console = Console(highlight=False, markup=False, soft_wrap=True)
    for line in greeting(policy, f"http://{host}:{sock.getsockname()[1]}"):
        console.print(line)
    run(create_app(policy), sock)


def greeting(policy, url: str) -> list[str]:
    """What is served, where, and a line to try it with."""
    import json

    from himari_rl.serving.slot import ordinary_state

    manifest = policy.manifest
    symbols = ", ".join(manifest.symbols)
    market = "an artificial market" if manifest.training_data.synthetic else manifest.training_data.source
    body = json.dumps({"state": ordinary_state(len(manifest.symbols))})
    return [
        f"Policy   {manifest.version}: {manifest.state_dim} numbers in, a multiplier out for {symbols}",
        f"Trained  on {market}, {manifest.training_data.rows:,} bars",
        f"Serving  {url}  (documentation at {url}/docs, stop with Ctrl-C)",
        f"Try      curl -s {url}/predict -H 'content-type: application/json' -d '{body}'",
    ]


def register(app: typer.Typer) -> None:
    """Adds `himari serve`."""
    app.command("serve")(serve)
