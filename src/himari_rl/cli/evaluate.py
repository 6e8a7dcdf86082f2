"""himari evaluate: a bundle's verdict on bars its training never saw.

himari evaluate runs/mine/bundle --data BTC-USD_1h.parquet
himari evaluate runs/mine/bundle --data BTC-USD_1h.parquet --html evaluation.html --json
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import click

from himari_rl.cli.options import ACCEPT, ExternalCode, Json, configured
from himari_rl.cli.signature import Argument, Option, make_command
from himari_rl.config import Resolved

if TYPE_CHECKING:
    from himari_rl.data.panel import Panel
    from himari_rl.schema import Bars

PLAIN = ("test_fraction", "costs", "trials", "risk_aversion", "seed", "allow_seen")


def register(app: click.Group) -> None:
    """Adds `himari evaluate`."""
    app.add_command(make_command(evaluate(), "evaluate"))


@configured("evaluate", *(f"evaluate.{name}" for name in PLAIN), ACCEPT)
def evaluate(
    bundle: Annotated[str, Argument(help="Folder of the policy bundle.")],
    data: Annotated[list[str], Option(help="Files or a folder of bars, of the bundle's symbols.")],
    settings: Resolved,
    symbol: Annotated[str | None, Option(help="Which symbol, where the data has several.")] = None,
    funding: Annotated[str | None, Option(help="Folder of funding files, for a bundle of several.")] = None,
    beliefs_from: Annotated[
        list[str] | None,
        Option("--beliefs-from", help="The files that the policy was trained with under the same name."),
    ] = None,
    external_code: ExternalCode = False,
    html: Annotated[str | None, Option(help="Write the page of this evaluation to this file.")] = None,
    as_json: Json = False,
) -> None:
    """Judges a bundle on held-out bars against multiplier 1.0, with controls; writes evaluation.json into the bundle.

    Exit code 1 where a look-ahead is suspected.

    Example: himari evaluate runs/mine/bundle --data BTC-USD_1h.parquet
    """
    from rich.console import Console

    from himari_rl.cli.train import print_facts
    from himari_rl.data.grid import interval_name
    from himari_rl.data.panel import load_panel
    from himari_rl.data.sources import load_bars
    from himari_rl.evaluation.display import render, render_portfolio
    from himari_rl.evaluation.statements import LOOK_AHEAD
    from himari_rl.experiments.evaluate import evaluate as judge
    from himari_rl.experiments.evaluation_page import evaluation_html
    from himari_rl.policy.code import allow_code
    from himari_rl.policy.runtime import load_policy
    from himari_rl.storage import write_atomic
    from himari_rl.training.progress import opened_progress

    allow_code(external_code)
    policy = load_policy(bundle)
    manifest = policy.manifest
    bars: Bars | Panel
    if manifest.action_dim > 1:
        bars = load_panel(data, manifest.symbols, interval_name(manifest.ledger.interval_ms), funding=funding)
    else:
        bars = load_bars(data, symbol)
    with opened_progress(Console(stderr=True, highlight=False), "controls", quiet=as_json) as progress:
        others = [load_bars(path) for path in beliefs_from or ()]
        options = {"progress": progress, "accept": settings["data"].accept, "beliefs_from": others}
        found = judge(policy, bars, **options, **vars(settings["evaluate"]))
    if html is not None:
        write_atomic(html, evaluation_html(policy, bars, found).encode())
    if as_json:
        click.echo(json.dumps(found.document, indent=2, allow_nan=False))
    else:
        console = Console(highlight=False)
        for note in found.notes:
            console.print(note, style="yellow", markup=False)
        print_facts(found.facts, console)
        console.print(f"Ledger: {found.ledger}.", markup=False)
        render(found.verdict, console, found.controls, found.detectable)
        if found.portfolio is not None:
            render_portfolio(found.portfolio, console)
    if found.verdict.answer == LOOK_AHEAD:
        raise click.exceptions.Exit(1)
