"""himari walk-forward: train on the past, judge on what follows, over and over.

himari walk-forward base --data BTC-USDT_1h.parquet --out runs/btc
himari walk-forward base --data BTC-USDT_1h.parquet --out runs/btc --scheduler tcp://10.0.0.5:8786
himari walk-forward rule:rules.py:steady --data BTC-USDT_1h.parquet --out runs/steady
himari walk-forward base --data BTC-USDT_1h.parquet --set environment.charges.impact=1.0
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import click

from himari_rl.cli.console import stderr_console
from himari_rl.cli.options import ACCEPT, AGENT, BUDGET, LEDGER, Json, KindOrCode, configured, told_on
from himari_rl.cli.signature import Option, make_command
from himari_rl.cli.train import Features
from himari_rl.config import Resolved

if TYPE_CHECKING:
    from rich.console import Console

    from himari_rl.data.panel import Panel
    from himari_rl.schema import Bars


WALK = tuple(
    f"walk_forward.{name}"
    for name in (
        "train",
        "test",
        "step",
        "folds",
        "seeds",
        "num_episodes",
        "embargo_bars",
        "expanding",
        "warm_start",
        "validation_fraction",
        "bootstrap_paths",
        "synthetic_paths",
        "tune_trials",
    )
)


def register(app: click.Group) -> None:
    """Adds `himari walk-forward`."""
    app.add_command(make_command(walk_forward(), "walk-forward"))


@configured("walk-forward", *WALK, ACCEPT, *AGENT, *LEDGER, *BUDGET)
def walk_forward(
    kind: KindOrCode,
    data: Annotated[list[str], Option(help="Files or a folder of bars.")],
    settings: Resolved,
    symbol: Annotated[str | None, Option(help="Which symbol, where the data has several.")] = None,
    symbols: Annotated[list[str] | None, Option(help="multi: which symbols, for example BTC-USDT ETH-USDT.")] = None,
    funding: Annotated[str | None, Option(help="multi: folder of funding files.")] = None,
    features: Features = None,
    beliefs_from: Annotated[
        list[str] | None,
        Option("--beliefs-from", help="base: bars of other symbols, a file each, evidence for the beliefs."),
    ] = None,
    jobs: Annotated[int | None, Option(min=1, help="Processes; one a core by default.")] = None,
    scheduler: Annotated[str | None, Option(help="A Dask scheduler, tcp://HOST:8786, instead.")] = None,
    out: Annotated[str, Option(help="Folder of the run; a killed one continues.")] = "runs/walk-forward",
    overwrite: Annotated[
        bool,
        Option(
            "--overwrite",
            help="Set a run that is in the folder aside, renamed with the date. Without it another run there is "
            "refused; the same one continues, or if it has finished is judged again from its folds.",
        ),
    ] = False,
    key: Annotated[
        str | None, Option(help="PEM file of an Ed25519 private key: signs bundle, judgement and curves.")
    ] = None,
    task: Annotated[
        str | None,
        Option(
            metavar="INDEX/COUNT",
            help="Train this share of the folds and seeds, from 0; the task that ends last judges. A Cloud Run job's "
            "CLOUD_RUN_TASK_INDEX and CLOUD_RUN_TASK_COUNT say it too.",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Trains and judges in calendar folds, with controls; one out-of-sample account through all of them.

    Exit code 1 where a look-ahead is suspected.

    Example: himari walk-forward base --data BTC-USDT_1h.parquet --train 6mo --test 1mo --seeds 5 --out runs/btc
    """
    import json
    import os
    from functools import partial

    from himari_rl.cli.train import print_facts
    from himari_rl.cloud.costs import CostLedger
    from himari_rl.cloud.meter import metered
    from himari_rl.data.sources import load_bars
    from himari_rl.evaluation.record import BUNDLE
    from himari_rl.evaluation.statements import LOOK_AHEAD
    from himari_rl.experiments.arguments import accepted_facts
    from himari_rl.experiments.run import USD_PER_HOUR, run_walk_forward, settings_of
    from himari_rl.experiments.shares import all_shares_done, train_share
    from himari_rl.release.gate import gate, record
    from himari_rl.storage.mirror import workplace
    from himari_rl.training.dask_cluster import dask_pool
    from himari_rl.training.fan_out import local_pool
    from himari_rl.training.progress import opened_progress
    from himari_rl.trials.ledger import beginning_line

    if key is not None:
        from himari_rl.policy.signature import private_key, sign

        private_key(key)  # hours before it is needed
    environment = settings["environment"]
    agent = settings["agent"] if ":" not in kind or settings.typed("agent") else None
    asked = settings_of(kind, agent, environment, settings["walk_forward"])
    bars = history_of(kind, data, symbol, symbols, funding, features)
    others = [load_bars(path) for path in beliefs_from or ()]
    pool = dask_pool(scheduler) if scheduler else None if jobs == 1 else local_pool(jobs)
    console = stderr_console(highlight=False)
    accept = settings["data"].accept
    print_facts(accepted_facts(bars, accept), console)
    budget, costs = settings["budget"], CostLedger(os.environ.get("HIMARI_COSTS", ""))
    share = _share(task, os.environ)
    part = f"{share[0]} of {share[1]}" if share else ""
    meter = partial(metered, budget, "walk-forward", out, task=part, ledger=costs, tell=told_on(console))
    if share:
        with workplace(out) as folder, opened_progress(console, "share of the folds") as progress, meter():
            train_share(bars, asked, folder, *share, progress=progress, accept=accept, beliefs_from=others)
        if not all_shares_done(out, asked, bars, *share):
            console.print(f"task {share[0]} of {share[1]} has ended; the one that ends last judges", markup=False)
            return
    with workplace(out) as folder:
        if line := beginning_line():
            console.print(line, style="yellow", markup=False)
        with opened_progress(console, "folds x seeds", then="judging") as progress, meter():
            document = run_walk_forward(
                bars,
                asked,
                folder,
                pool,
                progress=progress,
                usd_per_hour=budget.usd_per_hour or USD_PER_HOUR,
                overwrite=overwrite,
                accept=accept,
                tell=told_on(console),
                beliefs_from=others,
            )
        answer = gate(folder / BUNDLE, settings["gate"])
        record(folder / BUNDLE, answer)
        if key is not None:  # last: the signature is over all of the manifest, the digests of the judgement in it
            sign(folder / BUNDLE, key)
    if as_json:
        click.echo(json.dumps(document, allow_nan=False))
    else:
        show(document, console, f"Ledger: {environment.describe()}.")
        console.print(f"gate: {answer.reason}", markup=False)
        told = " --external-code" if ":" in kind else ""
        for line in (f"next: himari gate {out}/{BUNDLE}{told}", f"      himari report {out}{told}"):
            console.print(line, markup=False, highlight=False, soft_wrap=True)  # to be copied in one piece
    if document["judgement"]["verdict"]["answer"] == LOOK_AHEAD:
        raise click.exceptions.Exit(1)


