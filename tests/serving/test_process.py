"""The server as a process: no torch, little memory; `himari serve` and the smallest example, as a person runs them."""

from __future__ import annotations

import gc
import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import psutil
import pytest

from helpers import ROOT, run_python
from helpers.bundle import make_bundle
from helpers.serving import DEADLINE_S, cloud_run_server, running, wait_for
from himari_rl.cli import main
from himari_rl.policy.runtime import load_policy
from himari_rl.serving.http.app import Api, create_app
from himari_rl.serving.http.run import listen, serve
from himari_rl.serving.messages import EXAMPLE_STATE

BLOCKED = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "gymnasium", "pandas", "scipy", "ccxt", "google"):
            raise ImportError(f"{name} must not be imported here")

sys.meta_path.insert(0, Blocked())
"""


def test_the_server_decides_where_torch_gymnasium_and_pandas_cannot_be_imported(tmp_path: Path) -> None:
    folder = make_bundle(tmp_path)
    done = run_python(
        BLOCKED
        + f"""
from himari_rl.serving.http.app import Api, create_app
from himari_rl.serving.service import Service
app = create_app({str(folder)!r})
assert app.state.service.load(), app.state.service.reason
print(app.state.service.predict({{"state": {EXAMPLE_STATE!r}}})["position_multiplier"])
"""
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) == load_policy(folder).decide(EXAMPLE_STATE).multipliers[0]


def test_the_block_above_blocks() -> None:
    done = run_python(BLOCKED + "import torch")
    assert "torch must not be imported here" in done.stderr


def test_a_server_process_keeps_below_150_megabytes(tmp_path: Path) -> None:
    with cloud_run_server(make_bundle(tmp_path, "multi", seeds=range(5), hidden=(256, 256))) as (process, client):
        assert client.get("/ready").status_code == 200
        from himari_rl.serving.slot import ordinary_state

        for _ in range(200):
            assert client.post("/predict", json={"state": ordinary_state(3)}).status_code == 200
        client.get("/docs"), client.get("/openapi.json"), client.get("/metrics")
        resident = psutil.Process(process.pid).memory_info().rss / 1e6
        assert 20 < resident < 150, f"{resident:.0f} MB"


def himari(*arguments: str) -> list[str]:
    code = "import sys, himari_rl.cli as cli; sys.exit(cli.main(sys.argv[1:]))"
    return [sys.executable, "-c", code, *arguments]


def test_himari_serve_prints_a_curl_line_that_works(tmp_path: Path) -> None:
    folder = make_bundle(tmp_path, hidden=(4,))
    process = subprocess.Popen(
        himari("serve", str(folder), "--port", "0"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    )
    try:
        assert process.stdout
        lines = [process.stdout.readline() for _ in range(4)]
        url = re.search(r"http://127\.0\.0\.1:\d+", lines[2])
        body = re.search(r"-d '(.*)'", lines[3])
        assert load_policy(folder).manifest.version in lines[0]
        assert "an artificial market" in lines[1]
        assert url
        assert body
        assert f"curl -s {url[0]}/predict" in lines[3]
        wait_for(lambda: listens(url[0]))
        answer = httpx.post(f"{url[0]}/predict", content=body[1], timeout=DEADLINE_S)
        assert 0.0 <= answer.json()["position_multiplier"] <= 2.0
    finally:
        process.terminate()
        process.communicate(timeout=DEADLINE_S)


def test_himari_serve_says_in_json_where_it_listens(tmp_path: Path) -> None:
    folder = make_bundle(tmp_path, "multi", hidden=(4,))
    command = himari("serve", str(folder), "--port", "0", "--json")
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            assert process.stdout
            said = json.loads(process.stdout.readline())
            wait_for(lambda: listens(said["url"]))
            ready = httpx.get(f"{said['url']}/ready", timeout=DEADLINE_S).json()
        finally:
            process.terminate()
        assert process.stdout.read() == ""  # nothing but the one document
    assert said["model_version"] == ready["model_version"] == load_policy(folder).manifest.version
    assert said["symbols"] == ready["symbols"]
    assert (said["state_dim"], said["keys"], said["synthetic"]) == (52, False, True)


def test_a_connection_sends_at_once_whatever_the_event_loop(tmp_path: Path) -> None:
    with listen("127.0.0.1", 0) as sock, socket.create_connection(sock.getsockname(), DEADLINE_S):
        accepted, _ = sock.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
def test_an_install_without_uvloop_serves_on_the_loop_of_asyncio(tmp_path: Path, loop: str) -> None:
    """[serve] alone; with [fast] beside it the loop is uvloop's."""
    code = f"""
import asyncio, sys
if {loop!r} == "asyncio":
    sys.modules["uvloop"] = None
from himari_rl.serving.http.app import create_app
from himari_rl.serving.http.run import make_server
loop = make_server(create_app({str(make_bundle(tmp_path, hidden=(4,)))!r})).config.get_loop_factory()()
print(type(loop).__module__.partition(".")[0])
loop.close()
"""
    done = run_python(code)
    assert done.stdout == f"{loop}\n", done.stderr


