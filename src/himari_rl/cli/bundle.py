"""himari export, sign: what is done to a bundle that is already there.

himari export runs/lstm/bundle --out policy.onnx
himari sign runs/btc/bundle --key private.pem
"""

from __future__ import annotations

import json
from typing import Annotated

import click

from himari_rl.cli.options import Json
from himari_rl.cli.signature import Argument, Option, make_command


def register(app: click.Group) -> None:
    """Adds `himari export` and `himari sign`."""
    app.add_command(make_command(export))
    app.add_command(make_command(sign))


def export(
    bundle: Annotated[str, Argument(help="Folder of the policy bundle.")],
    out: Annotated[str, Option(help="The ONNX file.")] = "policy.onnx",
    as_json: Json = False,
) -> None:
    """Writes a bundle as one ONNX graph, memory in and memory out, after checking it against our own runtime.

    Needs pip install 'himari-rl[onnx]'.

    Example: himari export runs/lstm/bundle --out policy.onnx
    """
    from himari_rl.policy.bundle import read_manifest
    from himari_rl.training.onnx_export import write_onnx

    difference = write_onnx(bundle, out)
    version = read_manifest(bundle).version
    found = {"onnx": out, "model_version": version, "largest_difference": difference}
    click.echo(json.dumps(found) if as_json else f"{out}: {version}, at most {difference:.1e} from our own runtime")


def sign(
    bundle: Annotated[str, Argument(help="Folder of the policy bundle.")],
    key: Annotated[str, Option(help="PEM file of an Ed25519 private key.")],
    as_json: Json = False,
) -> None:
    """Signs a bundle; `himari serve --signer public.pem` serves no other. Sign before you promote: an alias pins bytes.

    A key: openssl genpkey -algorithm ed25519 -out private.pem; openssl pkey -in private.pem -pubout -out public.pem

    Example: himari sign runs/btc/bundle --key private.pem
    """
    from himari_rl.policy.signature import sign as put

    manifest = put(bundle, key)
    found = {"bundle": bundle, "model_version": manifest.version, "manifest_sha256": manifest.manifest_sha256}
    click.echo(json.dumps(found) if as_json else f"{bundle}: {manifest.version} is signed")
