"""himari tune: a search inside the training span, every trial counted.

himari tune base --data BTC-USDT_1h.parquet --trials 20 --out runs/tune
"""

from __future__ import annotations

from typing import Annotated

import click

from himari_rl.cli.console import stderr_console
from himari_rl.cli.options import ACCEPT, AGENT, LEDGER, Json, Kind, configured
from himari_rl.cli.signature import Option, make_command
from himari_rl.cli.train import Features
from himari_rl.config import Resolved


def register(app: click.Group) -> None:
    """Adds `himari tune`."""
    app.add_command(make_command(tune(), "tune"))


@configured("tune", "tune.trials", "tune.num_episodes", "tune.test_fraction", "tune.seed", ACCEPT, *AGENT, *LEDGER)
def tune(
    kind: Kind,
    data: Annotated[list[str], Option(help="Files or a folder of bars.")],
    settings: Resolved,
    symbol: Annotated[str | None, Option(help="Which symbol, where the data has several.")] = None,
    symbols: Annotated[list[str] | None, Option(help="multi: which symbols, for example BTC-USDT ETH-USDT.")] = None,
    funding: Annotated[str | None, Option(help="multi: folder of funding files.")] = None,
    features: Features = None,
    out: Annotated[str, Option(help="Folder of the study.")] = "runs/tune",
    as_json: Json = False,
) -> None:
    """Searches settings by combinatorial purged cross-validation inside the training span, and says how much is luck.

    Example: himari tune base --data BTC-USDT_1h.parquet --trials 20 --out runs/tune
    """
    import json

    from himari_rl.cli.walk_forward import history_of
    from himari_rl.experiments.recipe import Recipe
    from himari_rl.experiments.tune import tune as search
    from himari_rl.storage.mirror import workplace
    from himari_rl.training.progress import opened_progress

    console = stderr_console(highlight=False)
    asked = settings["tune"]
    recipe = Recipe(
        agent=settings["agent"],
        environment=settings["environment"],
        num_episodes=asked.num_episodes,
        purge_bars=asked.purge_bars,
    )
    bars = history_of(kind, data, symbol, symbols, funding, features)
    with workplace(out) as folder, opened_progress(console, "trials") as progress:
        tuned = search(
            bars,
            recipe,
            asked.trials,
            folder,
            seed=asked.seed,
            test_fraction=asked.test_fraction,
            accept=settings["data"].accept,
            progress=progress,
        )
    if as_json:
        click.echo(json.dumps(vars(tuned)))
        return
    luck = "" if tuned.overfitting is None else f"; probability of overfitting {tuned.overfitting:.2f}"
    console.print(f"{tuned.settings}: {100 * tuned.gain:+.1f} % a year over 1.0 in {tuned.trials} trials{luck}")
