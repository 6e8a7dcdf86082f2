"""An alias: a small JSON file that says which bundle is, say, the champion. Servers follow it.

    point("aliases/champion.json", "../runs/mine/bundle")   promote: a new step that names a bundle
    rollback("aliases/champion.json")                       a new step that names the bundle before
    read_alias("aliases/champion.json")

    {"bundle": "../runs/mine/bundle", "transaction": "9f0c...", "step": 7, "manifest_sha256": "3f2a...", "past": [...],
     "transactions": ["9f0c...", ...]}

A relative bundle is meant from the alias's folder. `step` only ever grows, so a rollback is a step forward to an
older bundle, and a reader that sees a smaller step than before knows that it reads an old copy. `manifest_sha256`
pins the content: a bundle replaced behind the alias's back is refused.
"""

from __future__ import annotations

import json
import posixpath
import secrets
from collections.abc import Callable
from pathlib import PurePosixPath
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from himari_rl.errors import BundleError, ConfigError
from himari_rl.policy.bundle import read_manifest
from himari_rl.storage import exchange, is_remote, join, parent, read_bytes

PAST = 20  # steps that an alias remembers
MOST_BYTES = 2**20  # of an alias's file
TRANSACTIONS = 256  # moves that it knows again: as many as others can make while one waits for an answer that was lost


class Target(BaseModel):
    """One step of an alias."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    bundle: str = Field(min_length=1)
    transaction: str = Field(
        pattern=r"^[0-9a-f]{16}$"
    )  # names this very write: a lost answer can be told from a lost race
    step: int = Field(ge=1)
    manifest_sha256: str = Field(default="", pattern=r"^([0-9a-f]{64})?$")


class Alias(Target):
    """What the file holds: the step that counts, and those before it, the newest first."""

    past: tuple[Target, ...] = Field(default=(), max_length=PAST)
    transactions: tuple[str, ...] = Field(default=(), max_length=TRANSACTIONS)
    """Of the last moves, rollbacks and what was rolled back among them, the newest first."""


def read_alias(path: str) -> Alias:
    """The alias at `path`.

    Raises:
        StorageError: it is not there or cannot be read.
        BundleError: the file is no alias.
    """
    return _parse(read_bytes(path, most=MOST_BYTES), path)


def bundle_of(alias: Target, path: str) -> str:
    """Where the bundle is: as written when absolute or remote, else from the folder of the alias at `path`."""
    if is_remote(alias.bundle) or PurePosixPath(alias.bundle).is_absolute():
        return alias.bundle
    scheme, mark, rest = join(parent(path), alias.bundle).rpartition("://")
    return scheme + mark + posixpath.normpath(rest)


def point(path: str, bundle: str) -> Alias:
    """Makes the alias name `bundle`, after checking that a whole bundle is there; makes the alias where there is none.

    Raises:
        BundleError: there is no such bundle, it is damaged, or the file at `path` is no alias.
        StorageError: the alias cannot be written, or somebody else moves it at the same time.
    """
    draft = Target(bundle=bundle, transaction=secrets.token_hex(8), step=1)
    digest = read_manifest(bundle_of(draft, path)).manifest_sha256

    def next_step(before: bytes | None) -> bytes:
        old = None if before is None else _parse(before, path)
        return _render(_after(old, draft.model_copy(update={"manifest_sha256": digest})))

    return _parse(exchange(path, next_step, _with(draft.transaction)), path)


def rollback(path: str) -> Alias:
    """Makes the alias name the bundle that it named before the present one.

    Raises:
        ConfigError: there is nothing to go back to.
        BundleError: the file is no alias, or the earlier bundle is gone or no longer what it was.
        StorageError: the alias is missing or cannot be written.
    """

    transaction = secrets.token_hex(8)

    def step_back(before: bytes | None) -> bytes:
        old = _parse(read_bytes(path) if before is None else before, path)
        earlier = next((step for step in old.past if step.manifest_sha256 != old.manifest_sha256), None)
        if earlier is None:
            raise ConfigError(f"{path} has no earlier bundle", "at least one promotion before", "point it at a bundle")
        found = read_manifest(bundle_of(earlier, path)).manifest_sha256
        if found != earlier.manifest_sha256:
            raise BundleError(
                f"{earlier.bundle} is {found[:12]} now", earlier.manifest_sha256[:12], "point the alias at a bundle"
            )
        # what was rolled back from leaves the past, so that a second rollback goes further back and not to and fro
        rest = old.past[old.past.index(earlier) + 1 :]
        fresh = earlier.model_dump() | {"transaction": transaction, "step": old.step + 1}
        return _render(Alias(**fresh, past=rest, transactions=_known(transaction, old)))

    return _parse(exchange(path, step_back, _with(transaction)), path)


def _with(transaction: str) -> Callable[[bytes], bool]:
    """Whether an alias has been moved by this transaction, though others have moved it on since."""
    return lambda text: transaction.encode() in text


def _after(old: Alias | None, new: Target) -> Alias:
    known = _known(new.transaction, old)
    if old is None:
        return Alias(**new.model_dump(), transactions=known)
    last = Target(**old.model_dump(include=set(Target.model_fields)))
    more: dict[str, Any] = {"step": old.step + 1, "past": (last, *old.past)[:PAST], "transactions": known}
    return Alias(**new.model_dump(exclude={"step"}), **more)


def _known(transaction: str, old: Alias | None) -> tuple[str, ...]:
    return (transaction, *(old.transactions if old is not None else ()))[:TRANSACTIONS]


def _parse(text: bytes, path: str) -> Alias:
    try:
        return Alias.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        field = ".".join(str(part) for part in first["loc"]) or "alias"
        raise BundleError(
            f"{path} is no alias: {field}: {' '.join(first['msg'].split())}",
            '{"bundle", "transaction", "step"}',
            "point it at a bundle again",
        ) from error


def _render(alias: Alias) -> bytes:
    return (json.dumps(alias.model_dump(mode="json"), indent=2) + "\n").encode()
