"""The server's journal: what was answered is on the disk before, once; what cannot be written is not answered."""

from __future__ import annotations

import asyncio
import json
import os
import random
import resource
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from helpers import PATIENCE_S
from helpers.bundle import make_bundle
from helpers.postgres import journal_place
from helpers.serving import Connection, cloud_run_server, running, wait_for
from himari_rl.cli import main
from himari_rl.journal.entry import ANSWER
from himari_rl.journal.store import DecisionJournal, open_journal
from himari_rl.serving.answer_journal import AnswerJournal, Numbers
from himari_rl.serving.http.app import Api, create_app
from himari_rl.serving.messages import EXAMPLE_STATE, DecideRequest
from himari_rl.serving.settings import ServeSettings

KILLS = int(os.environ.get("HIMARI_KILLS", "3"))
STATE = {"state": EXAMPLE_STATE}
(DECIDE,) = DecideRequest.model_config["json_schema_extra"]["examples"]  # type: ignore[index,call-overload]
BATCH = {"instances": [EXAMPLE_STATE, STATE]}
PLAIN = {"path", "client", "request_id", "cause", "source", "symbols", "version", "latency_ms"}


@contextmanager
def journalled(tmp_path: Path, kind: str = "base", **settings: Any) -> Iterator[tuple[Api, httpx.Client]]:
    settings = {"journal_wait_s": PATIENCE_S} | settings  # an fsync may take seconds on a busy machine
    app = create_app(make_bundle(tmp_path, kind, hidden=(8,)), ServeSettings(**settings))
    app.state.service.clock = lambda: 2e9
    with running(app) as client:
        yield app, client


def environment(place: Path | str) -> dict[str, str]:
    """Of a container that journals."""
    return {"HIMARI_JOURNAL": str(place), "HIMARI_JOURNAL_WAIT_S": str(PATIENCE_S), "HIMARI_ALLOW_ANONYMOUS": "1"}


def entries(place: Path | str) -> list[Any]:
    with open_journal(place, create=False) as journal:
        journal.verify()
        return list(journal.entries())


def unfounded(told: dict[int, float], place: Path | str) -> list[int]:
    """Numbers of entries that clients were told of and whose answer is not there."""
    kept = {row.number: row.entry.said["multiplier"] for row in entries(place)}
    return sorted(number for number, multiplier in told.items() if kept.get(number) != multiplier)


def test_every_route_s_answers_are_there_as_they_were_given(tmp_path: Path) -> None:
    place = tmp_path / "j.sqlite"
    with journalled(tmp_path, journal=str(place), access_log=True) as (_, client):
        answers = [
            client.post("/predict", json=STATE, headers={"x-request-id": "mine"}),
            client.post("/v1/batch", json=BATCH),
            client.post("/v1/decide", json=DECIDE | {"session_id": "trend"}),
            client.post("/predict", json={"state": EXAMPLE_STATE[:3]}),
            client.get("/health"),
        ]
        ready = client.get("/ready").json()
    assert [a.headers.get("x-journal-entry") for a in answers] == ["1", "2-3", "4", None, None]
    assert ready["journal"] == {"place": str(place), "written": 4}
    rows = entries(place)
    assert [row.entry.kind for row in rows] == [ANSWER] * 4
    given = [answers[0].json(), *answers[1].json()["predictions"], answers[2].json()]
    assert [row.entry.said["multiplier"] for row in rows] == [each["position_multiplier"] for each in given]
    assert [row.entry.said["confidence"] for row in rows] == [each["confidence"] for each in given]
    first, second, _, decided = (row.entry for row in rows)
    assert first.said.keys() == PLAIN | {"multiplier", "wanted", "confidence", "request", "answer"}
    assert (first.said["request_id"], first.said["request"], first.bar) == ("mine", STATE, None)
    assert second.said["request_id"]  # the server made one for its log
    assert (second.said["instance"], second.said["request"]) == (0, STATE)
    assert (decided.strategy, decided.bar) == ("trend", DECIDE["bar"]["timestamp"])
    assert decided.said["state"] == answers[2].json()["state"]
    assert decided.said["close"] == DECIDE["bar"]["close"]


