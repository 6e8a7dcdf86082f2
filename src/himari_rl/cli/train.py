"""`himari train base|lstm|multi`: bars in, a policy bundle out."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

if TYPE_CHECKING:
    from himari_rl.data.panel import Panel
    from himari_rl.schema import Bars
    from himari_rl.training.job import Trained

SEEDS = 5
"""One seed's verdict is a coin toss: seed 0 alone called BTC "better, 98.7 % sure", five together do not."""

train_app = typer.Typer(no_args_is_help=True, help="Trains a policy and writes its bundle.")

Data = Annotated[list[Path], typer.Option("--data", help="Bars: CSV, CSV.gz, Parquet files or a folder.")]
Symbol = Annotated[str | None, typer.Option(help="Which symbol, where the data has several.")]
Symbols = Annotated[list[str], typer.Option(help="2 to 20 symbols, in the order of the policy's state and answer.")]
Interval = Annotated[str | None, typer.Option(help="Which bars, where the data has several: 1h, 1d.")]
Funding = Annotated[Path | None, typer.Option(help="Folder of SYMBOL_funding_8h files, one for each symbol.")]
NumEpisodes = Annotated[int, typer.Option(min=1, help="Episodes of 500 bars.")]
Seed = Annotated[int, typer.Option(min=0, help="First seed: same seed, same weights, bit for bit.")]
Seeds = Annotated[int, typer.Option(min=1, help="How many agents; the bundle is their ensemble.")]
Out = Annotated[Path, typer.Option(help="Folder of the run.")]
Resume = Annotated[bool, typer.Option("--resume", help="Continue from the run's last checkpoint.")]
SaveInterval = Annotated[int, typer.Option(min=1, help="Episodes between two checkpoints.")]
TestFraction = Annotated[float, typer.Option(help="Last share of the bars, above 0 and below 1, never seen.")]
Units = Annotated[int | None, typer.Option(min=1, help="Units of each hidden layer.")]
Cells = Annotated[int | None, typer.Option(min=1, help="Cells of each LSTM layer.")]
Layers = Annotated[int | None, typer.Option(min=1, help="LSTM layers.")]
GapRule = Annotated[str, typer.Option(help="Memory after missing bars: reset, or advance by the last state.")]
Rate = Annotated[float | None, typer.Option(min=0.0, help="Adam's first step.")]
Reward = Annotated[str, typer.Option(help="mean_variance, log_growth or differential_sharpe.")]
Short = Annotated[bool, typer.Option("--allow-short", help="SELL opens a short instead of cash.")]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]


def register(app: typer.Typer) -> None:
    """Adds `himari train` to the root app."""
    app.add_typer(train_app, name="train")


@train_app.callback()
def _train() -> None:
    """Trains a policy and writes its bundle.

    Example: himari train base --data bars.parquet --out runs/mine
    """


