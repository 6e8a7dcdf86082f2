"""himari cost: what was planned, what a job will cost, what it did cost, and what is left.

himari cost
himari cost --profile cpu --costs gs://himari-rl-models/costs --json
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import click

from himari_rl.cli.options import CLOUD_FILE, Json, configured
from himari_rl.cli.signature import Option, make_command
from himari_rl.config import Resolved

if TYPE_CHECKING:
    from himari_rl.cloud.costs import JobAttempt


def register(app: click.Group) -> None:
    """Adds `himari cost`."""
    app.add_command(make_command(cost(), "cost"))


@configured("cost", "launch.profile", "launch.spot", usual=CLOUD_FILE)
def cost(
    settings: Resolved,
    costs: Annotated[
        str | None, Option(help="The cost ledger: a folder, local or gs:// (default: cloud.costs of the bucket).")
    ] = None,
    offline: Annotated[bool, Option("--offline", help="Only plan and estimate; the bucket is not asked.")] = False,
    as_json: Json = False,
) -> None:
    """Plan, estimate, measured cost and money spent of each model, and the total against the budget. Exit 1 above it.

    Example: himari cost --profile cpu
    """
    import json
    import sys

    from himari_rl.cloud.costs import CostLedger

    cloud = settings["cloud"]
    place = costs or (f"gs://{cloud.bucket}/{cloud.costs}" if cloud.bucket else "")
    attempts = [] if offline else CostLedger(place).attempts()
    found = table(settings, attempts) | {"ledger": "not asked" if offline else place or "none"}
    sys.stdout.write(json.dumps(found) + "\n" if as_json else page(found))
    if found["spent_usd"] > found["total_usd"]:
        raise click.exceptions.Exit(1)


def table(settings: Resolved, attempts: list[JobAttempt]) -> dict[str, Any]:
    """One row a model, with the total."""
    from himari_rl.cloud.costs import measured, spent
    from himari_rl.cloud.jobs import MODELS, USUAL_FOLDS, WorkSize, estimated

    how, machines, budget = settings["launch"], settings["machines"], settings["budget"]
    machine = machines.profile(how.profile)
    rows = []
    for model in MODELS:
        size = WorkSize(folds=USUAL_FOLDS if model == "walk-forward" else 1)
        before = estimated(model, size, how.profile, machine, settings["estimate"], how.spot)
        rows.append(
            {
                "model": model,
                "planned_usd": budget.planned(model),
                "estimate_usd": before.usd,
                "estimate_minutes": before.minutes,
                "measured_usd": measured(attempts, model),
                "spent_usd": spent(attempts, model),
                "attempts": sum(each.model == model for each in attempts),
            }
        )
    return {
        "profile": how.profile,
        "machine": machine.describe(),
        "usd_per_hour": machine.price(how.spot),
        "prices": f"{machines.price_source}, {machines.price_date}",
        "measured": settings["estimate"].measured,
        "rows": rows,
        "spent_usd": spent(attempts),
        "total_usd": budget.total_usd,
        "left_usd": budget.total_usd - spent(attempts),
    }


def page(found: dict[str, Any]) -> str:
    """The table for the eye."""
    lines = [
        f"on {found['profile']}: {found['machine']} at ${found['usd_per_hour']:.3f} an hour",
        "",
        f"{'':<14}{'planned':>10}{'estimate':>12}{'minutes':>9}{'measured':>11}{'spent':>11}{'attempts':>10}",
    ]
    for row in found["rows"]:
        planned = f"${row['planned_usd']:g}" if row["planned_usd"] is not None else "-"
        measured = f"${row['measured_usd']:.4f}" if row["measured_usd"] is not None else "not yet"
        estimate, spent = f"${row['estimate_usd']:.4f}", f"${row['spent_usd']:.4f}"
        lines.append(
            f"{row['model']:<14}{planned:>10}{estimate:>12}"
            f"{row['estimate_minutes']:>9.1f}{measured:>11}{spent:>11}{row['attempts']:>10}"
        )
    return (
        "\n".join(
            [
                *lines,
                "",
                f"spent ${found['spent_usd']:.4f} of ${found['total_usd']:g}; ${found['left_usd']:.2f} left "
                f"(ledger: {found['ledger']})",
                f"prices: {found['prices']}",
                f"estimates: scaled from {found['measured']}; measured: the newest run of each model in the ledger",
            ]
        )
        + "\n"
    )
