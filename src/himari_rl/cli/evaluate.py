"""himari evaluate: a bundle's verdict on bars its training never saw.

himari evaluate runs/mine/bundle --data BTC-USD_1h.parquet
himari evaluate runs/mine/bundle --data BTC-USD_1h.parquet --html equity.html --json
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from himari_rl.schema import RISK_AVERSION

if TYPE_CHECKING:
    from himari_rl.data.panel import Panel
    from himari_rl.evaluation.backtest import Variant
    from himari_rl.policy.manifest import TrainingData
    from himari_rl.schema import Bars

SUMMARY = "evaluation.json"


def register(app: typer.Typer) -> None:
    """Adds `himari evaluate`."""
    app.command()(evaluate)


def evaluate(
    bundle: Annotated[str, typer.Argument(help="Folder of the policy bundle.")],
    data: Annotated[list[str], typer.Option(help="Files or a folder of bars, of the bundle's symbols.")],
    symbol: Annotated[str | None, typer.Option(help="Which symbol, where the data has several.")] = None,
    funding: Annotated[Path | None, typer.Option(help="Folder of funding files, for a bundle of several.")] = None,
    test_fraction: Annotated[float, typer.Option(help="Share of the rows, at the end, to judge on.")] = 0.2,
    costs: Annotated[list[float] | None, typer.Option(help="Cost multiples beside x1; 2 and 3 if not given.")] = None,
    trials: Annotated[
        int | None, typer.Option(help="Configurations tried before this one was chosen (default: the trial ledger's).")
    ] = None,
    risk_aversion: Annotated[float, typer.Option(help="Of the mean-variance utility.")] = RISK_AVERSION,
    seed: Annotated[int, typer.Option(min=0, help="Of the bootstrap and the random baseline.")] = 0,
    allow_seen: Annotated[
        bool, typer.Option("--allow-seen", help="Judge on bars of the training span, and say so.")
    ] = False,
    html: Annotated[str | None, typer.Option(help="Write equity curves to this file.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
) -> None:
    """Judges a bundle on held-out bars against multiplier 1.0, with controls; writes evaluation.json into the bundle.

    Exit code 1 where a look-ahead is suspected.

    Example: himari evaluate runs/mine/bundle --data BTC-USD_1h.parquet
    """
    import numpy as np
    from rich.console import Console

    from himari_rl.cli.walk_forward import opened_progress
    from himari_rl.data.checks import interval_name
    from himari_rl.data.panel import Panel, load_panel
    from himari_rl.data.sources import load_bars
    from himari_rl.data.splits import train_test
    from himari_rl.errors import ConfigError
    from himari_rl.evaluation.backtest import stage
    from himari_rl.evaluation.display import equity_html, render
    from himari_rl.evaluation.portfolio import measure
    from himari_rl.evaluation.portfolio_display import render_portfolio
    from himari_rl.evaluation.verdict import LOOK_AHEAD
    from himari_rl.experiments.held_out import judge_bundle
    from himari_rl.policy.runtime import load_policy
    from himari_rl.storage import local_path, write_atomic

    variants = _variants(costs)
    if not 0.0 <= risk_aversion <= 1000.0:  # NaN fails too
        raise ConfigError(
            f"risk aversion {risk_aversion}", "a number from 0 to 1000", f"{RISK_AVERSION} is the usual one"
        )
    policy = load_policy(bundle)
    manifest = policy.manifest
    if manifest.action_dim > 1:
        bars = load_panel(data, manifest.symbols, interval_name(manifest.ledger.interval_ms), funding=funding)
    else:
        bars = load_bars(data, symbol)
    _, test = train_test(bars, test_fraction, purge_bars=0)
    seen = _seen(test, manifest.training_data)
    if seen and not allow_seen:
        raise _overlap(test, manifest.training_data)
    rng = np.random.default_rng(seed)
    first = len(bars) - len(test)
    on = stage(bars, manifest.ledger, first)
    place = local_path(bundle)
    with opened_progress(Console(stderr=True, highlight=False), "controls", quiet=as_json) as progress:
        held = judge_bundle(
            policy,
            bars,
            first,
            place,
            lambda: _trials(_record(test, manifest.version), trials),
            rng,
            variants=variants,
            risk_aversion=risk_aversion,
            progress=progress,
        )
    verdict, result = held.verdict, held.result
    document = {
        "model_version": manifest.version,
        "data": _described(test),
        "synthetic": bars.synthetic,
        "signals": "data" if bars.signals_supplied else "reference",
        "seen_in_training": seen,
        "seed": seed,
        "verdict": verdict.to_dict(),
        "controls": [control.to_dict() for control in held.controls],
        "detectable": held.detectable,
    }
    portfolio = measure(result, on, manifest.ledger, rng) if isinstance(bars, Panel) else None
    if portfolio is not None:
        document["portfolio"] = portfolio.to_dict()
    text = json.dumps(document, indent=2, allow_nan=False)
    write_atomic(place / SUMMARY, text.encode())
    if html is not None:
        write_atomic(html, equity_html(result, verdict).encode())
    if as_json:
        typer.echo(text)
    else:
        console = Console(highlight=False)
        for note in _notes(bars, seen):
            console.print(note, style="yellow")
        render(verdict, console, held.controls, held.detectable)
        if portfolio is not None:
            render_portfolio(portfolio, console)
    if verdict.answer == LOOK_AHEAD:
        raise typer.Exit(1)


def _record(test: Bars | Panel, version: str) -> int:
    """Counts this look at the test span and those before it; see evaluation/trials.py."""
    from himari_rl.evaluation.trials import Trials, look_of, span_of

    with Trials() as ledger:
        return ledger.look("evaluate", *span_of(test), look_of(version, test))


def _trials(counted: int, told: int | None) -> int:
    return counted if told is None else told


def _variants(costs: list[float] | None) -> tuple[Variant, ...]:
    from himari_rl.errors import ConfigError
    from himari_rl.evaluation.backtest import BASE, LAGGED, Variant

    multiples = (2.0, 3.0) if costs is None else costs
    for multiple in multiples:
        if not 0.0 <= multiple <= 100.0:  # NaN fails too
            raise ConfigError(f"cost multiple {multiple}", "a number from 0 to 100", "for example --costs 2 3")
    more = tuple(Variant(f"x{multiple:g}", multiple) for multiple in dict.fromkeys(multiples) if multiple != 1.0)
    return (BASE, *more, LAGGED)


def _milliseconds(moment: str) -> int:
    from datetime import UTC, datetime

    parsed = datetime.fromisoformat(moment)
    return int((parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)).timestamp() * 1000)


def _seen(test: Bars | Panel, trained: TrainingData) -> bool:
    """Whether training may have seen these bars. A synthetic market's dates say nothing about a recorded one."""
    if test.synthetic != trained.synthetic:
        return False
    first, last = int(test.timestamp[0]), int(test.timestamp[-1])
    return first <= _milliseconds(trained.end) and last >= _milliseconds(trained.start)


def _overlap(test: Bars | Panel, trained: TrainingData) -> Any:
    from himari_rl.data.table import stamp
    from himari_rl.errors import DataError

    return DataError(
        f"the bars to judge, {stamp(int(test.timestamp[0]))} to {stamp(int(test.timestamp[-1]))}, overlap the training "
        f"span, {trained.start} to {trained.end}",
        "bars that training never saw",
        "give later bars or a smaller --test-fraction; --allow-seen judges them anyway",
    )


def _described(test: Bars | Panel) -> dict[str, Any]:
    """What was judged, for the document."""

    symbol = ", ".join(test.symbols)
    return {"source": test.source, "sha256": test.fingerprint, "symbol": symbol, "rows": len(test)}


def _notes(bars: Bars | Panel, seen: bool) -> list[str]:

    notes = []
    if bars.synthetic:
        notes.append("These bars are synthetic: the verdict says nothing about a real market.")
    if not bars.signals_supplied:
        notes.append("No Layer 2 columns in the data: directions come from the causal reference signal.")
    if seen:
        notes.append("These bars lie in the training span: this is no test.")
    return notes
