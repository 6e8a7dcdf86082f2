"""The challenger: in the shadow it decides and nobody sees it; in a split the same clients always get it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from helpers import calls_of
from helpers.bundle import make_bundle, valid_states
from helpers.serving import running, wait_for
from himari_rl.monitoring import metrics as names
from himari_rl.policy.runtime import load_policy
from himari_rl.serving.http.app import Api, create_app
from himari_rl.serving.messages import EXAMPLE_STATE
from himari_rl.serving.settings import ServeSettings
from himari_rl.serving.shadow import QUEUE


def bundles(place: Path, kind: str = "base") -> tuple[Path, Path]:
    return (
        make_bundle(place, head="centre", hidden=(8,), name="champion"),
        make_bundle(place, kind, head="centre", hidden=(8,), name="challenger", weights_seed=4),
    )


def journal(app: Api) -> list[dict[str, Any]]:
    lines: list[dict[str, Any]] = []
    app.state.service.journal._write = lambda line: lines.append(json.loads(line))
    return lines


def shadow_counts(text: str) -> dict[str, float]:
    families = {family.name: family for family in text_string_to_metric_families(text)}
    return {s.labels["outcome"]: s.value for s in families[names.SHADOW].samples if s.name.endswith("_total")}


def test_a_shadow_decides_on_the_same_requests_and_is_logged_and_never_returned(tmp_path: Path) -> None:
    champion, challenger = bundles(tmp_path)
    app = create_app(champion, ServeSettings(challenger=str(challenger), log_every=1000))
    lines = journal(app)
    one, two = load_policy(champion), load_policy(challenger)
    states = valid_states(20, seed=3)
    states[:, 13], states[:, 15] = 0.05, 0.1  # no limit binds
    with running(app) as client:
        for state in states.tolist():
            answer = client.post("/predict", json={"state": state}).json()
            assert answer["model_version"] == one.manifest.version
            assert answer["position_multiplier"] == one.decide(state).multipliers[0]
        wait_for(lambda: app.state.service.metrics.shadow["decided"] == 20)
        ready = client.get("/ready").json()
        assert (ready["challenger"]["mode"], ready["challenger"]["model_version"]) == ("shadow", two.manifest.version)
        assert shadow_counts(client.get("/metrics").text)["decided"] == 20
    logged = [line for line in lines if line["event"] == "shadow"]
    for state, line in zip(states.tolist(), logged, strict=True):
        assert line["model_version"] == two.manifest.version
        assert line["multipliers"] == two.decide(state).multipliers.tolist()
        assert line["champion"] == one.decide(state).multipliers.tolist()
        assert line["difference"] == pytest.approx(abs(line["multipliers"][0] - line["champion"][0]))


def test_a_shadow_that_is_broken_slow_or_of_another_kind_changes_no_answer(tmp_path: Path) -> None:
    champion, _ = bundles(tmp_path)
    with running(create_app(champion, ServeSettings(challenger=str(tmp_path / "nothing")))) as client:
        assert client.post("/predict", json={"state": EXAMPLE_STATE}).status_code == 200
        ready = client.get("/ready").json()
        assert ready["challenger"]["model_version"] is None
        assert "there is no policy bundle at" in ready["challenger"]["refused"]
        wait_for(lambda: shadow_counts(client.get("/metrics").text)["skipped"] == 1)
    recurrent = make_bundle(tmp_path, "lstm", hidden=(4,), name="lstm")
    with running(create_app(champion, ServeSettings(challenger=str(recurrent)))) as client:
        assert client.post("/predict", json={"state": EXAMPLE_STATE}).status_code == 200
        wait_for(lambda: shadow_counts(client.get("/metrics").text)["skipped"] == 1)  # it has no memory of its own here


def test_a_full_queue_drops_and_counts_and_the_champion_answers_on(tmp_path: Path) -> None:
    champion, challenger = bundles(tmp_path)
    app = create_app(champion, ServeSettings(challenger=str(challenger)))
    service = app.state.service
    service.load()
    service.challenger.load()
    for _ in range(QUEUE + 5):  # no event loop: nothing is worked off
        service.predict({"state": EXAMPLE_STATE})
    assert service.metrics.shadow["dropped"] == 5


def test_the_champion_pays_only_an_append_for_the_shadow(tmp_path: Path) -> None:
    """Counted in calls, which no other work on this machine changes: a handful more, and far fewer than a decision."""
    champion, challenger = bundles(tmp_path)
    alone, shadowed = [
        create_app(champion, s).state.service for s in (ServeSettings(), ServeSettings(challenger=str(challenger)))
    ]
    for service in (alone, shadowed):
        service.load()
    shadowed.challenger.load()
    request = {"state": EXAMPLE_STATE}
    own, paid = (calls_of(lambda s=service: s.predict(request)) for service in (alone, shadowed))
    second = calls_of(lambda: shadowed.challenger.compare(*shadowed.challenger._queue[0]))
    assert 0 < paid - own <= 8
    assert second > 3 * (paid - own)  # what it would pay if it waited for the challenger
    assert len(shadowed.challenger._queue) == 2


def test_a_split_is_sticky_and_has_the_share_that_was_asked_for(tmp_path: Path) -> None:
    champion, challenger = bundles(tmp_path)
    versions = [load_policy(folder).manifest.version for folder in (champion, challenger)]
    app = create_app(champion, ServeSettings(challenger=str(challenger), challenger_share=0.3))
    service = app.state.service
    service.load()
    service.challenger.load()
    arms = [
        {service.predict({"state": EXAMPLE_STATE}, f"client-{index}")["model_version"] for _ in range(3)}
        for index in range(2000)
    ]
    assert {len(arm) for arm in arms} == {1}  # the same client, the same arm
    share = sum(arm == {versions[1]} for arm in arms) / len(arms)
    assert abs(share - 0.3) < 4 * (0.3 * 0.7 / 2000) ** 0.5
    again = create_app(champion, ServeSettings(challenger=str(challenger), challenger_share=0.3)).state.service
    again.load(), again.challenger.load()
    for index in range(50):  # another instance sends a client to the same arm
        assert {again.predict({"state": EXAMPLE_STATE}, f"client-{index}")["model_version"]} == arms[index]
    assert service.metrics.shadow["decided"] == 0


def test_in_a_split_over_http_each_answer_is_of_the_policy_that_it_names(tmp_path: Path) -> None:
    champion, challenger = bundles(tmp_path)
    own = {
        policy.manifest.version: policy.decide(EXAMPLE_STATE).multipliers[0]
        for policy in map(load_policy, (champion, challenger))
    }
    keys = tuple(f"key-{index}" for index in range(20))
    settings = ServeSettings(challenger=str(challenger), challenger_share=0.5, api_keys=keys)
    seen = set()
    with running(create_app(champion, settings)) as client:
        for key in keys:
            for path, body in (("/predict", {"state": EXAMPLE_STATE}), ("/v1/batch", {"instances": [EXAMPLE_STATE]})):
                answer = client.post(path, json=body, headers={"x-api-key": key}).json()
                (prediction,) = answer.get("predictions", [answer])
                assert prediction["position_multiplier"] == own[answer["model_version"]]
                seen.add((key, answer["model_version"]))
        assert client.get("/ready").json()["challenger"]["mode"] == "split 0.5"
    assert len(seen) == len(keys)  # one arm for each key, on both routes
    assert {version for _, version in seen} == set(own)
