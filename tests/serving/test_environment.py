"""Faults of the place that policies come from, of descriptors and of the clock: each is said while it lasts, the policy
before goes on answering, and when the fault goes the server goes on by itself, with what is offered then.
"""

from __future__ import annotations

import errno
import itertools
import json
import os
import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from helpers.bundle import make_bundle
from helpers.serving import cloud_run_server, running, wait_for
from himari_rl.policy.bundle import MANIFEST, WEIGHTS, read_manifest
from himari_rl.schema import HOUR_MS
from himari_rl.serving.http.app import create_app
from himari_rl.serving.messages import EXAMPLE_STATE, EXAMPLE_TIME
from himari_rl.serving.settings import ServeSettings
from himari_rl.storage import write_atomic

STATE = {"state": EXAMPLE_STATE}


class Source:
    """An alias in a folder of its own, and two bundles that it can name."""

    def __init__(self, place: Path) -> None:
        (place / "aliases").mkdir()
        self.alias = place / "aliases" / "champion.json"
        self.bundles = [make_bundle(place, hidden=(size,), name=f"bundle{size}") for size in (4, 5)]
        manifests = [read_manifest(folder) for folder in self.bundles]
        self.versions = [manifest.version for manifest in manifests]
        self._digests = [manifest.manifest_sha256 for manifest in manifests]
        self._steps = itertools.count(1)

    def offer(self, index: int) -> str:
        """Points the alias, without a look at the bundle; the version that should be served then."""
        step, bundle = next(self._steps), f"../{self.bundles[index].name}"
        document = {"bundle": bundle, "transaction": f"{step:016x}", "step": step}
        text = json.dumps(document | {"manifest_sha256": self._digests[index]})
        write_atomic(self.alias, text.encode())
        return self.versions[index]


Fault = Callable[[Path], object]


def _holes(path: Path) -> None:
    path.touch()
    os.truncate(path, 2**30)


def _socket(path: Path) -> None:
    here = os.open(path.parent, os.O_RDONLY)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"/proc/self/fd/{here}/{path.name}")  # the name of a socket must be short
    os.close(here)


def _cut_off(path: Path) -> None:
    path.write_bytes(_aside(path).read_bytes()[:-20])


def _aside(path: Path) -> Path:
    return path.with_name(f"{path.name}.aside")


FAULTS: dict[str, Fault] = {
    "missing": lambda path: None,
    "empty": lambda path: path.touch(),
    "of zeros": lambda path: path.write_bytes(bytes(4096)),
    "cut off": _cut_off,
    "a folder": lambda path: path.mkdir(),
    "a named pipe": lambda path: os.mkfifo(path),
    "a socket": _socket,
    "a device": lambda path: path.symlink_to("/dev/zero"),
    "a dead link": lambda path: path.symlink_to("nowhere"),
    "a link to itself": lambda path: path.symlink_to(path.name),
    "a file of holes": _holes,
}
"""What stands in the place of a file that was moved aside."""
KINDS = [(what, name) for what in ("alias", MANIFEST, WEIGHTS) for name in FAULTS]
KINDS += [("folder", name) for name in ("missing", "a folder", "empty", "a named pipe", "a dead link")]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    return Source(tmp_path_factory.mktemp("source"))


@pytest.fixture(scope="module")
def served(source: Source) -> Iterator[httpx.Client]:
    source.offer(0)
    with running(create_app(str(source.alias), ServeSettings(reload_s=0.02))) as client:
        yield client


def refused(client: httpx.Client) -> str:
    return client.get("/ready").json()["champion"]["refused"] or ""


def serves(client: httpx.Client, version: str) -> bool:
    """The version, and nothing is refused."""
    ready = client.get("/ready").json()
    return ready["model_version"] == version and ready["champion"]["refused"] is None


def now(client: httpx.Client, source: Source) -> int:
    """Which of the two bundles is served."""
    return source.versions.index(client.get("/ready").json()["model_version"])


@pytest.mark.parametrize(("what", "name"), KINDS)
def test_a_fault_of_the_source_is_said_and_forgotten(
    served: httpx.Client, source: Source, what: str, name: str
) -> None:
    before = now(served, source)
    bundle = source.bundles[1 - before]
    path = {"alias": source.alias, "folder": bundle}.get(what, bundle / what)
    path.rename(_aside(path))
    FAULTS[name](path)
    if what != "alias":
        source.offer(1 - before)
    wait_for(lambda: refused(served))
    said = refused(served)
    assert (source.alias.name if what == "alias" else bundle.name) in said
    assert "\n" not in said
    answer = served.post("/predict", json=STATE)
    assert (answer.status_code, answer.json()["model_version"]) == (200, source.versions[before])
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
    _aside(path).rename(path)
    if what == "alias":
        wait_for(lambda: serves(served, source.versions[before]))
        source.offer(1 - before)
    wait_for(lambda: serves(served, source.versions[1 - before]))


