"""himari demo: the whole road once, from bars to a served answer.

himari demo
himari demo --data BTC-USD_1h.parquet
himari demo --real

Each stage prints the command that does it and runs that very command, so the road is one anybody can walk again
alone; only the features and the HTTP request have no command of their own.
"""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import click

from himari_rl.cli.options import told_on
from himari_rl.cli.signature import Option, make_command
from himari_rl.training.config import TrainConfig

if TYPE_CHECKING:
    from rich.console import Console

    from himari_rl.schema import Bars

STAGES = ("Bars", "Audit", "Features", "Train", "Evaluate", "Serve")
REAL_BARS = "himari data fetch BTC-USD --since 2020-01-01"
REAL = f"""\
{REAL_BARS}          hourly candles of a public exchange; begins where it stopped
himari demo --data data/coinbase/BTC-USD_1h.parquet    the same six stages on them
Bars of your own: any CSV, Parquet, Feather or JSON that `himari data audit FILE` calls usable (docs/data.md)."""
PAGE = "report.html"
ROWS = 35_000  # four years of hours
START_S = 30.0  # the server's time to listen


def register(app: click.Group) -> None:
    """Adds `himari demo`."""
    app.add_command(make_command(demo))


def demo(
    data: Annotated[list[str] | None, Option(help="Files or a folder of bars (default: synthetic).")] = None,
    symbol: Annotated[str | None, Option(help="Which symbol, where the data has several.")] = None,
    out: Annotated[str, Option(help="Folder for bars, bundle and verdict.")] = "runs/demo",
    num_episodes: Annotated[int, Option(help="Training budget, in episodes of 500 bars.")] = TrainConfig.num_episodes,
    seed: Annotated[int, Option(help="Of the market, the training and the evaluation.")] = 0,
    real: Annotated[bool, Option("--real", help="Only say how it is walked on real bars.")] = False,
    as_json: Annotated[bool, Option("--json", help="One JSON document on stdout, the story on stderr.")] = False,
) -> None:
    """Walks the whole road once: bars, audit, features, PPO, bundle, verdict, one answer over HTTP.

    Example: himari demo --data data/coinbase/BTC-USD_1h.parquet
    """
    from himari_rl.storage import local_path

    if real:
        click.echo(json.dumps({"commands": REAL.splitlines()[:2]}) if as_json else REAL)
        return
    with redirect_stdout(sys.stderr) if as_json else nullcontext():
        document = _walk(data, symbol, local_path(out), num_episodes, seed)
    if as_json:
        click.echo(json.dumps(document, allow_nan=False))


def _walk(data: list[str] | None, symbol: str | None, out: Path, num_episodes: int, seed: int) -> dict[str, Any]:
    from rich.console import Console

    from himari_rl.data.sources import load_bars
    from himari_rl.experiments.evaluate import SUMMARY
    from himari_rl.experiments.run_folder import put_aside
    from himari_rl.storage import read_bytes

    console = Console(highlight=False, soft_wrap=True)
    put_aside(out, told_on(console))
    which = [] if symbol is None else ["--symbol", symbol]
    stages = iter(enumerate(STAGES, 1))

    def title(what: str) -> None:
        number, name = next(stages)
        console.print(f"\n[bold cyan]{number}/{len(STAGES)} {name}[/]  {what}")

    title("one row an hour: open, high, low, close, volume.")
    paths = data or [_synthetic(console, out, seed)]
    bars = load_bars(paths, symbol)
    console.print(f"{len(bars):,} bars of {bars.symbol} from {bars.source}", markup=False)

    title("gaps stay gaps, nothing is filled; columns that know the future are named.")
    _command(console, "data", "audit", *paths, *which)

    title("the last hour as a policy sees it: sixteen numbers, from this bar and earlier ones.")
    state = _last_state(bars)
    _show(console, state)

    title("PPO on the first 80 % of the bars; it starts at 1.0, doing as Layer 2 says.")
    train = ["train", "base", "--data", *paths, *which, "--num-episodes", str(num_episodes), "--seed", str(seed)]
    if not data:
        train += ["--seeds", "1"]  # shows the road; a verdict on real bars takes the default
    _command(console, *train, "--out", str(out))

    title("the bundle, as it would be served, on the last 20 %, which training never saw.")
    bundle = str(out / "bundle")
    page = str(out / PAGE)
    _command(console, "evaluate", bundle, "--data", *paths, *which, "--seed", str(seed), "--html", page)

    title("the same bundle behind HTTP, in a process without torch; the state of stage 3 goes in.")
    request, answer = _ask(console, bundle, state)

    verdict = json.loads(read_bytes(out / "bundle" / SUMMARY))["verdict"]
    console.print(f"\n[bold]Done.[/] {verdict['sentence']}")
    console.print(f"The policy is in {bundle}. Serve it: himari serve {bundle} --port 8080", markup=False)
    if bars.synthetic:
        console.print(f"That was a synthetic market. Real bars: {REAL_BARS}", style="yellow", markup=False)
    console.print(f"All of it on one page, the run card: {page}", markup=False)
    return {
        "bundle": bundle,
        "page": page,
        "synthetic": bars.synthetic,
        "rows": len(bars),
        "verdict": verdict,
        "request": request,
        "answer": answer,
    }


