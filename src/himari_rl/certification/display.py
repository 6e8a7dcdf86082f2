"""Certificates for the eye: what was learned of each market's optimum, beside what is earned without learning."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from himari_rl.certification.certificates import Certificate
from himari_rl.certification.history_certificates import HistoryCertificate
from himari_rl.certification.traps import Trapped
from himari_rl.evaluation.terminal import figures, print_check


def render_certificates(
    kind: str, every: Sequence[Certificate | HistoryCertificate], traps: Sequence[Trapped], console: Console
) -> None:
    """Prints the shares, then each market's threshold with the naive policies on the same paths."""
    found = [c for c in every if isinstance(c, Certificate)]
    histories = [c for c in every if isinstance(c, HistoryCertificate)]
    if found:
        seeds = len(found[0].attempts)
        title = f"certify {kind}, {seeds} seed{'s' * (seeds > 1)}: share of the optimum, fresh paths"
        table = figures(title, "market", ("median", "worst", "over best\nconstant", "turnover", "train s", "bars"))
        for c in found:
            table.add_row(
                c.market, f"{c.median:.3f}", f"{c.worst:.3f}", f"{c.over_constant:.3f}", f"{c.turnover:.4f}",
                f"{c.seconds:.1f}", f"{c.stepped / 1e6:.1f} M",
            )  # fmt: skip
        console.print(table)
    if histories:
        console.print(_histories(kind, histories))
    for c in found:
        naive = ", ".join(f"{name} {share:.3f}" for name, share in c.naive.items())
        print_check(c.passed, c.market, f"{c.reason}\nwithout learning: {naive}", console.file)
    for h in histories:
        print_check(h.passed, h.market, h.reason, console.file)
    for trap in traps:
        print_check(trap.passed, trap.market, trap.reason, console.file)


def _histories(kind: str, found: Sequence[HistoryCertificate]) -> Table:
    """Utility per cent a year beside the yardsticks, and the share that the threshold is about; medians over seeds."""
    seeds = max(len(c.attempts) for c in found)
    title = f"certify {kind}, {seeds} seed{'s' * (seeds > 1)}: one history of bars each, utility % a year"
    table = figures(title, "market", ("median", "worst", "utility", "optimum", "1.0", "banded\n15 %", "train s"))
    for c in found:
        utilities = [f"{100.0 * c.of_median(what):+.1f}" for what in ("utility", "optimum", "one", "banded")]
        table.add_row(c.market, f"{c.median:.3f}", f"{c.worst:.3f}", *utilities, f"{c.seconds:.1f}")
    return table
