"""himari judge, verify, runs: what returns alone say; a verdict recomputed by a third party; many runs side by side.

himari judge returns.csv --trials 40
himari verify runs/btc --data BTC-USDT_1h.parquet
himari runs runs
"""

from __future__ import annotations

import json
from typing import Annotated

import typer

from himari_rl.cli.options import Json


def register(app: typer.Typer) -> None:
    """Adds `himari judge`."""
    app.command("judge")(judge)


def judge(
    returns: Annotated[str, typer.Argument(metavar="RETURNS.csv", help="Columns `time` and `return` (simple).")],
    trials: Annotated[int, typer.Option(min=1, help="Everything that was tried before these were chosen.")] = 1,
    per_year: Annotated[float | None, typer.Option(help="Periods a year, where the file has no time.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the bootstrap.")] = 0,
    as_json: Json = False,
) -> None:
    """Says what can be said of a strategy from its returns alone, and what cannot. Exit code 1 where no edge is shown.

    Example: himari judge returns.csv --trials 40
    """
    from himari_rl.experiments.returns import judge_returns

    found = judge_returns(returns, trials, per_year=per_year, seed=seed)
    typer.echo(json.dumps(found.to_dict(), allow_nan=False) if as_json else str(found))
    if found.answer != "shown":
        raise typer.Exit(1)
