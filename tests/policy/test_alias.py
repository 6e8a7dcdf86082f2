"""An alias names a bundle, remembers the ones before, and never moves backwards."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from helpers.bundle import make_bundle
from himari_rl.errors import BundleError, ConfigError, StorageError
from himari_rl.policy.alias import PAST, bundle_of, point, read_alias, rollback


@pytest.fixture
def alias(tmp_path: Path) -> str:
    for seed, name in enumerate("abc"):
        make_bundle(tmp_path, name=name, hidden=(4,), weights_seed=seed)
    return str(tmp_path / "champion.json")


def test_a_promotion_is_a_step_with_its_own_name(alias: str) -> None:
    first, second = point(alias, "a"), point(alias, "b")
    assert (first.step, second.step) == (1, 2)
    assert first.transaction != second.transaction
    assert read_alias(alias) == second
    assert [step.bundle for step in second.past] == ["a"]
    document = json.loads(Path(alias).read_text())
    assert {"bundle", "transaction", "step"} <= set(document)


def test_rolling_back_twice_goes_back_twice_and_a_step_never_repeats(alias: str) -> None:
    for name in "abc":
        point(alias, name)
    assert (rollback(alias).bundle, rollback(alias).bundle) == ("b", "a")
    assert read_alias(alias).step == 5
    with pytest.raises(ConfigError, match="has no earlier bundle"):
        rollback(alias)
    assert point(alias, "c").step == 6


def test_pointing_at_the_same_bundle_again_is_no_place_to_go_back_to(alias: str) -> None:
    for name in "abb":
        point(alias, name)
    assert rollback(alias).bundle == "a"


def test_what_is_no_bundle_is_not_pointed_at(alias: str, tmp_path: Path) -> None:
    point(alias, "a")
    for name in ("nothing", "a/manifest.json"):
        with pytest.raises(BundleError, match="there is no policy bundle at"):
            point(alias, name)
    make_bundle(tmp_path, name="b", hidden=(4,), weights_seed=9)
    assert read_alias(alias).bundle == "a"


def test_a_bundle_that_changed_since_is_not_gone_back_to(alias: str, tmp_path: Path) -> None:
    point(alias, "a")
    point(alias, "b")
    make_bundle(tmp_path, name="a", hidden=(4,), weights_seed=9)
    with pytest.raises(BundleError, match=r"a is .* now"):
        rollback(alias)


def test_many_promotions_at_once_lose_no_step_and_the_past_is_bounded(alias: str) -> None:
    with ThreadPoolExecutor(8) as pool:
        steps = [alias_.step for alias_ in pool.map(lambda i: point(alias, "abc"[i % 3]), range(40))]
    assert sorted(steps) == list(range(1, 41))
    assert len(read_alias(alias).past) == PAST


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"bundle": "a", "transaction": "x", "step": 1}', '{"bundle": 3}'])
def test_a_file_that_is_no_alias_is_refused_in_one_line(alias: str, text: str) -> None:
    Path(alias).write_text(text)
    for action in (read_alias, rollback):
        with pytest.raises(BundleError, match=r"is no alias: [^\n]*$"):
            action(alias)
    with pytest.raises(StorageError, match="No such file"):
        read_alias(alias + "x.json")


@pytest.mark.parametrize(
    ("path", "bundle", "place"),
    [
        ("al/c.json", "../runs/a", "runs/a"),
        ("c.json", "a", "a"),
        ("/al/c.json", "a", "/al/a"),
        ("al/c.json", "/runs/a", "/runs/a"),
        ("gs://b/al/c.json", "../runs/a", "gs://b/runs/a"),
        ("gs://b/c.json", "a", "gs://b/a"),
        ("al/c.json", "gs://b/a", "gs://b/a"),
    ],
)
def test_a_relative_bundle_is_meant_from_the_folder_of_the_alias(
    alias: str, path: str, bundle: str, place: str
) -> None:
    assert bundle_of(point(alias, "a").model_copy(update={"bundle": bundle}), path) == place
