"""A runner killed with -9 at any moment: every decision that was told is in the journal, none twice, the chain holds.

HIMARI_KILLS says how often; `make kill` says 100. The source sends its whole stream again after each kill, as a queue
that was not acknowledged does.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers import PATIENCE_S
from helpers.bundle import make_bundle
from helpers.postgres import journal_place
from helpers.stream import lines, market, runner_of
from himari_rl.journal.entry import DECISION
from himari_rl.journal.store import open_journal
from himari_rl.policy.runtime import load_policy
from himari_rl.runner.replay import replay

KILLS = int(os.environ.get("HIMARI_KILLS", "6"))
ROWS, WARM = 60 + 60 * KILLS, 240
STARTED_S = 1.0  # about as long as a process takes to its first decisions
RUNNER = """
import json, sys
from himari_rl.journal.store import open_journal
from himari_rl.policy.runtime import load_policy
from himari_rl.runner.config import HaltConfig, RunConfig
from himari_rl.runner.policies import LocalPolicy
from himari_rl.runner.step import Runner

inf = float("inf")
halts = HaltConfig(daily_loss=inf, drawdown=inf, volatility=inf, stale_bars=inf)
with open_journal(sys.argv[1]) as journal:
    runner = Runner([LocalPolicy(load_policy(sys.argv[2]))], journal, RunConfig(clock="bar"), halt=halts)
    print("begun", flush=True)
    for line in open(sys.argv[3]):
        for told in runner.handle([line]):
            if "rejected" not in told:
                print(json.dumps([told["bar"], told["multiplier"]]), flush=True)
print("ended", flush=True)
"""


@pytest.fixture(params=["sqlite", "postgresql"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    with journal_place(request.param, tmp_path) as made:
        yield made


def test_a_runner_killed_at_any_moment_loses_and_doubles_nothing(tmp_path: Path, place: str) -> None:
    folder, bars, rng = make_bundle(tmp_path, hidden=(8,)), market("BTC-USDT", 5, ROWS), random.Random(0)
    stream, script = tmp_path / "signals.jsonl", tmp_path / "runner.py"
    signals = lines([bars], range(ROWS))
    script.write_text(RUNNER)
    told: list[tuple[int, float]] = []
    for kill in range(KILLS):
        begin = max(0, len(told) - 20)  # what may not have been acknowledged comes again
        stream.write_text("\n".join(signals[begin:]))
        process = subprocess.Popen(
            [sys.executable, str(script), place, str(folder), str(stream)], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        if kill % 4:  # while it decides; else wherever it is, its restart from the journal included
            assert process.stdout.readline() == "begun\n"
        time.sleep(rng.uniform(0.0, 0.15 if kill % 4 else STARTED_S))
        process.send_signal(signal.SIGKILL)
        rest = process.stdout.read()  # not communicate(), which loses what was read ahead with the first line
        process.stdout.close()
        process.wait(PATIENCE_S)
        whole = rest[: rest.rfind("\n") + 1].splitlines()
        told += [(bar, multiplier) for bar, multiplier in map(json.loads, (w for w in whole if w[0] == "["))]
    with open_journal(place) as journal:
        rows = [row.entry for row in journal.entries(kinds=[DECISION])]
        journal.verify()
        bars_kept = [entry.bar for entry in rows]
        assert len(set(bars_kept)) == len(bars_kept)  # none doubled
        assert bars_kept == bars.timestamp[: len(rows)].tolist()  # none left out
        assert set(told) <= {(entry.bar, entry.said["multiplier"]) for entry in rows}  # none lost
        assert len({bar for bar, _ in told}) == len(told)
        assert len(told) > 0
        runner_of(journal, folder).handle(signals[len(rows) : len(rows) + 30])
        [found] = replay(journal, load_policy(folder))  # and the account went on as if nothing had been
        assert found.differences == ()
        assert found.equity_gap < 1e-9


HALTED = """
import sys, time
from himari_rl.journal.store import open_journal
from himari_rl.policy.runtime import load_policy
from himari_rl.runner.config import HaltConfig, RunConfig
from himari_rl.runner.policies import LocalPolicy
from himari_rl.runner.step import Runner

with open_journal(sys.argv[1]) as journal:
    policy = LocalPolicy(load_policy(sys.argv[2]))
    runner = Runner([policy], journal, RunConfig(clock="bar"), halt=HaltConfig(drawdown=1e-4))
    for line in open(sys.argv[3]):
        if any(told["cause"] == "halted" for told in runner.handle([line])):
            print("halted", flush=True)
            time.sleep(600)
"""


def test_a_halt_holds_through_a_kill(tmp_path: Path) -> None:
    folder, bars = make_bundle(tmp_path, hidden=(8,)), market("BTC-USDT", 5, 300)
    place, stream, script = tmp_path / "j.sqlite", tmp_path / "signals.jsonl", tmp_path / "runner.py"
    signals = lines([bars], range(300))
    stream.write_text("\n".join(signals))
    script.write_text(HALTED)
    words = [sys.executable, str(script), str(place), str(folder), str(stream)]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "halted\n"
    process.send_signal(signal.SIGKILL)
    process.stdout.close()
    process.wait(PATIENCE_S)
    with open_journal(place) as journal:
        journal.verify()
        runner = runner_of(journal, folder)
        assert [halt.cause for halt in runner.switch.active] == ["drawdown"]
        count = len(list(journal.entries(kinds=[DECISION])))
        [told] = runner.handle(signals[count : count + 1])
        assert (told["cause"], told["multiplier"]) == ("halted", 1.0)
