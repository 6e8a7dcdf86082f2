"""The command: a file, standard input or HTTP in, JSON lines out; SIGTERM finishes what is in hand, nothing is lost."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from helpers import PATIENCE_S, ROOT
from helpers.bundle import make_bundle
from helpers.serving import running
from helpers.stream import lines, market, runner_of
from himari_rl.cli import main
from himari_rl.journal.entry import DECISION
from himari_rl.journal.store import open_journal
from himari_rl.runner.loop import Endpoint, Loop, _Handler
from himari_rl.serving.http.app import create_app

ROWS = 80
BARS = market("BTC-USDT", 4, ROWS)
STREAM = lines([BARS], range(ROWS))
WARM = 20  # without a history the first decisions fall back


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("bundle"), hidden=(8,))


@contextmanager
def himari_run(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "himari_rl", "run", *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate(timeout=PATIENCE_S)


def test_a_file_of_signals_becomes_decisions(tmp_path: Path, bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stream = tmp_path / "signals.jsonl"
    stream.write_text("\n".join(STREAM) + "\n\nnonsense\n")
    place = str(tmp_path / "j.sqlite")
    words = ["run", "--bundle", str(bundle), "--signals", str(stream), "--journal", place, "--clock", "bar"]
    assert main([*words, "--set", "halt.volatility=inf", "--set", "risk.normal_cap=1.5"]) == 0
    out, said = capsys.readouterr()
    told = [json.loads(line) for line in out.splitlines()]
    assert [each["cause"] for each in told[:ROWS]] == ["few_bars"] * WARM + [""] * (ROWS - WARM)
    assert told[-1]["rejected"] == "shape"
    assert len(told) == ROWS + 1
    assert "80 decisions" in said
    assert main(["journal", "verify", place]) == 0
    assert main(["replay", place, "--bundle", str(bundle)]) == 0


def test_sigterm_finishes_the_decision_in_hand(tmp_path: Path, bundle: Path) -> None:
    place = tmp_path / "j.sqlite"
    with himari_run("--bundle", str(bundle), "--journal", str(place), "--clock", "bar") as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write("\n".join(STREAM[:50]) + "\n")
        process.stdin.flush()
        first = process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        rest = process.stdout.read()  # not communicate(), which loses what was read ahead with the first line
        assert process.wait(PATIENCE_S) == 0
    told = [json.loads(line) for line in [first, *rest.splitlines()]]
    with open_journal(place) as journal:
        kept = [row.entry.bar for row in journal.entries(kinds=[DECISION])]
        journal.verify()
    assert [each["bar"] for each in told] == kept  # what was journalled was told, and nothing else
    assert len(told) >= 1


def test_signals_over_http_and_what_the_runner_says_of_itself(tmp_path: Path, bundle: Path) -> None:
    place = str(tmp_path / "j.sqlite")
    words = ("--bundle", str(bundle), "--journal", place, "--clock", "bar", "--port", "0")
    with himari_run(*words) as process:
        assert process.stderr is not None
        url = process.stderr.readline().split()[1].removesuffix("/signals")
        with httpx.Client(base_url=url, timeout=PATIENCE_S) as client:
            told = [json.loads(line) for line in _post(client, "\n".join(STREAM[:30])).splitlines()]
            assert [each["cause"] for each in told] == ["few_bars"] * WARM + [""] * 10
            [again] = _post(client, STREAM[29]).splitlines()
            assert json.loads(again)["rejected"] == "repeated"
            assert client.get("/ready").json()["status"] == "ready"
            assert 'himari_run_decisions_total{source="local_model"} 10' in client.get("/metrics").text
            assert 'himari_run_rejections_total{reason="repeated"} 1' in client.get("/metrics").text
            assert main(["run", "halt", "--journal", place, "--why", "test"]) == 0
            [halted] = _post(client, STREAM[30]).splitlines()
            assert json.loads(halted)["cause"] == "halted"
            ready = client.get("/ready")
            assert (ready.status_code, ready.json()["status"]) == (503, "halted by hand")
            assert ready.json()["halted"][0]["why"] == "test"
            assert 'himari_run_halted{strategy="*",symbols="*",cause="hand"} 1' in client.get("/metrics").text
            assert client.get("/health").status_code == 200
            assert client.get("/nothing").status_code == 404
            assert client.post("/signals", content=b"x" * (1 << 21)).status_code == 413
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 0, said


def _post(client: httpx.Client, body: str) -> str:
    answer = client.post("/signals", content=body.encode())
    assert answer.status_code == 200, answer.text
    return answer.text


def test_a_server_is_asked_from_the_command_line(
    tmp_path: Path, bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stream, history = tmp_path / "signals.jsonl", tmp_path / "BTC-USDT_1h.csv"
    stream.write_text("\n".join(STREAM[60:]))
    history.write_text(_csv(60))
    with running(create_app(bundle)) as server:
        words = ["run", "--url", str(server.base_url), "--symbols", "BTC-USDT", "--signals", str(stream)]
        words += ["--journal", str(tmp_path / "j.sqlite"), "--clock", "bar", "--history", str(history)]
        assert main([*words, "--rl-timeout-ms", "60000"]) == 0
    out, said = capsys.readouterr()
    assert {json.loads(line)["source"] for line in out.splitlines()} == {"gcp_api"}
    assert "first call after a pause" in said
    assert main(["replay", str(tmp_path / "j.sqlite"), "--bundle", str(bundle)]) == 0


def test_a_history_of_another_symbol_is_refused(
    tmp_path: Path, bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    history = tmp_path / "yesterday.csv"
    history.write_text(_csv(60))
    words = ["run", "--bundle", str(bundle), "--journal", str(tmp_path / "j.sqlite"), "--history", str(history)]
    assert main(words) == 2
    assert "is of yesterday; expected bars of BTC-USDT" in capsys.readouterr().err


def _csv(rows: int) -> str:
    lines = ["timestamp,open,high,low,close,volume"]
    for row in range(rows):
        prices = ",".join(str(getattr(BARS, name)[row]) for name in ("open", "high", "low", "close", "volume"))
        lines.append(f"{BARS.timestamp[row]},{prices}")
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "--bundle or --url"),
        (["--url", "http://127.0.0.1:1"], "without --symbols"),
        (["--bundle", "none"], "none"),
        (["--set", "run.fallback_multiplier=3"], "fallback_multiplier"),
        (["--set", "portfolio.equity_usd=0"], "equity_usd"),
        (["--set", "run.clock=moon"], "clock"),
    ],
)
def test_what_the_command_cannot_do_is_one_line(
    tmp_path: Path, words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", "--journal", str(tmp_path / "j.sqlite"), *words]) == 2
    err: Any = capsys.readouterr().err
    assert said in err
    assert len(err.splitlines()) == 1


@contextmanager
def listening(tmp_path: Path, bundle: Path) -> Iterator[tuple[str, int]]:
    """A runner's endpoint in this process."""
    with open_journal(tmp_path / "j.sqlite") as journal:
        runner = runner_of(journal, bundle)
        loop = Loop(runner, lambda told: None)
        endpoint = Endpoint(loop, runner, "127.0.0.1", 0)
        thread = threading.Thread(target=loop.run)
        thread.start()
        try:
            yield "127.0.0.1", endpoint.server_address[1]
        finally:
            loop.stopping.set()
            thread.join(PATIENCE_S)
            endpoint.shutdown()
            endpoint.server_close()


