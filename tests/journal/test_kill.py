"""A writer that is killed with -9 at any moment: nothing it acknowledged is lost, nothing doubled, the chain holds.

HIMARI_KILLS says how often; `make kill` says 100.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from helpers import PATIENCE_S
from himari_rl.journal.store import open_journal

KILLS = int(os.environ.get("HIMARI_KILLS", "10"))
STARTED_S = 0.4  # about as long as a process takes to its first entry
WRITER = """
import sys
from himari_rl.journal.entry import DECISION, entry_of
from himari_rl.journal.store import open_journal

with open_journal(sys.argv[1]) as journal:
    newest = journal.newest(1)
    bar = newest[0].entry.bar + 1 if newest else 0
    while True:
        group = [entry_of(DECISION, {"multiplier": 1.0}, strategy="s", symbol="x", bar=bar + i) for i in range(3)]
        journal.append(group)
        print(bar, bar + 1, bar + 2, flush=True)
        bar += 3
"""


def lost(acknowledged: list[int], kept: list[int | None]) -> list[int]:
    """Bars that somebody was told of and that are not in the journal."""
    return sorted(set(acknowledged) - set(kept))


def test_a_writer_killed_at_any_moment_loses_nothing_that_it_acknowledged(tmp_path: Path) -> None:
    place, rng = tmp_path / "j.sqlite", random.Random(0)
    acknowledged: list[int] = []
    for kill in range(KILLS):
        process = subprocess.Popen([sys.executable, "-c", WRITER, str(place)], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        if kill % 3:  # at the work; else wherever it is, the making of its tables included
            acknowledged += map(int, process.stdout.readline().split())  # it has begun
        time.sleep(rng.uniform(0.0, 0.05 if kill % 3 else STARTED_S))
        process.send_signal(signal.SIGKILL)
        rest = process.stdout.read()  # not communicate(), which loses what was read ahead with the first line
        process.stdout.close()
        process.wait(PATIENCE_S)
        whole = rest[: rest.rfind("\n") + 1]
        acknowledged += map(int, whole.split())
    with open_journal(place) as journal:
        kept = [row.entry.bar for row in journal.entries()]
        assert journal.verify() == len(kept)
    assert len(acknowledged) >= 3 * (KILLS * 2 // 3)
    assert lost(acknowledged, kept) == []
    assert kept == list(range(len(kept)))  # in order, none twice


def test_a_lost_bar_would_be_noticed() -> None:
    assert lost([1, 2, 3], [1, 3, 4]) == [2]