def test_the_commands_of_a_journal_take_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import pyarrow.parquet as pq

    place, out = tmp_path / "j.sqlite", tmp_path / "j.parquet"
    with journalled(tmp_path, journal=str(place)) as (_, client):
        multiplier = client.post("/v1/decide", json=DECIDE).json()["position_multiplier"]
    assert main(["journal", "verify", str(place)]) == 0
    assert "1 entries, the chain is whole (1 answer)" in capsys.readouterr().out
    assert main(["journal", "tail", str(place), "--kind", "answer"]) == 0
    assert f"x{multiplier:.4f} /v1/decide" in capsys.readouterr().out
    assert main(["journal", "export", str(place), "--out", str(out)]) == 0
    [row] = pq.read_table(out).to_pylist()
    assert (row["multiplier"], row["close"]) == (multiplier, DECIDE["bar"]["close"])


def test_several_symbols_are_an_entry_each(tmp_path: Path) -> None:
    place = tmp_path / "j.sqlite"
    with journalled(tmp_path, "multi", journal=str(place)) as (app, client):
        symbols = app.state.service.slot.symbols
        state = EXAMPLE_STATE * len(symbols) + [0.0] * (app.state.service.slot.dim - 16 * len(symbols))
        answer = client.post("/predict", json={"state": state})
    assert answer.headers["x-journal-entry"] == f"1-{len(symbols)}"
    rows = [row.entry for row in entries(place)]
    assert {row.symbol: row.said["multiplier"] for row in rows} == answer.json()["position_multipliers"]
    assert ["request" in row.said for row in rows] == [False] * (len(symbols) - 1) + [True]


def test_a_name_that_no_column_takes_is_written_in_letters(tmp_path: Path) -> None:
    place = tmp_path / "j.sqlite"
    with journalled(tmp_path, journal=str(place)) as (_, client):
        body = json.dumps(DECIDE | {"session_id": "a\x00\ud800"})
        answer = client.post("/v1/decide", content=body)
        assert client.post("/predict", json=STATE).headers["x-journal-entry"]
    rows = entries(place)
    if answer.status_code == 200:
        assert rows[0].entry.strategy == r"a\x00\ud800"
    assert rows[-1].entry.said["path"] == "/predict"


def test_without_a_journal_nothing_is_different(tmp_path: Path) -> None:
    with journalled(tmp_path) as (app, client):
        answer = client.post("/predict", json=STATE)
        assert answer.status_code == 200
        assert "x-journal-entry" not in answer.headers
        assert app.answer_journal is None
        assert app.fast_path.direct
        assert client.get("/ready").json()["journal"] is None


async def _load(port: int, count: int) -> list[int]:
    async def one() -> int:
        connection = await Connection.to(port)
        try:
            status, _ = await connection.post("/predict", STATE)
        finally:
            connection.close()
        return status

    return await asyncio.gather(*(one() for _ in range(count)))


