"""himari walk-forward: train on the past, judge on what follows, over and over.

himari walk-forward base --data BTC-USDT_1h.parquet --out runs/btc
himari walk-forward base --data BTC-USDT_1h.parquet --out runs/btc --scheduler tcp://10.0.0.5:8786
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from himari_rl.data.panel import Panel
    from himari_rl.schema import Bars


def register(app: typer.Typer) -> None:
    """Adds `himari walk-forward`."""
    app.command("walk-forward")(walk_forward)


def walk_forward(
    kind: Annotated[str, typer.Argument(help="base, lstm or multi.")],
    data: Annotated[list[str], typer.Option(help="Files or a folder of bars.")],
    symbol: Annotated[str | None, typer.Option(help="Which symbol, where the data has several.")] = None,
    symbols: Annotated[
        list[str] | None, typer.Option(help="multi: which symbols, for example BTC-USDT ETH-USDT.")
    ] = None,
    funding: Annotated[str | None, typer.Option(help="multi: folder of funding files.")] = None,
    train: Annotated[str, typer.Option(help="Length of each training span: a number and h, d, w, mo or y.")] = "6mo",
    test: Annotated[str, typer.Option(help="Length of each test span.")] = "1mo",
    step: Annotated[str, typer.Option(help="How far the next fold starts later.")] = "1mo",
    newest: Annotated[int, typer.Option("--folds", min=0, help="Only the newest folds, so many; 0 is all.")] = 0,
    seeds: Annotated[int, typer.Option(min=1, help="Agents of each fold; the policy is their mean.")] = 5,
    bars_per_seed: Annotated[
        int, typer.Option(min=1, help="Training budget of each fold and seed, in bars.")
    ] = 500_000,
    embargo_bars: Annotated[int, typer.Option(min=0, help="Rows taken off the start of each test span.")] = 0,
    anchored: Annotated[bool, typer.Option("--anchored", help="Training always starts at the first bar.")] = False,
    warm_start: Annotated[bool, typer.Option("--warm-start", help="Start from the fold before's weights.")] = False,
    validation_fraction: Annotated[float, typer.Option(help="Share for early stopping; 0 is off.")] = 0.0,
    bootstrap_paths: Annotated[int, typer.Option(min=0, help="Block-bootstrapped copies to train on as well.")] = 0,
    synthetic_paths: Annotated[int, typer.Option(min=0, help="Driftless twins to train on as well.")] = 0,
    tune_trials: Annotated[
        int, typer.Option(min=0, help="Settings searched inside each fold's training rows; 0 is off.")
    ] = 0,
    hidden_dim: Annotated[int | None, typer.Option(min=1, help="Units of each hidden layer.")] = None,
    weight_decay: Annotated[float | None, typer.Option(min=0.0, help="AdamW's decay.")] = None,
    jobs: Annotated[int | None, typer.Option(min=1, help="Processes; one a core by default.")] = None,
    scheduler: Annotated[str | None, typer.Option(help="A Dask scheduler, tcp://HOST:8786, instead.")] = None,
    out: Annotated[str, typer.Option(help="Folder of the run; a killed one continues.")] = "runs/walk-forward",
    usd_per_hour: Annotated[float, typer.Option(min=0.0, help="Price of this machine, for the cost line.")] = 0.10,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
) -> None:
    """Trains and judges in calendar folds, with controls; one out-of-sample account through all of them.

    Exit code 1 where a look-ahead is suspected.

    Example: himari walk-forward base --data BTC-USDT_1h.parquet --train 6mo --test 1mo --seeds 5 --out runs/btc
    """
    import json
    from pathlib import Path

    from rich.console import Console

    from himari_rl.evaluation.record import BUNDLE
    from himari_rl.evaluation.verdict import LOOK_AHEAD
    from himari_rl.experiments.recipe import Recipe
    from himari_rl.experiments.run import run_walk_forward
    from himari_rl.experiments.walk_forward import Settings
    from himari_rl.release.gate import gate, record
    from himari_rl.release.rules import load_rules
    from himari_rl.training.fan_out import dask_pool, local_pool

    chosen = {"hidden_dim": hidden_dim, "weight_decay": weight_decay}
    recipe = Recipe.of_kind(
        kind,
        bars_per_seed=bars_per_seed,
        validation_fraction=validation_fraction,
        bootstrap_paths=bootstrap_paths,
        synthetic_paths=synthetic_paths,
    )
    settings = Settings(
        kind=kind,
        train=train,
        test=test,
        step=step,
        embargo_bars=embargo_bars,
        anchored=anchored,
        newest=newest,
        seeds=tuple(range(seeds)),
        warm_start=warm_start,
        tune_trials=tune_trials,
        recipe=recipe.with_agent({name: value for name, value in chosen.items() if value is not None}),
    )
    bars = history_of(kind, data, symbol, symbols, funding)
    pool = dask_pool(scheduler) if scheduler else None if jobs == 1 else local_pool(jobs)
    console = Console(stderr=True, highlight=False)
    with opened_progress(console, "folds x seeds") as progress:
        document = run_walk_forward(bars, settings, Path(out), pool, progress=progress, usd_per_hour=usd_per_hour)
    answer = gate(Path(out) / BUNDLE, load_rules())
    record(Path(out) / BUNDLE, answer)
    if as_json:
        typer.echo(json.dumps(document, allow_nan=False))
    else:
        show(document, console)
        console.print(f"gate: {answer.reason}", markup=False)
        console.print(f"next: himari gate {out}/{BUNDLE}    himari report {out}", markup=False)
    if document["judgement"]["verdict"]["answer"] == LOOK_AHEAD:
        raise typer.Exit(1)


def history_of(
    kind: str, data: list[str], symbol: str | None, symbols: list[str] | None, funding: str | None
) -> Bars | Panel:
    """What a kind of agent learns from: one symbol's bars, or for multi a panel."""
    from himari_rl.data.panel import load_panel
    from himari_rl.data.sources import load_bars
    from himari_rl.errors import ConfigError

    if (kind == "multi") != bool(symbols):
        raise ConfigError(f"{kind} with symbols {symbols}", "multi with --symbols, the others without")
    return load_panel(data, symbols, funding=funding) if symbols else load_bars(data, symbol)


