"""himari report: the run card of a walk-forward, one HTML file that works offline.

himari report runs/btc
"""

from __future__ import annotations

from typing import Annotated

import typer

from himari_rl.cli.gate import AcceptLeak, Champion, NewLedger
from himari_rl.cli.options import Json, configured
from himari_rl.config import Resolved


def register(app: typer.Typer) -> None:
    """Adds `himari report`."""
    app.command("report")(report())


@configured("gate")
def report(
    run: Annotated[str, typer.Argument(help="Folder of a walk-forward.")],
    settings: Resolved,
    out: Annotated[str | None, typer.Option(help="The HTML file (default: RUN/report.html).")] = None,
    champion: Champion = None,
    accept_leak: AcceptLeak = None,
    new_ledger: NewLedger = False,
    as_json: Json = False,
) -> None:
    """Writes one self-contained page: verdict, gate, curves, controls, trials, cost.

    Example: himari report runs/btc
    """
    import json
    from pathlib import Path

    from himari_rl.evaluation.record import BUNDLE, read_run
    from himari_rl.release.gate import gate
    from himari_rl.release.report import report_page
    from himari_rl.storage import write_atomic

    read_run(run)
    bundle = Path(run) / BUNDLE
    answer = gate(bundle, settings["gate"], champion=champion, leak_reason=accept_leak, new_ledger=new_ledger)
    place = out or str(Path(run) / "report.html")
    write_atomic(place, report_page(run, answer).encode())
    document = {"report": place, "passed": answer.passed, "reason": answer.reason}
    typer.echo(json.dumps(document) if as_json else f"{place}: {answer.reason}")
