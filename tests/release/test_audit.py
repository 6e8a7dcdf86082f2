"""The log of an alias in a bucket: the same chain as on a disk, what an earlier release wrote in front of it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator

import pytest

from helpers.bucket import QUIET, Bucket, bucket_server
from himari_rl.errors import StorageError
from himari_rl.release.audit import bucket_log

pytestmark = pytest.mark.filterwarnings(*QUIET)
ALIAS = "gs://b/aliases/champion.json"


@pytest.fixture
def bucket() -> Iterator[Bucket]:
    with bucket_server() as server:
        yield server


def of_an_earlier_release(bucket: Bucket, count: int) -> None:
    """Each event named the SHA-256 of the one before."""
    before = "0" * 64
    for number in range(1, count + 1):
        text = json.dumps({"step": number, "before": before, "nonce": f"{number}"}, sort_keys=True).encode()
        bucket.write(f"aliases/audit/{number:06d}.json", text)
        before = hashlib.sha256(text).hexdigest()


def test_events_follow_each_other_also_those_of_an_earlier_release(bucket: Bucket) -> None:
    of_an_earlier_release(bucket, 2)
    bucket_log(ALIAS).append({"step": 3})
    bucket_log(ALIAS).append({"step": 4})
    assert [event["step"] for event in bucket_log(ALIAS).events()] == [1, 2, 3, 4]


@pytest.mark.parametrize("number", [1, 2, 3])
def test_an_event_that_was_changed_or_taken_out_is_found(bucket: Bucket, number: int) -> None:
    of_an_earlier_release(bucket, 2)
    for step in (3, 4):
        bucket_log(ALIAS).append({"step": step})
    name = f"aliases/audit/{number:06d}.json"
    generation, text = bucket.objects[name]
    bucket.objects[name] = generation, text.replace(b'"step": ', b'"step": 7')
    with pytest.raises(StorageError, match="was changed"):
        bucket_log(ALIAS).events()
    bucket.objects[name] = generation, text
    assert len(bucket_log(ALIAS).events()) == 4  # the control
    del bucket.objects[name]
    with pytest.raises(StorageError):
        bucket_log(ALIAS).events()