def _raw(address: tuple[str, int], sent: bytes) -> bytes:
    """What comes back until the other side ends."""
    with socket.create_connection(address, PATIENCE_S) as connection:
        connection.sendall(sent)
        found = b""
        while part := connection.recv(1 << 16):
            found += part
            if b"\r\n\r\n" in found and b"content-length: 0" not in found.lower():
                break
        return found


BODY = STREAM[0].encode()
HEAD = b"POST /signals HTTP/1.1\r\nhost: x\r\n"


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (HEAD + b"content-length: %d\r\n\r\n" % len(BODY) + BODY, 200),
        (HEAD + b"\r\n", 411),
        (HEAD + b"transfer-encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n", 411),
        (HEAD + b"transfer-encoding: chunked\r\ncontent-length: 5\r\n\r\n", 400),
        (HEAD + b"content-length: 5\r\ncontent-length: 6\r\n\r\n", 411),
        (HEAD + b"content-length: \xb2\r\n\r\n", 411),
        (HEAD + b"content-length: -5\r\n\r\n", 411),
        (HEAD + b"content-length: " + b"9" * 5_000 + b"\r\n\r\n", 413),
        (HEAD + b"content-length: 8194\r\n\r\n" + b"{\n" * 4_097, 413),
        (HEAD + b"origin: http://evil.example\r\ncontent-length: 2\r\n\r\n{}", 403),
        (HEAD + b"content-length: 500\r\n\r\n{}", 408),
    ],
)
def test_what_is_no_request_is_refused_and_the_next_is_heard(
    tmp_path: Path, bundle: Path, sent: bytes, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_Handler, "timeout", 0.5)
    with listening(tmp_path, bundle) as address:
        assert _raw(address, sent).startswith(b"HTTP/1.1 %d " % status)
        again = json.loads(httpx.post(f"http://127.0.0.1:{address[1]}/signals", content=STREAM[1]).text)
        assert again["bar"] == int(BARS.timestamp[1])


def test_whoever_sends_half_a_request_is_let_go(tmp_path: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_Handler, "timeout", 0.3)
    with listening(tmp_path, bundle) as address, socket.create_connection(address, PATIENCE_S) as slow:
        slow.sendall(b"POST /signals HTTP/1.1\r\nhost:")
        assert slow.recv(1) == b""
    with listening(tmp_path / "half", bundle) as address, socket.create_connection(address, PATIENCE_S) as half:
        half.sendall(HEAD + b"content-length: 500\r\n\r\n{}")
        half.shutdown(socket.SHUT_WR)
        assert half.recv(1 << 16).startswith(b"HTTP/1.1 400 ")


def test_a_line_that_never_ends_is_refused_once_and_the_next_is_decided(tmp_path: Path, bundle: Path) -> None:
    ours, theirs = os.pipe()
    told: list[Any] = []
    with open_journal(tmp_path / "j.sqlite") as journal:
        loop = Loop(runner_of(journal, bundle), told.extend)
        loop.feed(ours)
        thread = threading.Thread(target=loop.run)
        thread.start()
        with open(theirs, "wb") as pipe:
            pipe.write(b"x" * (5 << 20) + b"\n" + BODY + b"\n")
        thread.join(PATIENCE_S)
        os.close(ours)
    assert [each.get("rejected", "") for each in told] == ["shape", ""]
