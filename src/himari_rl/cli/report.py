"""himari report: the run card of a walk-forward, one HTML file that works offline.

himari report runs/btc
"""

from __future__ import annotations

from typing import Annotated

import click

from himari_rl.cli.gate import AcceptImplausible, AcceptLeak, Champion, NewLedger, Signer, Taken
from himari_rl.cli.options import ExternalCode, Json, configured
from himari_rl.cli.signature import Argument, Option, make_command
from himari_rl.config import Resolved

PAGE = "report.html"


def register(app: click.Group) -> None:
    """Adds `himari report`."""
    app.add_command(make_command(report(), "report"))


@configured("gate")
def report(
    run: Annotated[str, Argument(help="Folder of a walk-forward.")],
    settings: Resolved,
    out: Annotated[str | None, Option(help="The HTML file (default: RUN/report.html).")] = None,
    champion: Champion = None,
    accept_leak: AcceptLeak = None,
    new_ledger: NewLedger = False,
    accept_implausible: AcceptImplausible = None,
    signer: Signer = None,
    external_code: ExternalCode = False,
    as_json: Json = False,
) -> None:
    """Writes one self-contained page: verdict, gate, curves, controls, trials, cost.

    Example: himari report runs/btc
    """
    import json

    from himari_rl.evaluation.record import BUNDLE, read_run
    from himari_rl.policy.code import allow_code
    from himari_rl.release.gate import gate
    from himari_rl.release.report import report_page
    from himari_rl.storage import join, write_atomic
    from himari_rl.storage.mirror import workplace

    allow_code(external_code)
    taken = Taken(leak_reason=accept_leak, implausible_reason=accept_implausible, signer=signer, new_ledger=new_ledger)
    with workplace(run) as folder:
        read_run(folder)
        answer = gate(folder / BUNDLE, settings["gate"], champion=champion, **taken)
        write_atomic(out or folder / PAGE, report_page(folder, answer).encode())
    place = out or join(run, PAGE)
    document = {"report": place, "passed": answer.passed, "reason": answer.reason}
    click.echo(json.dumps(document) if as_json else f"{place}: {answer.reason}")