@contextmanager
def opened_progress(console: Any, what: str, *, quiet: bool = False) -> Iterator[Callable[[int, int], None]]:
    """A bar with the time left; yields a function (done, total)."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TextColumn("left"), TimeRemainingColumn(), console=console, disable=quiet) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def show(document: dict[str, Any], console: Any) -> None:
    """The judgement for the eye: the sentence, the controls, the power, the trials."""
    from rich.panel import Panel

    from himari_rl.evaluation.display import control_line

    judgement = document["judgement"]
    verdict = judgement["verdict"]
    utility, sharpe = verdict["utility"], verdict["own"]["sharpe"]
    console.print(
        f"\n{', '.join(document['symbols'])}: {len(document['folds'])} folds, {verdict['decisions']:,} decisions out "
        f"of sample, {verdict['start']} to {verdict['end']}",
        style="bold",
    )
    for control in judgement["controls"]:
        console.print(control_line(control["name"], control["passed"], control["sentence"]))
    spread = ", ".join(f"{value:+.2f}" for value in judgement["seeds"].values())
    console.print(
        f"Sharpe ratio a year {sharpe['estimate']:+.2f} ({sharpe['lower']:+.2f} to {sharpe['upper']:+.2f})"
        f"{f', seeds alone {spread}' if spread else ''}; deflated for {verdict['trials']} trials "
        f"{judgement['own_deflated_sharpe']:.2f}. Utility over multiplier 1.0 {100 * utility['estimate']:+.1f} % a "
        f"year ({100 * utility['lower']:+.1f} to {100 * utility['upper']:+.1f}); this much data shows "
        f"{100 * judgement['detectable']:.1f} % with 95 % power."
    )
    for leak in document["leaks"]:
        console.print(f"[red]suspected leak[/] {leak}")
    console.print(Panel(verdict["sentence"], title="verdict"))
