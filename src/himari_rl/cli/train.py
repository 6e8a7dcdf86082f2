"""`himari train base|lstm|multi`: bars in, a policy bundle out."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import click

from himari_rl.cli.console import stderr_console
from himari_rl.cli.options import ACCEPT, AGENT, BUDGET, LEDGER, Json, configured, told_on
from himari_rl.cli.signature import Option, make_command, make_group
from himari_rl.config import Resolved

if TYPE_CHECKING:
    from rich.console import Console

    from himari_rl.data.facts import Fact
    from himari_rl.data.panel import Panel
    from himari_rl.schema import Bars
    from himari_rl.training.job import TrainingResult

Data = Annotated[list[str], Option("--data", help="Bars: CSV, CSV.gz, Parquet files or a folder; local or gs://.")]
Symbol = Annotated[str | None, Option(help="Which symbol, where the data has several.")]
Symbols = Annotated[list[str], Option(help="2 to 100 symbols, in the order of the policy's state and answer.")]
Interval = Annotated[str | None, Option(help="Which bars, where the data has several: 1h, 1d.")]
Funding = Annotated[str | None, Option(help="Folder of SYMBOL_funding_8h files, one for each symbol.")]
Features = Annotated[
    str | None,
    Option(
        metavar="A,B", help="Columns of the data that the policy sees too, in this order; of a panel every symbol's."
    ),
]
Out = Annotated[str, Option(help="Folder of the run, local or gs://.")]
Resume = Annotated[bool, Option("--resume", help="Continue from the run's last checkpoint.")]
Overwrite = Annotated[
    bool,
    Option(
        "--overwrite",
        help="Set a run that is in the folder aside, renamed with the date. Without it another run there is refused; "
        "of the same settings and data, a finished one is not trained again, one that was cut off asks for --resume.",
    ),
]
TensorBoard = Annotated[bool, Option("--tensorboard", help="Also write TensorBoard events to OUT/tensorboard.")]

BeliefsFrom = Annotated[
    list[str] | None,
    Option("--beliefs-from", help="Bars of other symbols, a file each: evidence for the beliefs (docs/beliefs.md)."),
]

RUN = (
    "train.num_episodes",
    "train.seeds",
    "train.save_interval",
    "train.test_fraction",
    "train.device",
    ACCEPT,
    *BUDGET,
)
MEMORY = ("agent.lstm_hidden_dim", "agent.lstm_num_layers", "agent.gap_rule")


def register(app: click.Group) -> None:
    """Adds `himari train` to the root app."""
    train_app = make_group("train", function=_train)
    for name, command in (("base", train_base), ("lstm", train_lstm), ("multi", train_multi)):
        train_app.add_command(make_command(command(), name))
    app.add_command(train_app)


def _train() -> None:
    """Trains a policy and writes its bundle.

    Example: himari train base --data bars.parquet --out runs/mine
    """


@configured("train", *RUN, *AGENT, *LEDGER, kind="base")
def train_base(
    data: Data,
    settings: Resolved,
    symbol: Symbol = None,
    features: Features = None,
    beliefs_from: BeliefsFrom = None,
    out: Out = "runs/base",
    resume: Resume = False,
    overwrite: Overwrite = False,
    tensorboard: TensorBoard = False,
    as_json: Json = False,
) -> None:
    """Trains the base PPO on the first 80 % of the bars and writes OUT/bundle.

    Example: himari train base --data bars.parquet --num-episodes 1000 --seed 0 --out runs/mine
    """
    from himari_rl.data.sources import load_bars
    from himari_rl.features.own import with_named

    others = [load_bars(path) for path in beliefs_from or ()]
    bars = with_named(load_bars(data, symbol=symbol), features)
    _run(settings, bars, data, out, resume, overwrite, tensorboard, as_json, others)


@configured("train", *RUN, *AGENT, *MEMORY, *LEDGER, kind="lstm")
def train_lstm(
    data: Data,
    settings: Resolved,
    symbol: Symbol = None,
    features: Features = None,
    out: Out = "runs/lstm",
    resume: Resume = False,
    overwrite: Overwrite = False,
    tensorboard: TensorBoard = False,
    as_json: Json = False,
) -> None:
    """Trains the agent with memory (with --no-beliefs the recurrent PPO) on the first 80 %; writes OUT/bundle.

    Example: himari train lstm --data bars.parquet --num-episodes 1000 --seed 0 --out runs/lstm
    """
    from himari_rl.data.sources import load_bars
    from himari_rl.features.own import with_named

    bars = with_named(load_bars(data, symbol=symbol), features)
    _run(settings, bars, data, out, resume, overwrite, tensorboard, as_json)


@configured("train", *RUN, *AGENT, *LEDGER, kind="multi")
def train_multi(
    data: Data,
    symbols: Symbols,
    settings: Resolved,
    interval: Interval = None,
    funding: Funding = None,
    features: Features = None,
    out: Out = "runs/multi",
    resume: Resume = False,
    overwrite: Overwrite = False,
    tensorboard: TensorBoard = False,
    as_json: Json = False,
) -> None:
    """Trains one policy that sizes a portfolio, on the first 80 % of the symbols' common span; writes OUT/bundle.

    Example: himari train multi --data bars/ --symbols BTC-USDT ETH-USDT SOL-USDT --out runs/multi
    """
    from himari_rl.data.panel import load_panel
    from himari_rl.features.own import with_named

    bars = with_named(load_panel(data, symbols, interval, funding=funding), features)
    _run(settings, bars, data, out, resume, overwrite, tensorboard, as_json)


def _run(
    settings: Resolved,
    bars: Bars | Panel,
    data: list[str],
    out: str,
    resume: bool,
    overwrite: bool,
    tensorboard: bool,
    as_json: bool,
    others: Sequence[Bars] = (),
) -> None:
    """Trains with what was asked for, writes the run into the trial ledger and says what there is."""
    from himari_rl.cloud.costs import CostLedger
    from himari_rl.cloud.meter import metered
    from himari_rl.experiments.arguments import accepted_facts
    from himari_rl.experiments.train import recorded_job
    from himari_rl.storage import join
    from himari_rl.storage.mirror import workplace
    from himari_rl.training.job import Job
    from himari_rl.training.record import BUNDLE
    from himari_rl.training.watch import Watch

    job = Job(agent=settings["agent"], environment=settings["environment"], **vars(settings["train"]))
    console = stderr_console()
    accept = settings["data"].accept
    print_facts(accepted_facts(bars, accept), console)
    meter = metered(settings["budget"], "train", out, ledger=CostLedger(""), tell=told_on(console), asked="--resume")
    with workplace(out) as folder, Watch(console, folder / "tensorboard" if tensorboard else None) as watch, meter:
        trained = recorded_job(
            job,
            bars,
            folder,
            resume=resume,
            overwrite=overwrite,
            watch=watch,
            accept=accept,
            tell=told_on(console),
            beliefs_from=others,
        )
    _report(trained, join(out, BUNDLE), data, console, as_json)


def print_facts(found: Sequence[Fact], console: Console) -> None:
    """What the data says of itself, one line each."""
    from himari_rl.evaluation.terminal import wrapped

    for fact in found:
        style = "dim" if fact.level == "note" else "yellow"
        console.print(wrapped(fact.sentence), style=style, markup=False, soft_wrap=True)


def _report(trained: TrainingResult, bundle: str, data: list[str], console: Console, as_json: bool) -> None:
    """What was trained, for a machine on stdout or for a person."""
    summary = {
        "bundle": bundle,
        "model_version": trained.manifest.version,
        "bars_asked": _asked(trained),
        "bars": trained.bars,
        "seconds": round(trained.seconds, 2),
        "steps_per_second": round(trained.bars / trained.seconds) if trained.seconds else None,
        "metrics": trained.metrics,
    }
    if as_json:
        sys.stdout.write(json.dumps(summary) + "\n")
        return
    if trained.seconds:
        rate = f"{summary['steps_per_second']:,} steps/s"
        console.print(f"trained on {trained.bars:,} bars in {trained.seconds:.1f} s ({rate})")
    console.print(
        f"bundle   {bundle}  [dim]{trained.manifest.version}[/dim]"
        f"\njudge it [bold]himari evaluate {bundle} --data {' '.join(data)}[/bold]",
        soft_wrap=True,  # a line that is copied
    )


def _asked(trained: TrainingResult) -> int | None:
    """Bars that were asked for, all seeds together, where the bundle says so."""
    run = trained.manifest.config.get("run")
    asked = run.get("bars_asked") if isinstance(run, dict) else None
    return asked if isinstance(asked, int) else None
