"""Faults of the machine: an error that is not ours, a look that hangs, a log that cannot be written.

Each fault must be said while it lasts and forgotten when it goes; answers go on meanwhile.
"""

from __future__ import annotations

import os
import re
import threading
from collections import Counter
from pathlib import Path
from threading import Event

import pytest

from helpers.bundle import make_bundle
from helpers.serving import cloud_run_server, running, wait_for
from himari_rl.policy.alias import point
from himari_rl.serving import slot as slots
from himari_rl.serving.http.app import create_app
from himari_rl.serving.log_lines import LogLines
from himari_rl.serving.messages import EXAMPLE_STATE
from himari_rl.serving.settings import ServeSettings

OFTEN = ServeSettings(reload_s=0.05)


@pytest.mark.parametrize(
    "fault", [PermissionError(13, "denied"), UnicodeDecodeError("ascii", b"x", 0, 1, "no"), RecursionError("deep")]
)
def test_following_survives_any_error_and_goes_on_when_it_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: Exception
) -> None:
    first, second = (make_bundle(tmp_path, hidden=(size,), name=name) for name, size in (("a", 4), ("b", 5)))
    alias = str(tmp_path / "champion.json")
    point(alias, str(first))
    with running(create_app(alias, OFTEN)) as client:
        before = client.get("/ready").json()["model_version"]

        def broken(_: str) -> None:
            raise fault

        with monkeypatch.context() as patch:
            patch.setattr(slots, "read_alias", broken)
            point(alias, str(second))
            wait_for(lambda: client.get("/ready").json()["champion"]["refused"])
            said = client.get("/ready").json()
            assert type(fault).__name__ in said["champion"]["refused"]
            assert said["model_version"] == before
            assert client.post("/predict", json={"state": EXAMPLE_STATE}).json()["model_version"] == before
        wait_for(lambda: client.get("/ready").json()["model_version"] != before)
        assert client.get("/ready").json()["champion"]["refused"] is None


def test_a_bundle_name_of_300_letters_is_a_reason_and_not_the_end(tmp_path: Path) -> None:
    alias, folder = tmp_path / "champion.json", make_bundle(tmp_path, hidden=(4,), name="first")
    point(str(alias), str(folder))
    good = alias.read_bytes()
    with running(create_app(str(alias), OFTEN)) as client:
        before = client.get("/ready").json()["model_version"]
        alias.write_bytes(good.replace(folder.name.encode(), b"n" * 300))
        wait_for(lambda: client.get("/ready").json()["champion"]["refused"])
        assert "n" * 40 in client.get("/ready").json()["champion"]["refused"]
        alias.write_bytes(good)
        wait_for(lambda: client.get("/ready").json()["champion"]["refused"] is None)
        assert client.get("/ready").json()["model_version"] == before


def test_at_start_an_error_that_is_not_ours_is_the_reason_of_the_503(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slots, "load_policy", lambda _: 1 / 0)
    with running(create_app(make_bundle(tmp_path, hidden=(4,)), OFTEN)) as client:
        for answer in (client.get("/ready"), client.post("/predict", json={"state": EXAMPLE_STATE})):
            assert (answer.status_code, "ZeroDivisionError" in answer.text) == (503, True)
        monkeypatch.undo()
        wait_for(lambda: client.get("/ready").status_code == 200)


def test_a_look_that_hangs_is_said_and_answers_and_the_exit_do_not_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, release = make_bundle(tmp_path, hidden=(4,)), Event()
    settings = ServeSettings(reload_s=0.05, look_timeout_s=0.2)
    with running(create_app(folder, settings)) as client:
        assert client.get("/ready").json()["champion"]["refused"] is None
        monkeypatch.setattr(slots, "is_file", lambda _: release.wait())
        wait_for(lambda: "has not come back" in str(client.get("/ready").json()["champion"]["refused"]))
        assert client.get("/ready").json()["looked_s_ago"] > 0.2
        assert client.post("/predict", json={"state": EXAMPLE_STATE}).status_code == 200
        assert client.get("/health").status_code == 200
        assert client.post("/admin/reload").status_code == 409  # nor does who asks for a look
        release.set()
        wait_for(lambda: client.get("/ready").json()["champion"]["refused"] is None)
        release.clear()
        wait_for(lambda: "has not come back" in str(client.get("/ready").json()["champion"]["refused"]))
    left = [thread for thread in threading.enumerate() if not thread.daemon and thread is not threading.main_thread()]
    assert left == [], "the server waited for the hung look"
    release.set()


def test_a_named_pipe_in_place_of_the_alias_or_the_manifest_hangs_nothing(tmp_path: Path) -> None:
    alias = tmp_path / "champion.json"
    os.mkfifo(alias)
    with running(create_app(str(alias), OFTEN)) as client:
        wait_for(lambda: "a named pipe" in client.get("/ready").text)
        alias.unlink()
        point(str(alias), str(make_bundle(tmp_path, hidden=(4,))))
        wait_for(lambda: client.get("/ready").status_code == 200)


def test_what_is_refused_is_not_read_again_at_every_look_but_at_once_when_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: Counter[str] = Counter()
    real = slots.read_alias

    def counted(path: str) -> object:
        looks["reads"] += 1
        return real(path)

    monkeypatch.setattr(slots, "read_alias", counted)
    alias = tmp_path / "champion.json"
    alias.write_text("{}")
    follower = slots.Follower(str(alias), ServeSettings(reload_s=1000.0))
    for _ in range(10):
        with pytest.raises(slots.BundleError):
            follower.changed()
    assert looks["reads"] == 1
    follower.hurry()
    with pytest.raises(slots.BundleError):
        follower.changed()
    assert looks["reads"] == 2
    point_of_change = make_bundle(tmp_path, hidden=(4,))
    alias.unlink()
    point(str(alias), str(point_of_change))
    assert follower.changed() is not None


def test_a_log_pipe_that_nobody_reads_stops_nothing(tmp_path: Path) -> None:
    """One line an answer into a pipe of 64 KiB: a blocking write would stop the loop after a few hundred."""
    with cloud_run_server(make_bundle(tmp_path, hidden=(4,)), HIMARI_LOG_EVERY="1") as (process, client):
        for _ in range(3_000):
            assert client.post("/predict", json={"state": EXAMPLE_STATE}).status_code == 200
        assert client.get("/health").status_code == 200
        found = re.search(r'himari_log_lines_dropped_total{cause="full"} (\S+)', client.get("/metrics").text)
        assert found is not None
        assert float(found[1]) > 0
        assert process.poll() is None


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full on this system")
def test_a_full_disk_costs_lines_which_are_counted() -> None:
    dropped: Counter[str] = Counter()
    descriptor = os.open("/dev/full", os.O_WRONLY)
    lines = LogLines(dropped, descriptor)
    for _ in range(5):
        lines("a line\n")
    lines.drain(5.0)
    assert dropped == {"refused": 5}
    os.close(descriptor)


def test_lines_arrive_whole_and_in_order() -> None:
    reading, writing = os.pipe()
    dropped: Counter[str] = Counter()
    lines = LogLines(dropped, writing)
    sent = [f"line {number}\n" for number in range(500)]
    for line in sent:
        lines(line)
    lines.drain(5.0)
    assert os.read(reading, 1 << 16).decode() == "".join(sent)
    assert not dropped