def test_an_option_of_himari_serve_wins_over_its_variable_and_leaves_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    apps: list[Api] = []
    monkeypatch.setattr("himari_rl.serving.http.run.serve", lambda app, sock: (apps.append(app), sock.close()))
    monkeypatch.setattr("gc.disable", lambda: None)  # for a process of its own, which this is not
    one, two = (make_bundle(tmp_path, hidden=(4,), name=name) for name in ("one", "two"))
    for name, value in {"CHALLENGER": str(two), "CHALLENGER_SHARE": "0.5", "LOG_EVERY": "10"}.items():
        monkeypatch.setenv(f"HIMARI_{name}", value)
    for options in ([], ["--share", "0.1", "--log-every", "0"]):
        assert main(["serve", str(one), "--port", "0", *options]) == 0
    found = [app.state.service.settings for app in apps]
    assert [(s.challenger, s.challenger_share, s.log_every) for s in found] == [(str(two), 0.5, 10), (str(two), 0.1, 0)]


def listens(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health", timeout=DEADLINE_S).status_code == 200
    except httpx.TransportError:
        return False


def test_the_collector_is_off_until_the_server_runs_and_on_while_it_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    monkeypatch.setattr("uvicorn.Server.run", lambda self, sockets: found.append(gc.isenabled()))
    gc.disable()
    with listen("127.0.0.1", 0) as sock:
        serve(create_app(make_bundle(tmp_path, hidden=(4,))), sock)
    gc.unfreeze()
    assert found == [True]


def test_himari_serve_refuses_a_bundle_that_is_not_there_in_one_line(tmp_path: Path) -> None:
    done = subprocess.run(himari("serve", str(tmp_path / "no")), capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(r"himari: there is no policy bundle at [^\n]+ makes one\n", done.stderr)


def test_himari_serve_on_a_taken_port_says_so_in_one_line(tmp_path: Path) -> None:
    folder = make_bundle(tmp_path, hidden=(4,))
    with running(create_app(folder)) as client:
        taken = str(client.base_url.port)
        done = subprocess.run(
            himari("serve", str(folder), "--port", taken), capture_output=True, text=True, check=False
        )
    assert done.returncode == 2
    assert done.stderr == (
        f"himari: cannot listen on 127.0.0.1:{taken}: Address already in use; choose another --port or --host\n"
    )


@pytest.mark.parametrize(("arguments", "code"), [(1, 0), (0, 2), (2, 2)])
def test_the_smallest_example_decides(tmp_path: Path, arguments: int, code: int) -> None:
    folder = make_bundle(tmp_path, hidden=(4,))
    command = [sys.executable, str(ROOT / "cloud_run" / "simple_policy.py"), *[str(folder)] * arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    if code == 0:
        multiplier = load_policy(folder).decide(EXAMPLE_STATE).multipliers[0]
        assert done.stdout.startswith(f"multiplier {multiplier:.3f}, confidence ")
