"""Cloud Run takes the CPU away between requests: an alias is followed within them, and the first line says so."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest

from helpers.bundle import make_bundle
from helpers.serving import running
from himari_rl.policy.alias import point
from himari_rl.policy.runtime import load_policy
from himari_rl.serving.http import follow
from himari_rl.serving.http.app import create_app
from himari_rl.serving.journal import Journal
from himari_rl.serving.messages import EXAMPLE_STATE
from himari_rl.serving.service import Service
from himari_rl.serving.settings import ServeSettings


@pytest.fixture
def alias(tmp_path: Path) -> tuple[str, list[str], list[str]]:
    """An alias, two bundles and their versions; it points at the first."""
    folders = [str(make_bundle(tmp_path, name=name, hidden=(width,))) for width, name in enumerate("ab", 4)]
    place = str(tmp_path / "champion.json")
    point(place, folders[0])
    return place, folders, [load_policy(folder).manifest.version for folder in folders]


@pytest.mark.parametrize("throttled", [True, False])
def test_a_moved_alias_is_answered_by_the_request_after_the_next_look(
    alias: tuple[str, list[str], list[str]], throttled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The job between requests is slowed to an hour in both; only a throttled server looks within a request."""
    monkeypatch.setattr(follow, "WAIT_S", 10.0)
    place, folders, versions = alias
    settings = ServeSettings(throttled=throttled, reload_s=0.05 if throttled else 3_600.0)

    with running(create_app(place, settings)) as client:
        answers = [client.post("/predict", json={"state": EXAMPLE_STATE})]
        point(place, folders[1])
        time.sleep(0.1)
        answers.append(client.post("/predict", json={"state": EXAMPLE_STATE}))
    found = [answer.json()["model_version"] for answer in answers]
    assert found == (versions if throttled else [versions[0]] * 2)


def test_a_look_that_hangs_holds_no_answer_up(
    alias: tuple[str, list[str], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    place, _, versions = alias
    monkeypatch.setattr(follow, "WAIT_S", 0.01)
    app = create_app(place, ServeSettings(throttled=True, reload_s=1.0))
    with running(app) as client:
        hung = asyncio.Event()

        async def hangs() -> bool:
            hung.set()
            await asyncio.sleep(3_600.0)
            return False

        monkeypatch.setattr(app.state.service, "reload", hangs)
        app.state.service.looked_at = None  # as a long time ago
        answer = client.post("/predict", json={"state": EXAMPLE_STATE})
    assert (answer.status_code, answer.json()["model_version"], hung.is_set()) == (200, versions[0], True)


@pytest.mark.parametrize(
    ("throttled", "follows", "shadow"),
    [
        (False, "every 2 s", "between requests"),
        (True, "within requests, 2 s after the last look", "only while other requests are answered: not reliable"),
    ],
)
def test_the_first_line_says_what_goes_on_between_requests(
    alias: tuple[str, list[str], list[str]], throttled: bool, follows: str, shadow: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[dict[str, Any]] = []
    monkeypatch.setattr(Journal, "event", lambda _, event, *__, **more: said.append({"event": event, **more}))
    place, folders, _ = alias
    Service(place, ServeSettings(throttled=throttled, challenger=folders[1])).announce("http://127.0.0.1:1")
    Service(place, ServeSettings(throttled=throttled)).announce("http://127.0.0.1:1")
    assert [line["event"] for line in said] == ["listening"] * 2
    assert said[0]["follows"] == said[1]["follows"] == follows
    assert said[0]["shadow"].startswith(shadow)
    assert "shadow" not in said[1]
