"""A server's journal replays: multipliers of every answer, features of /v1/decide; what cannot is named."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from helpers.bundle import DRIFT, SYMBOLS, make_bundle
from helpers.drift_nets import bundle_of
from helpers.serving import running
from helpers.stream import changed, market, said
from himari_rl.cli import main
from himari_rl.journal.store import open_journal
from himari_rl.policy.runtime import load_policy
from himari_rl.runner.replay_answers import NO_BARS, OLDER_MEMORY, OTHER_POLICY, ReplayedAnswers, replay_answers
from himari_rl.schema import Bars
from himari_rl.serving.http.app import create_app
from himari_rl.serving.messages import EXAMPLE_STATE
from himari_rl.serving.settings import ServeSettings

WARM, ROWS = 60, 130
GAP = 90  # a bar that never comes


def request(every: list[Bars], row: int, rng: np.random.Generator, history: bool, session: str = "s") -> dict[str, Any]:
    """The request of one close; its account is anything that the ledger can hold."""
    assets: dict[str, Any] = {}
    for bars in every:
        bar = said(bars, row)
        exposure = float(rng.uniform(0, 0.3) / len(every))
        asset: dict[str, Any] = {"bar": {"timestamp": bar["bar"]["timestamp"], "close": bar["bar"]["close"]}}
        asset["signal"] = bar["signal"]
        asset["account"] = {"exposure": exposure, "unrealised_pnl": 0.1 * exposure, "win_rate": float(rng.uniform())}
        if history:
            asset["history"] = [[int(bars.timestamp[i]), float(bars.close[i])] for i in range(row - 30, row)]
        assets[bars.symbol] = asset
    named = {"session_id": session} if session else {}
    return named | ({"assets": assets} if len(every) > 1 else next(iter(assets.values())))


def served(tmp_path: Path, folder: Path, requests: list[tuple[str, dict[str, Any]]]) -> Path:
    """The journal of a server that was asked these, each of which it answered."""
    place = tmp_path / "j.sqlite"
    with running(create_app(folder, ServeSettings(journal=str(place), journal_wait_s=60.0))) as client:
        for path, body in requests:
            answer = client.post(path, json=body)
            assert answer.status_code == 200, answer.text
    return place


def replayed(place: Path, folder: Path) -> list[ReplayedAnswers]:
    with open_journal(place, create=False) as journal:
        journal.verify()
        return replay_answers(journal, load_policy(folder))


def stream(kind: str) -> list[tuple[str, dict[str, Any]]]:
    """A session with a bar that is missing, one that comes twice, one that is corrected, and a history sent anew."""
    every, rng = [market(symbol, sum(map(ord, symbol)), ROWS) for symbol in SYMBOLS[kind]], np.random.default_rng(0)
    made = [("/v1/decide", request(every, row, rng, row in (WARM, 110))) for row in range(WARM, ROWS) if row != GAP]
    again = made[20]
    made.insert(21, again)
    corrected = json.loads(json.dumps(made[40][1]))
    for asset in corrected.get("assets", {"": corrected}).values():
        asset["bar"]["close"] *= 1.01
    made.insert(41, ("/v1/decide", corrected))
    return [*made, ("/v1/decide", request(every, ROWS - 1, rng, True, session=""))]


@pytest.mark.parametrize("kind", ["base", "lstm", DRIFT, "multi"])
def test_streams_of_decide_replay_without_a_difference(tmp_path: Path, kind: str) -> None:
    folder, asked = bundle_of(tmp_path, kind, hidden=(8,)), stream(kind)
    found = replayed(served(tmp_path, folder, asked), folder)
    assert sum(each.answers for each in found) == len(asked)
    for each in found:
        assert (each.compared, each.encoded, each.differences, each.left_out) == (each.answers, each.answers, (), {})


def test_states_replay_in_all_ways_to_carry_memory_and_have_no_bars(tmp_path: Path) -> None:
    folder, place = make_bundle(tmp_path, "lstm", hidden=(8,)), tmp_path / "j.sqlite"
    rng = np.random.default_rng(1)

    def state() -> list[Any]:
        return [float(rng.uniform()), *EXAMPLE_STATE[1:]]

    def told(client: httpx.Client, body: dict[str, Any], path: str = "/predict") -> Any:
        answer = client.post(path, json=body)
        assert answer.status_code == 200, answer.text
        return answer.json()

    memory, asked = None, 0
    for _ in range(2):  # a server that was started again has lost its sessions, and a memory goes on
        settings = ServeSettings(journal=str(place), journal_wait_s=60.0, memory_key=b"k" * 32)
        with running(create_app(folder, settings)) as client:
            for bar in (0, 1, 1, 2, 5):  # one comes twice, two are missing
                time = 1_767_225_600_000 + 3_600_000 * bar
                told(client, {"state": state(), "session_id": "s", "timestamp": time})
                memory = told(client, {"state": state()} | ({"memory": memory} if memory else {}))["memory"]
            told(client, {"sequence": [state() for _ in range(4)]})
            told(client, {"instances": [state(), state()]}, "/v1/batch")
            asked += 13
    found = replayed(place, folder)
    assert sum(each.compared for each in found) == asked
    assert all(each.differences == () and each.left_out == {NO_BARS: each.answers} for each in found)
    with closing(sqlite3.connect(place)) as connection:  # the first memories are gone: what began with them is named
        connection.execute("DELETE FROM entries WHERE number < 3")
        connection.commit()
    with open_journal(place, create=False) as journal:
        left = [each.left_out for each in replay_answers(journal, load_policy(folder))]
    assert sum(each.get(OLDER_MEMORY, 0) for each in left) > 0


def test_what_was_changed_or_answered_by_another_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_bundle(tmp_path, hidden=(8,))
    place = served(tmp_path, folder, stream("base")[:40])
    other = make_bundle(tmp_path, hidden=(5,), name="other")
    [found] = replayed(place, other)
    assert (found.compared, found.left_out) == (0, {OTHER_POLICY: 40})
    assert main(["replay", str(place), "--bundle", str(folder)]) == 0
    assert "40 answers of a server, 40 multipliers and 40 states" in capsys.readouterr().out
    changed(place, 5, lambda said: said.update(multiplier=said["multiplier"] + 2e-5))
    changed(place, 9, lambda said: said["state"].__setitem__(11, said["state"][11] + 2e-6))
    with open_journal(place, create=False) as journal:
        [found] = replay_answers(journal, load_policy(folder))
    assert [each.what for each in found.differences] == ["multiplier", "momentum_1h"]
    assert main(["replay", str(place), "--bundle", str(folder)]) != 0  # its chain is broken
