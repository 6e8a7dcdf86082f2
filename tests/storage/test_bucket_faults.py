"""What a network does to storage: the right result or one typed error within its deadline, and never wrong bytes.

Against fake-gcs-server behind a proxy that makes the faults (tests/helpers/cloud.py).
"""

from __future__ import annotations

import gc
import os
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from helpers import PATIENCE_S
from helpers.bucket import QUIET
from helpers.bundle import make_bundle
from helpers.cloud import FAULTS, Cloud, Fault, cloud_server
from himari_rl.errors import StorageError
from himari_rl.policy.alias import PAST, point, read_alias, rollback
from himari_rl.storage import gcs, read_bytes

# the client leaves the connection of a broken download to the garbage collector
pytestmark = pytest.mark.filterwarnings(
    *QUIET, "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)
TURNS = int(os.environ.get("HIMARI_FAULT_TURNS", "1"))  # of each fault in each operation
SMALL, LARGE = b'{"a": 1}', bytes(range(256)) * (36 * 1024)  # the second is sent in a resumable session
ALWAYS, NEVER_FATAL = 10**9, ("429", "500", "503", "reset", "stall", "cut", "corrupted", "lost answer", "other digest")
SLACK_S = 10.0  # for a busy machine; a call that forgets its deadline waits for ever
OPERATIONS = ("small put", "large put", "get", "list", "alias move")


@pytest.fixture(scope="module")
def cloud() -> Iterator[Cloud]:
    with cloud_server("models") as server:
        yield server
    with warnings.catch_warnings(action="ignore"):
        gc.collect()  # what the client left open of broken downloads goes here, not at the end of the session


def be_patient(patch: pytest.MonkeyPatch, timeout_s: float, deadline_s: float) -> None:
    patch.setattr(gcs, "TIMEOUT_S", timeout_s)
    patch.setattr(gcs, "DEADLINE_S", deadline_s)
    patch.setattr(gcs, "CONTEST_S", 2 * deadline_s)


@pytest.fixture(scope="module")
def bundles(cloud: Cloud, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("bundles")
    for seed, name in enumerate("ab"):
        made = make_bundle(folder, name=name, hidden=(4,), weights_seed=seed)
        cloud.upload(f"gs://models/{name}", *made.iterdir())
    return ["gs://models/a", "gs://models/b"]


class Doing:
    """One operation at a time, its names its own, and what must hold afterwards whatever happened."""

    def __init__(self, folder: str, bundles: list[str]) -> None:
        self.folder, self.bundles, self.alias = folder, bundles, f"{folder}/champion.json"
        gcs.create(f"{folder}/small", SMALL)
        gcs.create(f"{folder}/other", LARGE[:5000])
        point(self.alias, bundles[0])

    def do(self, operation: str) -> object:
        return {
            "small put": lambda: gcs.create(f"{self.folder}/new", SMALL),
            "large put": lambda: gcs.create(f"{self.folder}/new", LARGE),
            "get": lambda: gcs.read_bytes(f"{self.folder}/other"),
            "list": lambda: sorted(gcs.names(f"{self.folder}/")),
            "alias move": lambda: point(self.alias, self.bundles[1]).step,
        }[operation]()

    def require_right(self, operation: str, result: object) -> None:
        """The operation said that it was done: then it is."""
        if operation.endswith("put"):
            assert gcs.read(f"{self.folder}/new") == (SMALL if operation == "small put" else LARGE, result)
        elif operation == "alias move":
            assert (read_alias(self.alias).bundle, read_alias(self.alias).step) == (self.bundles[1], result == 2 and 2)
        else:
            assert result == (LARGE[:5000] if operation == "get" else ["champion.json", "other", "small"])

    def require_nothing_wrong(self, operation: str) -> None:
        """The operation failed: it is done or not done, never half or otherwise."""
        made = gcs.read(f"{self.folder}/new")
        assert made is None or made[0] in (SMALL, LARGE)
        assert read_alias(self.alias).bundle in self.bundles
        assert read_alias(self.alias).step == 1 + (read_alias(self.alias).bundle == self.bundles[1])
        assert read_bytes(f"{self.folder}/small") == SMALL


def meant(folder: str) -> Callable[[str, str], bool]:
    """Requests for these objects, the sessions of large uploads among them."""
    part = folder.removeprefix("gs://models/")
    return lambda method, path: part in path.replace("%2F", "/") or "upload" in path


@pytest.mark.parametrize("turn", range(TURNS))
@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("times", [1, ALWAYS], ids=["once", "always"])
@pytest.mark.parametrize("kind", FAULTS)
def test_a_fault_ends_in_the_right_result_or_in_one_typed_error_within_the_deadline(
    cloud: Cloud,
    bundles: list[str],
    kind: str,
    times: int,
    operation: str,
    turn: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A fault that passes is waited out, however slow the machine; one that stays must end, and soon."""
    folder = f"gs://models/{kind.replace(' ', '-')}-{times}-{operation.replace(' ', '-')}-{turn}"
    doing = Doing(folder, bundles)
    timeout_s, deadline_s = (2.0, PATIENCE_S) if times == 1 else (0.4, 2.4)
    with monkeypatch.context() as patch:
        be_patient(patch, timeout_s, deadline_s)
        patch.setattr(cloud, "stall_s", 1.5 * timeout_s)
        cloud.fault = fault = Fault(kind, times, meant(folder))
        started = time.monotonic()
        try:
            result, failed = doing.do(operation), None
        except StorageError as error:
            result, failed = None, error
        took = time.monotonic() - started
    cloud.fault = None
    assert fault.hit, "the control: the fault was met"
    calls = 4 if operation == "alias move" else 1  # two files of the bundle, then the contest, which has two deadlines
    assert took < calls * deadline_s + SLACK_S, f"{took:.1f} s"
    if failed is None:
        doing.require_right(operation, result)
    else:
        assert "\n" not in str(failed)
        doing.require_nothing_wrong(operation)
    if times == 1 and kind in NEVER_FATAL and not (kind == "corrupted" and operation != "get"):
        assert failed is None, f"one {kind} is waited out: {failed}"
    if kind == "other digest":  # of an answer: what was written is asked for again, and not taken back
        assert failed is None
    if kind == "403":
        assert failed is not None
        assert "403" in str(failed)


def test_eight_writers_lose_none_of_their_moves(
    cloud: Cloud, bundles: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    be_patient(monkeypatch, 60.0, 300.0)
    # HIMARI_ALIAS_MOVES=200 is the promise; 25 each are as contested and take a quarter of a minute
    monkeypatch.setattr("himari_rl.policy.alias.read_manifest", lambda folder: type("M", (), {"manifest_sha256": ""}))
    alias, count = "gs://models/contest/champion.json", int(os.environ.get("HIMARI_ALIAS_MOVES", "25"))
    cloud.fault = Fault("lost answer", 5, lambda method, path: method == "POST" and len(cloud.asked) % 97 == 0)

    def moves(writer: int) -> list[int]:
        return [point(alias, bundles[(writer + i) % 2]).step for i in range(count)]

    with ThreadPoolExecutor(8) as pool:
        steps = [step for found in pool.map(moves, range(8)) for step in found]
    fault, cloud.fault = cloud.fault, None
    assert sorted(steps) == list(range(1, 8 * count + 1))
    assert read_alias(alias).step == 8 * count
    assert fault.hit > 0


def test_a_move_whose_answer_was_lost_and_that_others_built_upon_is_our_own(cloud: Cloud, bundles: list[str]) -> None:
    """Between the lost answer and the next look somebody else moves the alias: ours is in its past, and made once."""
    alias = "gs://models/own/champion.json"
    point(alias, bundles[0])
    cloud.fault = Fault("lost answer", 1, lambda method, path: method == "POST")
    put, others = gcs._put, []

    def slow(path: str, data: bytes, generation: int) -> int:
        if others or cloud.fault is None or cloud.fault.hit:
            return put(path, data, generation)
        others.append(1)
        try:
            put(path, data, generation)  # written, recognised at once
        finally:
            cloud.fault = None
            point(alias, bundles[0])
        raise gcs._Conflict

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gcs, "_put", slow)
        moved = point(alias, bundles[1])
    assert moved.step == 2
    assert read_alias(alias).step == 3
    assert read_alias(alias).past[0].transaction == moved.transaction


def test_a_move_is_known_as_our_own_after_many_of_others_and_after_a_rollback(cloud: Cloud, bundles: list[str]) -> None:
    """Longer than the past that the alias keeps; and who was rolled back while he waited must not move it again."""
    alias, put, began = "gs://models/long/champion.json", gcs._put, list[int]()
    point(alias, bundles[0])

    def slow(path: str, data: bytes, generation: int) -> int:
        if began:
            return put(path, data, generation)
        began.append(put(path, data, generation))
        for _ in range(PAST + 2):
            point(alias, bundles[0])
        raise gcs._Conflict

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gcs, "_put", slow)
        moved = point(alias, bundles[1])
        began.clear()
        patch.setattr(gcs, "_put", lambda *words: rolled_back(put(*words)) if not began else put(*words))

        def rolled_back(generation: int) -> int:
            began.append(generation)
            rollback(alias)
            raise gcs._Conflict

        again = point(alias, bundles[1])
    assert (moved.step, again.step, read_alias(alias).step) == (2, PAST + 5, PAST + 6)
    assert read_alias(alias).bundle == bundles[0]
    assert again.transaction in read_alias(alias).transactions


def test_what_stands_still_in_the_middle_of_an_answer_ends_with_the_deadline(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = "gs://models/still/weights"
    gcs.create(place, LARGE)
    be_patient(monkeypatch, 0.4, 2.4)
    cloud.fault = fault = Fault("half then stall", ALWAYS, lambda method, path: "alt=media" in path)
    started = time.monotonic()
    with pytest.raises(StorageError):
        gcs.read(place)
    took = time.monotonic() - started
    cloud.fault = None
    assert fault.hit > 0
    assert took < 2.4 + SLACK_S


def test_without_credentials_every_call_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    from google.auth.exceptions import DefaultCredentialsError

    def none_found() -> None:
        raise DefaultCredentialsError("no default credentials")

    monkeypatch.setattr(gcs, "_client", none_found)
    for call in (gcs.read, gcs.read_bytes, gcs.stamp, gcs.delete, gcs.names, lambda p: gcs.create(p, b"")):
        with pytest.raises(StorageError, match=r"cannot \w+ gs://models/x: no default credentials; check the bucket"):
            call("gs://models/x")


def test_a_large_object_is_there_whole_and_one_flipped_bit_of_it_is_refused(cloud: Cloud, tmp_path: Path) -> None:
    place = "gs://models/large/weights"
    gcs.create(place, LARGE)
    assert read_bytes(place) == LARGE
    cloud.fault = Fault("corrupted", ALWAYS, lambda method, path: "alt=media" in path)
    with pytest.raises(StorageError, match=r"(?i)checksum|hash"):
        read_bytes(place)
    cloud.fault = None
