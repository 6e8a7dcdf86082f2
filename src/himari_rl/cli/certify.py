"""`himari certify`: proves the learner on markets whose optimum is known."""

from __future__ import annotations

import json
import os
import sys
import time
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import click

from himari_rl.cli.console import stderr_console
from himari_rl.cli.options import AGENT, BUDGET, Json, Kind, configured, told_on
from himari_rl.cli.signature import Option, make_command
from himari_rl.config import Resolved


def register(app: click.Group) -> None:
    """Adds `himari certify` to the root app."""
    app.add_command(make_command(certify(), "certify"))


@configured("certify", "certify.seeds", "certify.num_episodes", "certify.device", *AGENT, *BUDGET)
def certify(
    kind: Kind,
    settings: Resolved,
    market: Annotated[
        list[str] | None,
        Option(help="Markets; all of this kind by default. Other numbers: M2:sigma=0.04,cost=0.001; M5x8"),
    ] = None,
    jobs: Annotated[int | None, Option(min=1, help="Processes; one a core by default.")] = None,
    html: Annotated[str | None, Option(help="Write the page with the learned bands here.")] = None,
    as_json: Json = False,
) -> None:
    """Trains on markets whose optimum is solved and grades the bundles. Exit 1 if a threshold is missed.

    Example: himari certify base --market M1 M2 --seeds 5
    """
    from himari_rl.agents.config import DEFAULT_RECIPE
    from himari_rl.certification import certify as certification
    from himari_rl.certification.certificates import Certificate
    from himari_rl.certification.display import render_certificates
    from himari_rl.certification.histories import is_history
    from himari_rl.certification.history_certificates import HistoryCertificate
    from himari_rl.certification.suites import OF_EVERY_RUN, suite_for
    from himari_rl.certification.traps import Trapped, trap_certificates
    from himari_rl.cloud.costs import CostLedger
    from himari_rl.cloud.meter import metered
    from himari_rl.errors import RefusedError
    from himari_rl.storage import is_remote, write_atomic
    from himari_rl.training.device import resolve_device
    from himari_rl.training.progress import opened_progress

    if html is not None:
        is_remote(html)  # what is no place at all is refused before it has cost minutes
    asked = settings["certify"]
    suite = suite_for(kind, asked.num_episodes, settings["agent"])
    names = market or [*suite.thresholds, *(name for name in OF_EVERY_RUN if name in suite.histories)]
    history_seeds = None if market else suite.history_seeds
    total = sum(len(asked.seeds[: history_seeds if is_history(name) else None]) for name in names)
    recipe = settings["agent"].recipe
    title = kind if recipe == DEFAULT_RECIPE else f"{kind} --recipe {recipe}"
    console = stderr_console()
    started = time.perf_counter()
    costs = CostLedger(os.environ.get("HIMARI_COSTS", ""))
    meter = metered(settings["budget"], "certify", kind, ledger=costs, tell=told_on(console), resumes=False)
    with TemporaryDirectory() as folder, meter:
        finished = count(1)
        with opened_progress(console, "markets x seeds", then="grading") as progress:
            certificates = certification.certify(
                names,
                list(asked.seeds),
                suite,
                bundles=Path(folder),
                jobs=jobs,
                device=resolve_device(asked.device),
                history_seeds=history_seeds,
                done=lambda: progress(next(finished), total),
            )
        traps = trap_certificates() if kind == "base" and market is None else []
        elapsed = time.perf_counter() - started
        if html is not None:
            from himari_rl.certification.page import certificate_page

            drawn = [c for c in certificates if isinstance(c, Certificate)]
            policies = {c.market: certification.median_policy(c, Path(folder)) for c in drawn}
            write_atomic(html, certificate_page(certificates, policies).encode())
    judged: list[Certificate | HistoryCertificate | Trapped] = [*certificates, *traps]
    failed = [c.market for c in judged if not c.passed]
    if as_json:
        document = {
            "kind": kind,
            "recipe": recipe,
            "config": settings.to_dict(),
            "config_hash": settings.hash,
            "seconds": round(elapsed, 1),
            "passed": not failed,
            "markets": [c.to_dict() for c in judged],
        }
        sys.stdout.write(json.dumps(document) + "\n")
    else:
        render_certificates(title, certificates, traps, console)
        console.print(f"{elapsed:.0f} s in all" + (f"; page at {html}" if html else ""))
    if failed:
        raise RefusedError(f"{', '.join(failed)} fell short of the threshold", "every market at its threshold")