def _share(task: str | None, environment: Mapping[str, str]) -> tuple[int, int] | None:
    """Which of how many tasks this is; none where the walk-forward is one process's own."""
    from himari_rl.errors import ConfigError

    index, count = (environment.get(f"CLOUD_RUN_TASK_{name}", "") for name in ("INDEX", "COUNT"))
    said = task or (f"{index}/{count}" if index and count else "")
    if not said:
        return None
    first, _, last = said.partition("/")
    if not (first.isdecimal() and last.isdecimal() and int(first) < int(last)):
        raise ConfigError(f"task {said}", "INDEX/COUNT, from 0/COUNT on", "for example --task 0/8")
    return int(first), int(last)


def history_of(
    kind: str,
    data: list[str],
    symbol: str | None,
    symbols: list[str] | None,
    funding: str | None,
    features: str | None = None,
) -> Bars | Panel:
    """What a kind of agent learns from: one symbol's bars, or for multi a panel; with the features that it sees."""
    from himari_rl.data.panel import load_panel
    from himari_rl.data.sources import load_bars
    from himari_rl.errors import ConfigError
    from himari_rl.features.own import with_named

    if (kind == "multi") != bool(symbols) and ":" not in kind:  # code of somebody's own takes either
        raise ConfigError(f"{kind} with symbols {symbols}", "multi with --symbols, the others without")
    if symbols:
        return with_named(load_panel(data, symbols, funding=funding), features)
    return with_named(load_bars(data, symbol), features)


def show(document: dict[str, Any], console: Console, ledger: str) -> None:
    """The judgement for the eye: controls, power, trials, the policy minus each baseline, the sentence."""
    from himari_rl.evaluation.display import baselines_table, control_line, print_verdict

    judgement = document["judgement"]
    verdict = judgement["verdict"]
    utility, sharpe = verdict["utility"], verdict["own"]["sharpe"]
    console.print(
        f"\n{', '.join(document['symbols'])}: {len(document['folds'])} folds, {verdict['decisions']:,} decisions out "
        f"of sample, {verdict['start']} to {verdict['end']}",
        style="bold",
    )
    console.print(ledger, markup=False)
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
    looks = verdict["trials"]
    console.print(f"look {looks} at this span ({document['registration']['line']})", markup=False)
    for leak in document["leaks"]:
        console.print(f"[red]suspected leak[/] {leak}")
    for column in document.get("implausible", ()):
        console.print(f"[yellow]too good[/] {column}")
    console.print(baselines_table(verdict))
    print_verdict(console, verdict)
