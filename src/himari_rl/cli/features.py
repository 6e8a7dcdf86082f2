"""himari features: whether your own feature code knows the future.

himari features check mine.py:momentum
himari features check mypackage.features:build --data BTC-USDT_1h.parquet
"""

from __future__ import annotations

import json
from typing import Annotated

import click

from himari_rl.cli.options import Json
from himari_rl.cli.signature import Argument, Option, make_command, make_group

ROWS = 2000  # of the synthetic bars: two months of hours and more, as weekly and monthly statistics need


def register(app: click.Group) -> None:
    """Adds `himari features`."""
    group = make_group("features", function=_features)
    group.add_command(make_command(check))
    app.add_command(group)


def _features() -> None:
    """Does your own feature code know the future?

    Example: himari features check mine.py:momentum
    """


def check(
    function: Annotated[str, Argument(help="MODULE:FUNCTION or FILE.py:FUNCTION; takes a DataFrame or Bars.")],
    data: Annotated[list[str] | None, Option(help="Bars to try it on; synthetic ones by default.")] = None,
    symbol: Annotated[str | None, Option(help="Which symbol, where the data has several.")] = None,
    rows: Annotated[int, Option(help="Bars to try it on, the newest of the data; 0 is all.")] = ROWS,
    cuts: Annotated[int, Option(help="At how many places the history is cut; each costs a call.")] = 8,
    as_json: Json = False,
) -> None:
    """Asks a feature function about the whole history and about its first rows only, and compares: the prefix test.

    Exit code 0 where later bars change nothing, 1 where they do, 2 where the function cannot be tested.

    Example: himari features check mine.py:momentum --data BTC-USDT_1h.parquet
    """
    from rich.console import Console

    from himari_rl.data.sources import load_bars
    from himari_rl.data.synthetic import synthetic_bars
    from himari_rl.errors import RefusedError
    from himari_rl.features.check import check_features
    from himari_rl.policy.code import loaded
    from himari_rl.training.progress import opened_progress

    asked = loaded(function)
    bars = load_bars(data, symbol) if data else synthetic_bars(rows or ROWS, 0)
    if rows and len(bars) > rows:
        bars = bars[len(bars) - rows :]
    with opened_progress(Console(stderr=True), "calls", quiet=as_json) as progress:
        reports = check_features(asked, bars, cuts=cuts, progress=progress)
    leaks = [report for report in reports if report.leaks]
    if as_json:
        document = {"function": function, "rows": len(bars), "source": bars.source, "passed": not leaks}
        click.echo(json.dumps(document | {"columns": [report.to_dict() for report in reports]}, allow_nan=False))
    else:
        console = Console(soft_wrap=True, highlight=False)
        console.print(f"{function} on {len(bars):,} bars of {bars.source}, cut at {cuts} places", markup=False)
        for report in reports:
            console.print(f"{'LEAK' if report.leaks else 'ok  '} {report.message}", markup=False)
    if leaks:
        raise RefusedError(
            f"{len(leaks)} of {len(reports)} columns know later bars: {', '.join(r.column for r in leaks[:5])}",
            "values that later rows cannot change",
            "no negative shift, centred window, backfill, whole-file fit or unfinished candle",
        )
