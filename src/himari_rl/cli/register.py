"""himari register: what will be judged, with which settings and rules, written down before the result.

himari register --config run.yaml --span 2024-07-01..2024-12-31 --data BTC-USDT_1h.parquet
himari walk-forward base --config run.yaml --data BTC-USDT_1h.parquet --out runs/btc
"""

from __future__ import annotations

from typing import Annotated

import click

from himari_rl.cli.options import Json, configured
from himari_rl.cli.signature import Option, make_command
from himari_rl.config import Resolved


def register(app: click.Group) -> None:
    """Adds `himari register`."""
    app.add_command(make_command(register_span(), "register"))


@configured("register")
def register_span(
    span: Annotated[str, Option(help="What will be judged: 2024-07-01..2024-12-31, both days included.")],
    settings: Resolved,
    kind: Annotated[str, Option(help="base, lstm or multi.")] = "base",
    data: Annotated[
        list[str] | None, Option(help="Bars of the market; without it the span of any market is registered.")
    ] = None,
    symbol: Annotated[str | None, Option(help="Which symbol, where the data has several.")] = None,
    symbols: Annotated[list[str] | None, Option(help="multi: which symbols.")] = None,
    as_json: Json = False,
) -> None:
    """Freezes span, settings and rules in the trial ledger; one judged look at the span is then a test of them.

    Example: himari register --config run.yaml --span 2024-07-01..2024-12-31 --data BTC-USDT_1h.parquet
    """
    import json

    import numpy as np

    from himari_rl.cli.walk_forward import history_of
    from himari_rl.config import as_dict
    from himari_rl.trials.fingerprint import paths_of
    from himari_rl.trials.ledger import ANY_MARKET, Trials, ledger_place, market_name
    from himari_rl.trials.register import freeze, parse_span

    first, last = parse_span(span)
    frozen = as_dict(settings["walk_forward"]) | {"kind": kind}
    frozen |= {name: as_dict(settings[name]) for name in ("agent", "environment", "evaluate", "gate")}
    market = ANY_MARKET
    paths: tuple[str, ...] = ()
    if data:
        bars = history_of(kind, data, symbol, symbols, None)
        market = market_name(bars)
        start, stop = np.searchsorted(bars.timestamp, [first, last + 1])
        paths = paths_of(bars[int(start) : int(stop)]) if stop > start else ()
    with Trials() as trials:
        made = freeze(trials, frozen, market, first, last, paths)
    document = made.to_dict() | {"span": [first, last], "market": market, "ledger": ledger_place()}
    if as_json:
        click.echo(json.dumps(document))
        return
    click.echo(f"{'any market' if market == ANY_MARKET else market}, {span}: registered as {made.hash}")
    if made.looks_before:
        click.echo(f"{made.looks_before} looks at this span came before: what they showed is no longer news")
