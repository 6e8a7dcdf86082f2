"""Certificates for the eye: what was learned of each market's optimum, beside what is earned without learning."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console

from himari_rl.certification.certificates import Certificate
from himari_rl.certification.traps import Trapped
from himari_rl.evaluation.terminal import figures, print_check


def render_certificates(kind: str, found: Sequence[Certificate], traps: Sequence[Trapped], console: Console) -> None:
    """Prints the shares, then each market's threshold with the naive policies on the same paths."""
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
    for c in found:
        naive = ", ".join(f"{name} {share:.3f}" for name, share in c.naive.items())
        print_check(console, c.passed, c.market, f"{c.reason}\nwithout learning: {naive}")
    for trap in traps:
        print_check(console, trap.passed, trap.market, trap.reason)