def test_requests_that_come_together_share_a_write_and_the_loop_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first write waits until the others have come: so there are two, whatever the machine."""
    place, append, groups, going = tmp_path / "j.sqlite", DecisionJournal.append, [], threading.Event()

    def held(journal: DecisionJournal, group: Any) -> Any:
        groups.append(len(group))
        going.wait(PATIENCE_S)
        return append(journal, group)

    with journalled(tmp_path, journal=str(place)) as (app, client):
        monkeypatch.setattr(DecisionJournal, "append", held)
        found: list[int] = []
        first = threading.Thread(target=lambda: found.append(client.post("/predict", json=STATE).status_code))
        first.start()
        wait_for(lambda: groups == [1])
        port = client.base_url.port
        assert port is not None
        rest = threading.Thread(target=lambda: found.extend(asyncio.run(_load(port, 30))))
        rest.start()
        wait_for(lambda: app.answer_journal is not None and app.answer_journal._queue.qsize() == 30)
        assert httpx.get(f"{client.base_url}/health").status_code == 200  # a write that waits holds nobody else
        assert found == []
        going.set()
        first.join(PATIENCE_S)
        rest.join(PATIENCE_S)
    assert found == [200] * 31
    assert groups == [1, 30]
    assert len(entries(place)) == 31


def test_a_disk_that_hangs_refuses_and_names_it_and_comes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place, append, going = tmp_path / "j.sqlite", DecisionJournal.append, threading.Event()
    with journalled(tmp_path, journal=str(place), journal_wait_s=0.3) as (app, client):
        wait_for(lambda: client.post("/predict", json=STATE).status_code == 200)
        before = client.get("/ready").json()["journal"]["written"]

        def hung(journal: DecisionJournal, group: Any) -> Any:
            going.wait(PATIENCE_S)
            return append(journal, group)

        monkeypatch.setattr(DecisionJournal, "append", hung)
        late = client.post("/predict", json=STATE)
        assert (late.status_code, late.headers["retry-after"]) == (503, "1")
        assert "did not take the decision within 0.3 s" in late.json()["detail"]
        wait_for(lambda: client.get("/ready").status_code == 503)
        assert "has not come back" in client.get("/ready").json()["detail"]
        metrics = app.state.service.metrics
        decided, refused = metrics.requests, metrics.errors[503, "journal"]
        assert client.post("/predict", json=STATE).status_code == 503
        assert (metrics.requests, metrics.errors[503, "journal"]) == (
            decided,
            refused + 1,
        )  # before anything is decided
        assert client.get("/health").status_code == 200
        going.set()
        wait_for(lambda: client.get("/ready").status_code == 200)
        assert (
            client.get("/ready").json()["journal"]["written"] == before + 1
        )  # the one that hung, after it was refused
        wait_for(lambda: client.post("/predict", json=STATE).status_code == 200)


def test_more_than_may_wait_are_refused_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place, append, going, groups = tmp_path / "j.sqlite", DecisionJournal.append, threading.Event(), []
    settings = {"journal": str(place), "journal_queue": 2}
    with journalled(tmp_path, **settings) as (app, client):

        def held(journal: DecisionJournal, group: Any) -> Any:
            groups.append(len(group))
            going.wait(PATIENCE_S)
            return append(journal, group)

        monkeypatch.setattr(DecisionJournal, "append", held)
        port, found = client.base_url.port, []
        assert port is not None
        for count in (1, 2):
            threads = [threading.Thread(target=lambda: found.extend(asyncio.run(_load(port, 1)))) for _ in range(count)]
            for thread in threads:
                thread.start()
            if count == 1:
                wait_for(lambda: groups == [1])
        wait_for(lambda: app.answer_journal is not None and app.answer_journal._queue.qsize() == 2)
        refused = client.post("/predict", json=STATE)
        assert refused.status_code == 503
        assert "2 answers wait for the journal" in refused.json()["detail"]
        going.set()
        wait_for(lambda: found == [200] * 3)
    assert len(entries(place)) == 3


def test_a_full_disk_refuses_until_there_is_room(tmp_path: Path) -> None:
    """The operating system refuses a file that grows beyond a limit, as a full disk does."""
    place, bundle = tmp_path / "j.sqlite", make_bundle(tmp_path, hidden=(8,))
    with cloud_run_server(bundle, **environment(place)) as (process, client):
        told = {int(client.post("/predict", json=STATE).headers["x-journal-entry"])}
        limit = place.with_name("j.sqlite-wal").stat().st_size + 20_000
        unlimited = resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        answer = client.post("/predict", json=STATE)
        while answer.status_code == 200:
            told.add(int(answer.headers["x-journal-entry"]))
            answer = client.post("/predict", json=STATE)
        assert answer.status_code == 503
        assert "could not be journalled" in answer.json()["detail"]
        wait_for(lambda: client.get("/ready").status_code == 503)
        assert str(place) in client.get("/ready").json()["detail"]
        assert client.get("/health").status_code == 200
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, unlimited)
        wait_for(lambda: client.get("/ready").status_code == 200)
        told.add(int(client.post("/predict", json=STATE).headers["x-journal-entry"]))
    numbers = [row.number for row in entries(place)]
    assert told <= set(numbers)
    assert len(numbers) == len(set(numbers))


def test_a_journal_that_cannot_be_opened_refuses_and_a_command_does_not_start(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = tmp_path / "file" / "j.sqlite"
    (tmp_path / "file").write_text("no folder")
    with journalled(tmp_path, journal=str(place)) as (_, client):
        assert client.post("/predict", json=STATE).status_code == 503
        assert "cannot be used" in client.get("/ready").json()["detail"]
        (tmp_path / "file").unlink()
        wait_for(lambda: client.get("/ready").status_code == 200)
        assert client.post("/predict", json=STATE).status_code == 200
    other = tmp_path / "other"
    other.write_text("no folder")
    bundle = str(make_bundle(tmp_path, hidden=(4,), name="b2"))
    assert main(["serve", bundle, "--port", "0", "--journal", str(other / "j.sqlite")]) == 2
    assert "cannot be used" in capsys.readouterr().err


@pytest.fixture(params=["sqlite", "postgresql"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    with journal_place(request.param, tmp_path) as made:
        yield made


def test_a_server_killed_under_load_loses_and_doubles_no_answer(tmp_path: Path, place: str) -> None:
    """HIMARI_KILLS says how often. Every client asks with a state of its own, so that each answer is known again."""
    bundle, rng = make_bundle(tmp_path, hidden=(8,)), random.Random(0)
    told: dict[int, float] = {}
    doubled: list[int] = []
    others: list[str] = []

    def ask(url: str, number: int) -> None:
        with httpx.Client(base_url=url, timeout=PATIENCE_S) as client:
            for turn in range(1_000_000):
                state = [round((number + turn % 97) / 200, 4), *EXAMPLE_STATE[1:]]
                try:
                    answer = client.post("/predict", json={"state": state})
                except httpx.TransportError:
                    return
                if answer.status_code != 200:
                    others.append(answer.text)
                    return
                entry = int(answer.headers["x-journal-entry"])
                doubled.extend([entry] * (entry in told))
                told[entry] = answer.json()["position_multiplier"]

    for _ in range(KILLS):
        before = len(told)
        with cloud_run_server(bundle, **environment(place)) as (process, client):
            wait_for(lambda: client.get("/ready").status_code == 200)
            clients = [threading.Thread(target=ask, args=(str(client.base_url), n)) for n in range(8)]
            for each in clients:
                each.start()
            wait_for(lambda: len(told) > before + 20)  # noqa: B023  # asked within this turn
            time.sleep(rng.uniform(0.0, 0.2))
            process.send_signal(signal.SIGKILL)
            for each in clients:
                each.join(PATIENCE_S)
    assert len(told) > 20 * KILLS
    assert (doubled, others) == ([], [])
    assert unfounded(told, place) == []
    numbers = [row.number for row in entries(place)]
    assert numbers == list(range(1, len(numbers) + 1))
    assert len(numbers) <= len(told) + 8 * KILLS  # beyond those told no more than were under way at a kill


def test_an_answer_that_is_not_written_would_be_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "j.sqlite"

    async def answered_at_once(journal: AnswerJournal, answered: Any) -> Numbers:
        return Numbers(7, 7)

    with journalled(tmp_path, journal=str(place)) as (_, client):
        monkeypatch.setattr(AnswerJournal, "keep", answered_at_once)
        answer = client.post("/predict", json=STATE)
    told = {int(answer.headers["x-journal-entry"]): answer.json()["position_multiplier"]}
    assert unfounded(told, place) == [7]
