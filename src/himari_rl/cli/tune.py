"""himari tune: a search inside the training span, every trial counted.

himari tune base --data BTC-USDT_1h.parquet --trials 20 --out runs/tune
"""

from __future__ import annotations

from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Adds `himari tune`."""
    app.command()(tune)


def tune(
    kind: Annotated[str, typer.Argument(help="base, lstm or multi.")],
    data: Annotated[list[str], typer.Option(help="Files or a folder of bars.")],
    symbol: Annotated[str | None, typer.Option(help="Which symbol, where the data has several.")] = None,
    symbols: Annotated[
        list[str] | None, typer.Option(help="multi: which symbols, for example BTC-USDT ETH-USDT.")
    ] = None,
    funding: Annotated[str | None, typer.Option(help="multi: folder of funding files.")] = None,
    trials: Annotated[int, typer.Option(min=1, help="Trials in all; a killed study continues.")] = 20,
    bars_per_seed: Annotated[int, typer.Option(min=1, help="Training budget of each split, in bars.")] = 250_000,
    test_fraction: Annotated[float, typer.Option(help="Last share of the bars, never seen.")] = 0.2,
    seed: Annotated[int, typer.Option(min=0, help="Of the sampler and the training.")] = 0,
    out: Annotated[str, typer.Option(help="Folder of the study.")] = "runs/tune",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
) -> None:
    """Searches settings by combinatorial purged cross-validation inside the training span, and says how much is luck.

    Example: himari tune base --data BTC-USDT_1h.parquet --trials 20 --out runs/tune
    """
    import json
    from importlib.util import find_spec
    from pathlib import Path

    from rich.console import Console

    from himari_rl.cli.walk_forward import history_of
    from himari_rl.errors import ConfigError

    missing = [name for name in ("optuna", "skfolio") if find_spec(name) is None]
    if missing:
        raise ConfigError(f"{' and '.join(missing)} not installed", "", f"pip install {' '.join(missing)}")
    from himari_rl.experiments.recipe import Recipe
    from himari_rl.experiments.tune import tune as search

    console = Console(stderr=True, highlight=False)
    tuned = search(
        history_of(kind, data, symbol, symbols, funding),
        Recipe.of_kind(kind, bars_per_seed=bars_per_seed),
        trials,
        Path(out),
        seed=seed,
        test_fraction=test_fraction,
        progress=lambda done, total: console.print(f"trial {done} of {total}"),
    )
    if as_json:
        typer.echo(json.dumps(vars(tuned)))
        return
    luck = "" if tuned.overfitting is None else f"; probability of overfitting {tuned.overfitting:.2f}"
    console.print(f"{tuned.settings}: {100 * tuned.gain:+.1f} % a year over 1.0 in {tuned.trials} trials{luck}")
