"""What the server's live page shows: the policy and its verdict, requests, latency, drift, refusals."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from himari_rl.monitoring.metrics import Histogram
from himari_rl.monitoring.page import LivePage, PageTable
from himari_rl.serving.service import Service

if TYPE_CHECKING:
    from himari_rl.serving.recent import JournalShown


def server_page(service: Service, shown: JournalShown | None = None, trouble: str = "") -> LivePage:
    """The page now.

    Args:
        shown: of the journal, where there is one.
        trouble: why the journal cannot be written.
    """
    slot, metrics = service.slot, service.metrics
    facts: list[tuple[str, str]] = []
    if slot is not None:
        manifest = slot.policy.manifest
        verdict = (manifest.evaluation or {}).get("sentence", "not judged")
        facts += [("policy", slot.version), ("symbols", ", ".join(slot.symbols)), ("verdict", str(verdict))]
    latency = metrics.latency
    facts += [
        ("requests", f"{metrics.requests:,}"),
        ("decision time", f"P50 {_within(latency, 0.5)}, P99 {_within(latency, 0.99)}"),
        ("drift of familiarity", f"{metrics.drift:.2f} (0 none, 1 all states strange)"),
        ("out of distribution", f"{metrics.out_of_distribution:,}"),
        ("limited by risk", f"{metrics.risk_limited:,}"),
        ("swaps", f"{metrics.swaps:,}"),
    ]
    if shown is not None and shown.trouble:
        facts.append(("journal", shown.trouble))
    errors = [(str(status), cause, f"{count:,}") for (status, cause), count in sorted(metrics.errors.items())]
    bounds = list(pairwise(metrics.multiplier.bounds))
    answered = [(f"{bounds[0][0]:g}", f"{metrics.multiplier.counts[0]:,}")] + [
        (f"{low:g} to {high:g}", f"{count:,}")
        for (low, high), count in zip(bounds, metrics.multiplier.counts[1:-1], strict=True)
    ]
    return LivePage(
        title="HIMARI Layer 3",
        status=f"not ready: {trouble or service.reason}" if slot is None or trouble else "ready",
        well=slot is not None and not trouble,
        facts=facts,
        curves=() if shown is None else shown.curves,
        tables=(
            *(() if shown is None else shown.tables),
            PageTable(title="Multipliers answered", columns=("multiplier", "decisions"), rows=answered),
            PageTable(
                title="Refused", columns=("status", "cause", "requests"), rows=errors, nothing="nothing was refused"
            ),
        ),
    )


def _within(histogram: Histogram, share: float) -> str:
    """The bound that so many are within; a histogram knows no more."""
    total, below = sum(histogram.counts), 0
    for bound, count in zip(histogram.bounds, histogram.counts, strict=False):
        below += count
        if total and below >= share * total:
            return f"within {1e6 * bound:,.0f} us"
    return "above the last bucket" if total else "nothing yet"
