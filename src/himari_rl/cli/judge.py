"""himari judge, verify, certificate, runs: returns alone; a verdict recomputed by a third party, signed; many runs.

himari judge returns.csv --trials 40
himari verify runs/btc --data BTC-USDT_1h.parquet --certificate btc.json --key private.pem
himari certificate btc.json --signer public.pem --run runs/btc
himari runs runs
"""

from __future__ import annotations

import json
from typing import Annotated

import click

from himari_rl.cli.options import ExternalCode, Json
from himari_rl.cli.signature import Argument, Option, make_command


def register(app: click.Group) -> None:
    """Adds `himari judge`, `verify`, `certificate` and `runs`."""
    for command in (judge, verify, certificate, runs):
        app.add_command(make_command(command))


def judge(
    returns: Annotated[str, Argument(metavar="RETURNS.csv", help="Columns `time` and `return` (simple).")],
    trials: Annotated[int, Option(min=1, help="Everything that was tried before these were chosen.")] = 1,
    per_year: Annotated[float | None, Option(help="Periods a year, where the file has no time.")] = None,
    seed: Annotated[int, Option(min=0, help="Of the bootstrap.")] = 0,
    as_json: Json = False,
) -> None:
    """Says what can be said of a strategy from its returns alone, and what cannot. Exit code 1 where no edge is shown.

    Example: himari judge returns.csv --trials 40
    """
    from himari_rl.experiments.returns import judge_returns

    found = judge_returns(returns, trials, per_year=per_year, seed=seed)
    click.echo(json.dumps(found.to_dict(), allow_nan=False) if as_json else str(found))
    if found.answer != "shown":
        raise click.exceptions.Exit(1)


def verify(
    run: Annotated[str, Argument(help="Folder of a walk-forward.")],
    data: Annotated[list[str], Option(help="The files or folder of bars that it was judged on.")],
    symbol: Annotated[str | None, Option(help="Which symbol, where the data has several.")] = None,
    symbols: Annotated[list[str] | None, Option(help="Of a panel: its symbols, in its order.")] = None,
    funding: Annotated[str | None, Option(help="Of a panel: folder of funding files.")] = None,
    beliefs_from: Annotated[
        list[str] | None, Option("--beliefs-from", help="The files that it was given under the same name.")
    ] = None,
    train: Annotated[bool, Option("--train", help="Train every fold again and compare the weights.")] = False,
    jobs: Annotated[int, Option(min=1, help="Processes, with --train.")] = 1,
    external_code: ExternalCode = False,
    certificate: Annotated[
        str | None, Option(metavar="FILE", help="Write down what was found, signed; needs --key.")
    ] = None,
    key: Annotated[str | None, Option(help="PEM file of an Ed25519 private key, for --certificate.")] = None,
    as_json: Json = False,
) -> None:
    """Recomputes a run's verdict from its folds, its bundle and the data. Exit code 0 where it is equal, 1 where not.

    Names the curve, the field of the document, the weight or the fold that differs; writes nothing, counts no look.

    Example: himari verify runs/btc --data BTC-USDT_1h.parquet --certificate btc.json --key private.pem
    """
    from himari_rl.cli.console import stderr_console
    from himari_rl.cli.walk_forward import history_of
    from himari_rl.data.sources import load_bars
    from himari_rl.errors import ConfigError
    from himari_rl.experiments.certificate import files_of, write_certificate
    from himari_rl.experiments.verify import verify as ask
    from himari_rl.policy.code import allow_code
    from himari_rl.training.fan_out import local_pool
    from himari_rl.training.progress import opened_progress

    if (certificate is None) != (key is None):
        given = "--key alone" if certificate is None else "--certificate without --key"
        raise ConfigError(given, "both: a certificate is signed", "openssl genpkey -algorithm ed25519 -out private.pem")
    if key is not None:
        from himari_rl.policy.signature import private_key

        private_key(key)  # before the work
    allow_code(external_code)
    files = files_of(run) if certificate else {}
    bars = history_of("multi" if symbols else "base", data, symbol, symbols, funding)
    others = [load_bars(path) for path in beliefs_from or ()]
    pool = None if jobs == 1 else local_pool(jobs)
    with opened_progress(stderr_console(highlight=False), "folds again", quiet=as_json or not train) as progress:
        found = ask(run, bars, beliefs_from=others, train=train, pool=pool, progress=progress)
    if certificate and key:
        write_certificate(certificate, found, run, files, key)
    click.echo(json.dumps(found.to_dict(), allow_nan=False) if as_json else str(found))
    if not found.equal:
        raise click.exceptions.Exit(1)


def certificate(
    file: Annotated[str, Argument(metavar="FILE", help="A certificate that himari verify wrote.")],
    signer: Annotated[str | None, Option(help="PEM file of the public key that must have signed it.")] = None,
    run: Annotated[str | None, Option(help="Folder of the walk-forward, held against it file by file.")] = None,
    as_json: Json = False,
) -> None:
    """Reads a certificate: its signature, what it says, and whether a run is still the one that was verified.

    Needs no data. Exit code 1 where it says not equal, the run is another, or no --signer says whose it must be.

    Example: himari certificate btc.json --signer public.pem --run runs/btc
    """
    from himari_rl.experiments.certificate import check_certificate

    owner = None
    if signer is not None:
        from himari_rl.policy.signature import public_key

        owner = public_key(signer)
    found = check_certificate(file, owner, run)
    click.echo(json.dumps(found.to_dict(), allow_nan=False) if as_json else str(found))
    if not found.holds:
        raise click.exceptions.Exit(1)


def runs(
    folder: Annotated[str, Argument(help="Folder of runs, searched below too.")] = "runs",
    html: Annotated[str | None, Option(help="Write one index page to this file.")] = None,
    as_json: Json = False,
) -> None:
    """Lists walk-forwards side by side: verdict, gate, figures, cost, and the settings in which they differ.

    Example: himari runs runs --html runs/index.html
    """
    from himari_rl.experiments.runs import listed, table

    found = listed(folder)
    if html is not None:
        from himari_rl.card.index import index_page
        from himari_rl.storage import write_atomic

        write_atomic(html, index_page(found, folder, html).encode())
    click.echo(json.dumps(found, allow_nan=False) if as_json else table(found, folder))