ERRORS = (errno.EACCES, errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ESTALE, errno.ETIMEDOUT)


@pytest.mark.parametrize("number", ERRORS, ids=lambda number: errno.errorcode[number])
@pytest.mark.parametrize("what", [MANIFEST, WEIGHTS])
def test_an_error_of_the_operating_system_is_said_by_its_name(
    served: httpx.Client, source: Source, monkeypatch: pytest.MonkeyPatch, what: str, number: int
) -> None:
    """As a share that went away or a table that is full answers. Permissions alone would be no fault: in many
    containers the server is root."""
    before, real = now(served, source), os.open

    def opened(path: Any, *arguments: Any, **named: Any) -> int:
        if str(path).endswith(what):
            raise OSError(number, os.strerror(number), str(path))
        return real(path, *arguments, **named)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", opened)
        source.offer(1 - before)
        wait_for(lambda: refused(served))
        assert os.strerror(number) in refused(served)
        assert served.post("/predict", json=STATE).json()["model_version"] == source.versions[before]
    wait_for(lambda: serves(served, source.versions[1 - before]))


@pytest.mark.skipif(not hasattr(psutil.Process, "rlimit"), reason="only Linux lets one process limit another")
def test_a_server_without_a_descriptor_left_says_so_and_goes_on_when_there_are_some(tmp_path: Path) -> None:
    source = Source(tmp_path)
    before = source.offer(0)
    with cloud_run_server(source.alias, HIMARI_RELOAD_S="0.05") as (process, client):
        wait_for(lambda: serves(client, before))
        watched = psutil.Process(process.pid)
        soft, hard = watched.rlimit(psutil.RLIMIT_NOFILE)
        watched.rlimit(psutil.RLIMIT_NOFILE, (3, hard))  # every open and every accept fails from now on
        wanted = source.offer(1)
        wait_for(lambda: os.strerror(errno.EMFILE) in refused(client))  # by the connection that is there
        assert client.post("/predict", json=STATE).json()["model_version"] == before
        with pytest.raises(httpx.TransportError):
            httpx.get(client.base_url.join("/health"), timeout=2.0)
        watched.rlimit(psutil.RLIMIT_NOFILE, (soft, hard))
        wait_for(lambda: serves(client, wanted))
        assert httpx.get(client.base_url.join("/health")).status_code == 200


@pytest.mark.parametrize("step_h", [-24, -1, 1, 24 * 366])
@pytest.mark.parametrize("kind", ["base", "lstm"])
def test_a_clock_that_steps_stops_nothing_but_what_is_of_another_time(tmp_path: Path, kind: str, step_h: int) -> None:
    """Bars of the real time are in the future where the clock stepped back: refused with both times, then taken again.
    Sessions, looks and timers count by the monotonic clock, which does not step."""
    app = create_app(make_bundle(tmp_path, kind, hidden=(4,)), ServeSettings(reload_s=0.02, max_bar_age_s=7_200.0))
    service, hour = app.state.service, itertools.count(1)
    offset_s = 0.0

    def bar(client: httpx.Client, **more: Any) -> httpx.Response:
        at = EXAMPLE_TIME + next(hour) * HOUR_MS
        service.clock = lambda: at / 1e3 + 3_600.0 + offset_s
        part = {
            "session_id": "s",
            "bar": {"timestamp": at, "close": 100.0},
            "signal": {"action": "BUY", "confidence": 0.8, "tier": "T2", "cascade_risk": 0.05},
            "account": {"exposure": 0.1, "unrealised_pnl": 0.0, "win_rate": 0.5},
        }
        return client.post("/v1/decide", json=part | more)

    with running(app) as client:
        past = [[EXAMPLE_TIME - k * HOUR_MS, 100.0 + k % 3] for k in range(30, -1, -1)]
        assert bar(client, history=past).status_code == 200
        offset_s = step_h * 3_600.0
        answer = bar(client)
        if abs(step_h) > 1:
            assert (answer.status_code, "it is" in answer.text or "ago" in answer.text) == (422, True)
        elif step_h == -1:
            assert (answer.status_code, "has not closed" in answer.text) == (422, True)
        else:
            assert answer.status_code == 200
        assert client.post("/predict", json=STATE).status_code == 200
        looked = client.get("/ready").json()["looked_s_ago"]
        assert 0.0 <= looked < 60.0
        offset_s = 0.0
        again = bar(client)
        assert again.status_code == 200
        missing = again.json().get("gap", {}).get("missing_bars", 0)
        assert missing == (step_h != 1)  # the bar that was refused
