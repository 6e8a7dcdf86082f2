"""`himari train base`: bars in, a policy bundle out."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

train_app = typer.Typer(no_args_is_help=True, help="Trains a policy and writes its bundle.")

Data = Annotated[list[Path], typer.Option("--data", help="Bars: CSV, CSV.gz, Parquet files or a folder.")]


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
    symbol: Annotated[str | None, typer.Option(help="Which symbol, where the data has several.")] = None,
    num_episodes: Annotated[int, typer.Option(min=1, help="Episodes of 500 bars.")] = 1000,
    seed: Annotated[int, typer.Option(min=0, help="First seed: same seed, same weights, bit for bit.")] = 0,
    seeds: Annotated[int, typer.Option(min=1, help="How many agents; the bundle is their ensemble.")] = 1,
    out: Annotated[Path, typer.Option(help="Folder of the run.")] = Path("runs/base"),
    resume: Annotated[bool, typer.Option("--resume", help="Continue from the run's last checkpoint.")] = False,
    save_interval: Annotated[int, typer.Option(min=1, help="Episodes between two checkpoints.")] = 100,
    test_fraction: Annotated[float, typer.Option(min=0.0, max=0.9, help="Last share of the bars, never seen.")] = 0.2,
    hidden_dim: Annotated[int | None, typer.Option(min=1, help="Units of each hidden layer.")] = None,
    learning_rate: Annotated[float | None, typer.Option(min=0.0, help="Adam's first step.")] = None,
    reward: Annotated[str, typer.Option(help="mean_variance, log_growth or differential_sharpe.")] = "mean_variance",
    allow_short: Annotated[bool, typer.Option("--allow-short", help="SELL opens a short instead of cash.")] = False,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
) -> None:
    """Trains the base PPO on the first 80 % of the bars and writes OUT/bundle.

    Example: himari train base --data bars.parquet --num-episodes 1000 --seed 0 --out runs/mine
    """
    from himari_rl.agents.ppo_agent import PPOConfig
    from himari_rl.data.sources import load_bars
    from himari_rl.envs.physics import TradingEnvConfig
    from himari_rl.training.device import resolve_device
    from himari_rl.training.job import Job, run_job
    from himari_rl.training.watch import Watch

    chosen = {"hidden_dim": hidden_dim, "learning_rate": learning_rate}
    job = Job(
        agent=PPOConfig(**{name: value for name, value in chosen.items() if value is not None}),
        environment=TradingEnvConfig(reward=reward, allow_short=allow_short),
        num_episodes=num_episodes,
        seeds=tuple(range(seed, seed + seeds)),
        test_fraction=test_fraction,
        save_interval=save_interval,
        device=resolve_device(device),
    )
    bars = load_bars(data, symbol=symbol)
    console = Console(stderr=True)
    if bars.signals is None:
        console.print("[dim]no Layer 2 columns in the data: using the causal reference signal (momentum)[/dim]")
    with Watch(console, out / "tensorboard") as watch:
        trained = run_job(job, bars, out, resume=resume, watch=watch)
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
