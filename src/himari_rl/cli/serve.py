"""himari serve runs/mine/bundle --port 8080

Loads one policy, checks all of it, and answers POST /predict until Ctrl-C. A folder is a bundle; a .json file is an
alias, which the server follows. Keys come from the environment, because a command line is for everybody to read.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import click

from himari_rl.cli.options import Json, configured
from himari_rl.cli.signature import Argument, Option, make_command
from himari_rl.config import Resolved

if TYPE_CHECKING:
    from himari_rl.policy.runtime import Policy

PLAIN = (
    *("challenger", "challenger_share", "other_contracts", "external_code", "journal", "log_every", "access_log"),
    "signer",
)


@configured("serve", *(f"serve.{name}" for name in PLAIN))
def serve(
    source: Annotated[str, Argument(metavar="BUNDLE|ALIAS", help="A bundle's folder, or an alias (.json).")],
    settings: Resolved,
    port: Annotated[int, Option(help="Port to listen on; 0 takes a free one.")] = 8080,
    host: Annotated[str, Option(help="Address to listen on; 0.0.0.0 is every interface.")] = "127.0.0.1",
    allow_anonymous: Annotated[
        bool, Option("--allow-anonymous", help="Serve other machines without asking for a key.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Serves a policy over HTTP: POST /predict, GET /ready, GET /docs.

    Keys: HIMARI_API_KEYS=one,two (header x-api-key), or HIMARI_AUDIENCE with HIMARI_EMAILS for Google ID tokens. Every
    setting has its variable, HIMARI_LOG_EVERY for one; an option that is given wins over it.

    Example: himari serve runs/demo/bundle --port 8080
    """
    import gc

    gc.disable()  # until `run`: see there
    from himari_rl.errors import BundleError
    from himari_rl.evaluation.terminal import say
    from himari_rl.serving.http.app import create_app
    from himari_rl.serving.http.run import listen, url_of
    from himari_rl.serving.http.run import serve as run
    from himari_rl.serving.settings import check_exposure
    from himari_rl.storage import is_file

    asked = settings["serve"]
    admin = check_exposure(host, asked, allow_anonymous) and asked.admin
    app = create_app(source, replace(asked, admin=admin))
    service = app.state.service
    service.load()
    if asked.journal:
        from himari_rl.journal.store import open_journal

        open_journal(asked.journal).close()  # a place that cannot be used is said now, not in /ready
    if service.slot is None:
        alias = f"aliases/{source}.json"
        if not is_file(source) and is_file(alias):  # `himari promote NAME` was here
            expected = "a folder with manifest.json and weights.safetensors"
            cure = f"himari serve {alias} follows the alias of that name"
            raise BundleError(f"there is no policy bundle at {source}", expected, cure)
        raise BundleError(service.reason)
    sock = listen(host, port)
    policy, url = service.slot.policy, url_of(host, sock)
    for line in [facts(policy, url, asked.guarded)] if as_json else greeting(policy, url, asked.guarded):
        say(line)
    run(app, sock)


def facts(policy: Policy, url: str, guarded: bool) -> str:
    """What is served and where, as one line of JSON."""
    import json

    manifest = policy.manifest
    found = {"url": url, "model_version": manifest.version, "symbols": list(manifest.symbols)}
    more = {"state_dim": manifest.state_dim, "synthetic": manifest.training_data.synthetic, "keys": guarded}
    return json.dumps(found | more)


def greeting(policy: Policy, url: str, guarded: bool = False) -> list[str]:
    """What is served, where, and a line to try it with."""
    import json

    from himari_rl.serving.slot import ordinary_state

    manifest = policy.manifest
    symbols = ", ".join(manifest.symbols)
    market = "an artificial market" if manifest.training_data.synthetic else manifest.training_data.source
    body = json.dumps({"state": ordinary_state(len(manifest.symbols), len(manifest.own_features))})
    key = " -H 'x-api-key: ...'" if guarded else ""
    return [
        f"Policy   {manifest.version}: {manifest.state_dim} numbers in, a multiplier out for {symbols}",
        f"Trained  on {market}, {manifest.training_data.rows:,} bars",
        f"Serving  {url}  (documentation at {url}/docs, stop with Ctrl-C)",
        f"Try      curl -s {url}/predict{key} -H 'content-type: application/json' -d '{body}'",
    ]


def register(app: click.Group) -> None:
    """Adds `himari serve`."""
    app.add_command(make_command(serve(), "serve"))
