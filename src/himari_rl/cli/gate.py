"""himari gate, promote, rollback, decide: who may be champion, and why.

himari gate runs/btc/bundle
himari promote champion runs/btc/bundle
himari rollback champion
himari decide --base runs/btc/bundle --lstm runs/btc-lstm/bundle
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, TypedDict

import click

from himari_rl.cli.options import ExternalCode, Json, configured
from himari_rl.cli.signature import Argument, Option, make_command
from himari_rl.config import Resolved

if TYPE_CHECKING:
    from himari_rl.release.gate import GateAnswer

ALIASES = "aliases"
Champion = Annotated[str | None, Option(help="Bundle of another walk-forward to compare with.")]
Run = Annotated[str | None, Option(help="Folder of the walk-forward (default: the bundle's parent).")]
AcceptLeak = Annotated[str | None, Option(help="Why a suspected leak is none; it is written down.")]
NewLedger = Annotated[bool, Option("--new-ledger", help="Begin a trial ledger where there is none.")]
AcceptImplausible = Annotated[
    str | None,
    Option(help="Why a result that is too good is true; written down, passes no named leak."),
]
Signer = Annotated[str | None, Option(help="PEM file of a public key: evidence that it did not sign is refused.")]
Folder = Annotated[str, Option(help="Where the aliases are: a folder, local or gs://.")]


class Taken(TypedDict):
    """What somebody takes on himself, and whose evidence counts, as `gate` names it."""

    leak_reason: str | None
    implausible_reason: str | None
    signer: str | None
    new_ledger: bool


def register(app: click.Group) -> None:
    """Adds `himari gate`, `promote`, `rollback` and `decide`."""
    app.add_command(make_command(gate(), "gate"))
    app.add_command(make_command(promote(), "promote"))
    app.add_command(make_command(rollback))
    app.add_command(make_command(decide(), "decide"))


@configured("gate")
def gate(
    bundle: Annotated[str, Argument(help="The bundle of a walk-forward, RUN/bundle.")],
    settings: Resolved,
    champion: Champion = None,
    run: Run = None,
    accept_leak: AcceptLeak = None,
    new_ledger: NewLedger = False,
    accept_implausible: AcceptImplausible = None,
    signer: Signer = None,
    external_code: ExternalCode = False,
    as_json: Json = False,
) -> None:
    """Asks every rule of a bundle; exit 0 if all pass, 1 if one refuses.

    Example: himari gate runs/btc/bundle --champion runs/champion/bundle
    """
    import json

    from himari_rl.policy.code import allow_code
    from himari_rl.release.gate import gate as ask

    allow_code(external_code)
    taken = Taken(leak_reason=accept_leak, implausible_reason=accept_implausible, signer=signer, new_ledger=new_ledger)
    answer = ask(bundle, settings["gate"], champion=champion, run=run, **taken)
    if as_json:
        click.echo(json.dumps(answer.to_dict() | {"config": settings.to_dict()}, allow_nan=False))
    else:
        _show(answer)
    if not answer.passed:
        raise click.exceptions.Exit(1)


@configured("gate")
def promote(
    alias: Annotated[str, Argument(help="Which alias: champion, candidate, another name, or its gs:// path.")],
    bundle: Annotated[str, Argument(help="The bundle of a walk-forward, RUN/bundle.")],
    settings: Resolved,
    override: Annotated[str | None, Option(help="The reason to promote in spite of a refusal.")] = None,
    champion: Champion = None,
    run: Run = None,
    accept_leak: AcceptLeak = None,
    new_ledger: NewLedger = False,
    accept_implausible: AcceptImplausible = None,
    signer: Signer = None,
    external_code: ExternalCode = False,
    folder: Folder = ALIASES,
    as_json: Json = False,
) -> None:
    """Moves an alias to a bundle that passes its gate; the gate and any override are in the folder's audit.jsonl.

    Example: himari promote champion runs/btc/bundle
    """
    import json

    from himari_rl.policy.code import allow_code
    from himari_rl.release.gate import gate as ask
    from himari_rl.release.promotion import promote as move

    allow_code(external_code)
    taken = Taken(leak_reason=accept_leak, implausible_reason=accept_implausible, signer=signer, new_ledger=new_ledger)
    answer = ask(bundle, settings["gate"], champion=champion, run=run, **taken)
    moved = move(_path(folder, alias), bundle, answer, override=override)
    document = {"alias": alias, "bundle": moved.bundle, "step": moved.step, "gate": answer.to_dict()}
    click.echo(json.dumps(document) if as_json else f"{alias} is {moved.bundle} (step {moved.step}); {answer.reason}")


def rollback(
    alias: Annotated[str, Argument(help="Which alias: its name or gs:// path.")],
    reason: Annotated[str | None, Option(help="Why, for the log.")] = None,
    folder: Folder = ALIASES,
    as_json: Json = False,
) -> None:
    """Moves an alias to the bundle before.

    Example: himari rollback champion --reason "drawdown"
    """
    import json

    from himari_rl.release.promotion import rollback as step_back

    moved = step_back(_path(folder, alias), reason)
    document = {"alias": alias, "bundle": moved.bundle, "step": moved.step}
    click.echo(json.dumps(document) if as_json else f"{alias} is {moved.bundle} (step {moved.step})")


@configured("gate")
def decide(
    settings: Resolved,
    base: Annotated[str | None, Option(help="Bundle of the base walk-forward.")] = None,
    lstm: Annotated[str | None, Option(help="Bundle of the LSTM walk-forward, same bars.")] = None,
    multi: Annotated[str | None, Option(help="Bundle of the multi-asset walk-forward.")] = None,
    accept_leak: AcceptLeak = None,
    new_ledger: NewLedger = False,
    accept_implausible: AcceptImplausible = None,
    signer: Signer = None,
    as_json: Json = False,
) -> None:
    """Walks base, LSTM, multi-asset through their gates and says which to use and why; exit 1 if none.

    Example: himari decide --base runs/btc/bundle --lstm runs/btc-lstm/bundle
    """
    import json
    from dataclasses import asdict

    from himari_rl.errors import ConfigError
    from himari_rl.policy.bundle import read_manifest
    from himari_rl.release.decision import decide as choose
    from himari_rl.release.gate import gate as ask

    thresholds = settings["gate"]
    given = {"base": base, "lstm": lstm, "multi": multi}
    for kind, bundle in given.items():
        if bundle is not None and (found := read_manifest(bundle).kind) != kind:
            raise ConfigError(f"--{kind} {bundle} is a bundle of kind {found}", f"one of kind {kind}")
    taken = Taken(leak_reason=accept_leak, implausible_reason=accept_implausible, signer=signer, new_ledger=new_ledger)
    answers = dict.fromkeys(given, None) | {
        kind: ask(bundle, thresholds, champion=base if kind == "lstm" else None, **taken)
        for kind, bundle in given.items()
        if bundle is not None
    }
    choice = choose(answers)
    if as_json:
        click.echo(json.dumps(asdict(choice)))
    else:
        for step in choice.steps:
            click.echo(step)
        click.echo(f"Use {choice.use}{f' ({choice.bundle})' if choice.bundle else ''}.")
    if choice.bundle is None:
        raise click.exceptions.Exit(1)


def _path(folder: str, alias: str) -> str:
    from himari_rl.errors import ConfigError
    from himari_rl.storage import is_remote, name_of, parent

    if is_remote(alias):  # gs://bucket/aliases/champion, the whole place at once
        folder, alias = parent(alias), name_of(alias).removesuffix(".json")
    if not alias.replace("-", "").replace("_", "").isalnum():
        raise ConfigError(f"alias {alias!r}", "letters, digits, - and _", "for example champion")
    return f"{folder.rstrip('/')}/{alias}.json"


def _show(answer: GateAnswer) -> None:
    from himari_rl.cli.console import print_words
    from himari_rl.evaluation.terminal import print_check

    print_words(f"ledger: {answer.ledger}", style="dim")
    for line in answer.lines:
        print_check(line.passed, line.head, line.why)
    for said in answer.statements:
        print_words(said)
    for exception in answer.exceptions:
        print_words(f"by hand {exception}", style="yellow")
    print_words(f"{answer.version}: {answer.reason}", style="bold green" if answer.passed else "bold red")
