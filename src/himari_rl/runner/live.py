"""GET /ui of the runner: policies, halts, equity beside that of multiplier 1.0, recent decisions, latency, drift.

All of it from the journal and the counters; the equity of multiplier 1.0 is kept on an account of its own, over the
same bars and signals, and goes on from look to look.
"""

from __future__ import annotations

import threading
from datetime import UTC, datetime

from himari_rl.journal.entry import DECISION, HISTORY
from himari_rl.monitoring.page import Curve, LivePage, PageTable
from himari_rl.runner.ab import SizesOne
from himari_rl.runner.desk import JOINED
from himari_rl.runner.step import Runner
from himari_rl.schema import SECOND_MS

RECENT, STRAYED = 20, 12


class LiveView:
    """What a runner's page shows. Safe for several threads."""

    def __init__(self, runner: Runner) -> None:
        self._runner, self._lock, self._seen = runner, threading.Lock(), 0
        self._ones: dict[tuple[str, str], SizesOne] = {}
        self._curves: dict[tuple[str, str], tuple[list[float], list[float]]] = {}

    def page(self, trouble: str = "") -> LivePage:
        """The page now.

        Args:
            trouble: why nothing is decided.
        """
        runner = self._runner
        with self._lock:
            self._catch_up()
            curves = [
                Curve(name=f"Equity of {strategy}, {symbols}", policy=list(own), one=list(one))
                for (strategy, symbols), (own, one) in self._curves.items()
            ]
        halts = runner.switch.active
        counts = runner.counts
        facts = [(", ".join(policy.symbols), policy.about) for policy in runner.policies]
        facts += [
            ("decisions", f"{sum(counts.sources.values()):,} since the start"),
            ("fallbacks", ", ".join(f"{n} {cause}" for cause, n in sorted(counts.causes.items()) if n) or "none"),
            ("refused", ", ".join(f"{n} {reason}" for reason, n in sorted(counts.rejections.items())) or "none"),
            ("answers", ", ".join(f"P{100 * q:g} {counts.latency_ms(q):.2f} ms" for q in (0.5, 0.99, 0.999))),
        ]
        status = trouble or ("halted: " + "; ".join(h.cause for h in halts) if halts else "running")
        return LivePage(
            title="HIMARI runner",
            status=status,
            well=not (trouble or halts),
            facts=facts,
            curves=curves,
            tables=(
                PageTable(
                    title="Halts",
                    columns=("account", "cause", "why", "since"),
                    rows=[(f"{h.strategy} {h.symbols}", h.cause, h.why, h.at) for h in halts],
                    nothing="nothing is halted",
                ),
                self._decisions(),
                self._drift(),
            ),
        )

    def _catch_up(self) -> None:
        for row in self._runner.journal.entries(self._seen, (DECISION, HISTORY)):
            self._seen, entry, said = row.number, row.entry, row.entry.said
            if entry.kind == HISTORY:
                policy = self._runner.policy_of(entry.symbol)
                if policy is not None and (entry.strategy, entry.symbol) not in self._curves:
                    self._ones[entry.strategy, entry.symbol] = SizesOne(policy, said)
                continue
            key = (entry.strategy, JOINED.join(said["symbols"]))
            if key in self._ones and entry.bar is not None:
                equity = self._ones[key].take(entry.bar, entry.symbol, said)
                if equity is not None:
                    own, one = self._curves.setdefault(key, ([], []))
                    own.append(float(said["equity_usd"]))
                    one.append(equity)

    def _decisions(self) -> PageTable:
        rows = []
        for row in reversed(self._runner.journal.newest(RECENT, kind=DECISION)):
            entry, said = row.entry, row.entry.said
            at = datetime.fromtimestamp((entry.bar or 0) / SECOND_MS, UTC).strftime("%Y-%m-%d %H:%M")
            sized = (f"{said['multiplier']:.3f}", f"{said['size_usd']:+,.2f}", f"{said['units']:+.6g}")
            why = said["cause"] or said["version"]
            rows.append((at, entry.strategy, entry.symbol, said["signal"]["action"], *sized, said["source"], why))
        columns = ("bar", "strategy", "symbol", "signal", "multiplier", "USD", "units", "source", "cause or version")
        return PageTable(title="Recent decisions", columns=columns, rows=rows)

    def _drift(self) -> PageTable:
        watched = [each for each in self._runner.drifts if each[5] < float("inf")]
        worst = sorted(watched, key=lambda each: each[4] / each[5], reverse=True)[:STRAYED]
        rows = [
            (f"{s} {a}", f, m, f"{v:.3g}", f"{most:.3g}", "drift" if v > most else "") for s, a, f, m, v, most in worst
        ]
        columns = ("account", "feature", "measure", "now", "limit", "")
        return PageTable(title="Drift", columns=columns, rows=rows, nothing="no bundle here says what its training met")
