"""What may take the place of a policy unseen: one of the same symbols, interval and encoder; and what outlives it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import httpx
import pytest

from helpers.bundle import make_bundle, make_manifest
from helpers.serving import running, wait_for
from himari_rl.policy.alias import point
from himari_rl.policy.bundle import amend
from himari_rl.schema import DAY_MS
from himari_rl.serving.http.app import create_app
from himari_rl.serving.messages import EXAMPLE_STATE, EXAMPLE_TIME
from himari_rl.serving.settings import ServeSettings

OTHERS: dict[str, dict[str, Any]] = {
    "symbols": {"symbols": ["ETH-USDT"]},
    "interval_ms": {
        "ledger": make_manifest().ledger.model_copy(update={"interval_ms": DAY_MS}).model_dump(),
        "training_data": make_manifest().training_data.model_copy(update={"interval_ms": DAY_MS}).model_dump(),
    },
    "encoder": {"kind": "multi"},
}


def other(place: Path, what: str) -> str:
    fields = dict(OTHERS[what])
    return str(make_bundle(place, fields.pop("kind", "base"), hidden=(4,), name=f"other-{what}", **fields))


@pytest.mark.parametrize("what", OTHERS)
def test_an_alias_of_another_contract_is_refused_with_409_unless_told(tmp_path: Path, what: str) -> None:
    alias = str(tmp_path / "champion.json")
    same = str(make_bundle(tmp_path, hidden=(5,), name="same"))
    for told in (False, True):
        point(alias, str(make_bundle(tmp_path, hidden=(4,), name="first")))
        with running(create_app(alias, ServeSettings(reload_s=60, other_contracts=told))) as client:
            before = client.get("/ready").json()["model_version"]
            point(alias, other(tmp_path, what))
            answer = client.post("/admin/reload")
            assert answer.status_code == (200 if told else 409), answer.text
            if told:
                assert client.get("/ready").json()["model_version"] != before
                continue
            expected = {"encoder": "symbols"}.get(what, what)  # three symbols differ first
            assert f"has {expected}" in answer.json()["detail"]
            assert client.get("/ready").json()["champion"]["refused"]
            assert client.post("/predict", json={"state": EXAMPLE_STATE}).json()["model_version"] == before
            point(alias, same)
            assert client.post("/admin/reload").json()["swapped"] is True  # the control


@pytest.mark.parametrize("share", [0.0, 0.99])
@pytest.mark.parametrize("what", OTHERS)
def test_a_challenger_of_another_contract_is_refused_with_409(tmp_path: Path, what: str, share: float) -> None:
    settings = ServeSettings(reload_s=60, challenger=other(tmp_path, what), challenger_share=share)
    with running(create_app(make_bundle(tmp_path, hidden=(4,)), settings)) as client:
        ready = client.get("/ready").json()
        assert "served now" in ready["challenger"]["refused"]
        answer = client.post("/admin/reload")
        assert answer.status_code == 409
        assert "the challenger: " in answer.json()["detail"]
        version = client.post("/predict", json={"state": EXAMPLE_STATE}).json()["model_version"]
        assert version == ready["model_version"]


def carried(client: httpx.Client, memory: str | None = None) -> Any:
    answer = client.post("/predict", json={"state": EXAMPLE_STATE} | ({"memory": memory} if memory else {}))
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_signing_or_amending_keeps_the_memory_of_clients_and_other_weights_do_not(tmp_path: Path) -> None:
    from himari_rl.policy.signature import sign

    private = tmp_path / "private.pem"
    subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", private], check=True, capture_output=True)
    folder = make_bundle(tmp_path, "lstm", hidden=(4,))
    with running(create_app(folder, ServeSettings(reload_s=60))) as client:
        memory = carried(client)["memory"]
        session = {"state": EXAMPLE_STATE, "session_id": "s", "timestamp": EXAMPLE_TIME}
        assert client.post("/predict", json=session).json()["memory_started"] is True
        sign(folder, private)
        amend(folder, gate={"passed": True})
        assert client.post("/admin/reload").json()["swapped"] is True
        assert carried(client, memory)["memory_started"] is False
        later = client.post("/predict", json=session | {"timestamp": EXAMPLE_TIME + 3_600_000}).json()
        assert later["memory_started"] is False
        make_bundle(tmp_path, "lstm", hidden=(4,), weights_seed=9)  # the control: another policy
        assert client.post("/admin/reload").json()["swapped"] is True
        refused = client.post("/predict", json={"state": EXAMPLE_STATE, "memory": memory})
        assert (refused.status_code, "another policy" in refused.text) == (422, True)


@pytest.mark.parametrize("turbo", [True, False])
def test_the_url_safe_alphabet_is_another_text_and_refused(tmp_path: Path, turbo: bool) -> None:
    """Else two texts would mean one memory."""
    with running(create_app(make_bundle(tmp_path, "lstm", hidden=(4,)), ServeSettings(turbo=turbo))) as client:
        memory = carried(client)["memory"]
        while "+" not in memory or "/" not in memory:
            memory = carried(client, memory)["memory"]
        assert carried(client, memory)
        urlsafe = memory.replace("+", "-").replace("/", "_")
        padded = memory + "===="
        for text in (urlsafe, memory.replace("+", "-"), memory.replace("/", "_"), padded, " " + memory, memory + "\n"):
            for path, body in (("/predict", {}), ("/v1/batch", None)):
                request = {"state": EXAMPLE_STATE, "memory": text}
                answer = client.post(path, json=request if body is not None else {"instances": [request]})
                assert answer.status_code == 422, (text[:20], path)


def test_a_relative_bundle_is_meant_from_the_aliass_own_folder_wherever_the_server_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "aliases").mkdir()
    (tmp_path / "elsewhere").mkdir()
    make_bundle(tmp_path / "aliases", hidden=(4,), name="mine")
    make_bundle(tmp_path, hidden=(5,), name="up")
    alias = tmp_path / "aliases" / "champion.json"
    monkeypatch.chdir(tmp_path / "elsewhere")
    point(str(alias), "mine")
    with running(create_app(os.path.relpath(alias), ServeSettings(reload_s=0.05))) as client:
        first = client.get("/ready").json()["model_version"]
        point(os.path.relpath(alias), "../up")
        wait_for(lambda: client.get("/ready").json()["model_version"] != first)
        assert client.get("/ready").json()["champion"]["refused"] is None
    moved = tmp_path / "moved"
    (tmp_path / "aliases").rename(moved)
    point(str(moved / "champion.json"), "mine")  # alias and bundle move together
    with running(create_app(str(moved / "champion.json"))) as client:
        assert client.get("/ready").json()["model_version"] == first