@train_app.command("base")
def train_base(
    data: Data,
    symbol: Symbol = None,
    num_episodes: NumEpisodes = 1000,
    seed: Seed = 0,
    seeds: Seeds = SEEDS,
    out: Out = Path("runs/base"),
    resume: Resume = False,
    save_interval: SaveInterval = 100,
    test_fraction: TestFraction = 0.2,
    hidden_dim: Units = None,
    learning_rate: Rate = None,
    reward: Reward = "mean_variance",
    allow_short: Short = False,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Trains the base PPO on the first 80 % of the bars and writes OUT/bundle.

    Example: himari train base --data bars.parquet --num-episodes 1000 --seed 0 --out runs/mine
    """
    chosen = {"hidden_dim": hidden_dim, "learning_rate": learning_rate}
    world = {"reward": reward, "allow_short": allow_short}
    run = {"num_episodes": num_episodes, "save_interval": save_interval, "test_fraction": test_fraction}
    _train_kind("base", chosen, world, run, data, symbol, range(seed, seed + seeds), out, resume, device, as_json)


@train_app.command("lstm")
def train_lstm(
    data: Data,
    symbol: Symbol = None,
    num_episodes: NumEpisodes = 1000,
    seed: Seed = 0,
    seeds: Seeds = SEEDS,
    out: Out = Path("runs/lstm"),
    resume: Resume = False,
    save_interval: SaveInterval = 100,
    test_fraction: TestFraction = 0.2,
    hidden_dim: Units = None,
    lstm_hidden_dim: Cells = None,
    lstm_num_layers: Layers = None,
    gap_rule: GapRule = "reset",
    learning_rate: Rate = None,
    reward: Reward = "mean_variance",
    allow_short: Short = False,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Trains the recurrent PPO on the first 80 % of the bars and writes OUT/bundle.

    Example: himari train lstm --data bars.parquet --num-episodes 1000 --seed 0 --out runs/lstm
    """
    chosen = {
        "hidden_dim": hidden_dim,
        "lstm_hidden_dim": lstm_hidden_dim,
        "lstm_num_layers": lstm_num_layers,
        "gap_rule": gap_rule,
        "learning_rate": learning_rate,
    }
    world = {"reward": reward, "allow_short": allow_short}
    run = {"num_episodes": num_episodes, "save_interval": save_interval, "test_fraction": test_fraction}
    _train_kind("lstm", chosen, world, run, data, symbol, range(seed, seed + seeds), out, resume, device, as_json)


@train_app.command("multi")
def train_multi(
    data: Data,
    symbols: Symbols,
    interval: Interval = None,
    funding: Funding = None,
    num_episodes: NumEpisodes = 1000,
    seed: Seed = 0,
    seeds: Seeds = SEEDS,
    out: Out = Path("runs/multi"),
    resume: Resume = False,
    save_interval: SaveInterval = 100,
    test_fraction: TestFraction = 0.2,
    hidden_dim: Units = None,
    learning_rate: Rate = None,
    reward: Reward = "mean_variance",
    allow_short: Short = False,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Trains one policy that sizes a portfolio, on the first 80 % of the symbols' common span; writes OUT/bundle.

    Example: himari train multi --data bars/ --symbols BTC-USDT ETH-USDT SOL-USDT --out runs/multi
    """
    from himari_rl.data.panel import load_panel

    chosen = {"hidden_dim": hidden_dim, "learning_rate": learning_rate}
    world = {"reward": reward, "allow_short": allow_short}
    run = {"num_episodes": num_episodes, "save_interval": save_interval, "test_fraction": test_fraction}
    panel = load_panel(data, symbols, interval, funding=funding)
    _train_bars("multi", chosen, world, run, panel, data, range(seed, seed + seeds), out, resume, device, as_json)


def _train_kind(
    kind: str,
    chosen: dict[str, Any],
    world: dict[str, Any],
    run: dict[str, Any],
    data: list[Path],
    symbol: str | None,
    seeds: range,
    out: Path,
    resume: bool,
    device: str,
    as_json: bool,
) -> None:
    """Trains one kind on one symbol; `chosen` are the agent's fields, None where the kind's default stands."""
    from himari_rl.data.sources import load_bars

    bars = load_bars(data, symbol=symbol)
    _train_bars(kind, chosen, world, run, bars, data, seeds, out, resume, device, as_json)


def _train_bars(
    kind: str,
    chosen: dict[str, Any],
    world: dict[str, Any],
    run: dict[str, Any],
    bars: Bars | Panel,
    data: list[Path],
    seeds: range,
    out: Path,
    resume: bool,
    device: str,
    as_json: bool,
) -> None:
    from himari_rl.agents.config import config_type
    from himari_rl.envs.config import TradingEnvConfig
    from himari_rl.training.device import resolve_device
    from himari_rl.training.job import Job, run_job
    from himari_rl.training.watch import Watch

    job = Job(
        agent=config_type(kind)(**{name: value for name, value in chosen.items() if value is not None}),
        environment=TradingEnvConfig(**world),
        seeds=tuple(seeds),
        device=resolve_device(device),
        **run,
    )
    console = Console(stderr=True)
    if not bars.signals_supplied:
        console.print("[dim]no Layer 2 columns in the data: using the causal reference signal (momentum)[/dim]")
    with Watch(console, out / "tensorboard") as watch:
        trained = run_job(job, bars, out, resume=resume, watch=watch)
    _record(bars, trained, test_fraction=job.test_fraction)
    _report(trained, data, console, as_json)


def _record(bars: Bars | Panel, trained: Trained, test_fraction: float) -> None:
    """Writes this training run and its span into the trial ledger."""
    from himari_rl.data.splits import train_test
    from himari_rl.evaluation.trials import Trials, span_of

    with Trials() as ledger:
        ledger.trained(*span_of(train_test(bars, test_fraction)[0]), trained.manifest.version)


def _report(trained: Trained, data: list[Path], console: Console, as_json: bool) -> None:
    """What was trained, for a machine on stdout or for a person."""
    summary = {
        "bundle": str(trained.bundle),
        "model_version": trained.manifest.version,
        "bars": trained.bars,
        "seconds": round(trained.seconds, 2),
        "steps_per_second": round(trained.bars / trained.seconds) if trained.seconds else None,
        "metrics": trained.metrics,
    }
    if as_json:
        sys.stdout.write(json.dumps(summary) + "\n")
        return
    console.print(
        f"trained on {trained.bars:,} bars in {trained.seconds:.1f} s ({summary['steps_per_second']:,} steps/s)"
        f"\nbundle   {trained.bundle}  [dim]{trained.manifest.version}[/dim]"
        f"\njudge it [bold]himari evaluate {trained.bundle} --data {' '.join(map(str, data))}[/bold]"
    )