def _synthetic(console: Console, out: Path, seed: int) -> str:
    from himari_rl.data.synthetic import synthetic_bars
    from himari_rl.data.table import write_bars

    bars = synthetic_bars(ROWS, seed)
    path = out / f"{bars.symbol}_1h.parquet"
    write_bars(bars, path)
    console.print(
        f"No --data given, so this is a SYNTHETIC market (seed {seed}); for real bars: {REAL_BARS}",
        style="yellow",
        markup=False,
    )
    return str(path)


def _command(console: Console, *words: str) -> None:
    """Prints a command and runs it; what it refuses ends the demo with its own exit code."""
    from himari_rl import cli

    console.print(f"$ himari {shlex.join(words)}", style="dim", markup=False)
    code = cli.run(words)
    if code:
        raise click.exceptions.Exit(code)


def _last_state(bars: Bars) -> list[float]:
    """The state at the last close, for an account that holds nothing yet."""
    import numpy as np

    from himari_rl.features.encoder import StateEncoder, write_account
    from himari_rl.policy.account import no_trades

    state = StateEncoder().market_rows(bars)[-1]
    nothing = np.zeros(1)
    write_account(state, nothing, nothing, no_trades(nothing).win_rate, 0.5)
    return [float(value) for value in state]


def _show(console: Console, state: list[float]) -> None:
    from rich import box
    from rich.table import Table

    from himari_rl.features.encoder import FEATURES

    table = Table(box=box.SIMPLE, show_header=False, padding=(0, 2))
    half = len(FEATURES) // 2
    for _ in range(2):
        table.add_column(style="dim", no_wrap=True)
        table.add_column(justify="right", no_wrap=True)
    for left, right in zip(range(half), range(half, len(FEATURES)), strict=True):
        table.add_row(FEATURES[left], f"{state[left]:.4f}", FEATURES[right], f"{state[right]:.4f}")
    console.print(table)


@contextmanager
def _served(bundle: str) -> Iterator[str]:
    """`himari serve` in its own process on a free port; its URL, and an orderly end."""
    import subprocess  # nosec B404 - no shell

    from himari_rl.errors import BundleError

    command = [sys.executable, "-P", "-m", "himari_rl", "serve", bundle, "--port", "0"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)  # nosec B603 - a list of arguments, no shell
    try:
        for line in server.stdout or ():
            if line.startswith("Serving"):
                yield line.split()[1]
                return
        raise BundleError(f"the server ended with exit code {server.wait()}", "", f"see himari serve {bundle}")
    finally:
        server.terminate()
        server.wait()
        if server.stdout is not None:
            server.stdout.close()


def _ask(console: Console, bundle: str, state: list[float]) -> tuple[dict[str, Any], dict[str, Any]]:
    """One POST /predict, retried until the server listens."""
    import time
    import urllib.error
    import urllib.request

    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # loopback is nobody's proxy's business
    console.print(f"$ himari serve {bundle} --port 0", style="dim", markup=False)
    with _served(bundle) as url:
        body = {"state": [round(value, 6) for value in state]}
        request = urllib.request.Request(
            f"{url}/predict", json.dumps(body).encode(), {"content-type": "application/json"}
        )
        console.print(f"$ curl {url}/predict -d '{json.dumps(body)}'", style="dim", markup=False)
        deadline = time.monotonic() + START_S
        while True:
            try:
                with direct.open(request, timeout=START_S) as response:
                    answer: dict[str, Any] = json.loads(response.read())
                break
            except urllib.error.HTTPError:
                raise
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.02)
    console.print(json.dumps(answer), markup=False)
    return body, answer
