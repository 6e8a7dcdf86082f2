"""Frozen configs: how they become JSON, a hash, and themselves again.

Each config is a frozen, keyword-only dataclass that lives beside the component it configures, so that a
field, its default and its meaning stand in one place. This module holds only what they share.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from typing import Any, TypeVar

from himari_rl.errors import ConfigError

C = TypeVar("C")


def as_dict(config: Any) -> dict[str, Any]:
    """A dataclass as plain JSON types (tuples become lists)."""
    return json.loads(json.dumps(dataclasses.asdict(config)))  # type: ignore[no-any-return]


def config_hash(config: Any) -> str:
    """Twelve hex digits that change when any field does."""
    text = json.dumps(as_dict(config), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def require_ranges(config: Any, ranges: Mapping[str, tuple[float, float]]) -> None:
    """Refuses a config whose numbers are not in their ranges, both ends included; NaN is in none.

    Raises:
        ConfigError: the first such field.
    """
    for name, (low, high) in ranges.items():
        value = getattr(config, name)
        if not low <= value <= high:
            raise ConfigError(f"{name} {value}", f"a number from {low:g} to {high:g}")


def from_dict(kind: type[C], values: Mapping[str, Any]) -> C:
    """Rebuilds a config from `as_dict`'s output.

    Raises:
        ConfigError: a field the config does not have (a typo must not be ignored).
    """
    fields = {f.name: f for f in dataclasses.fields(kind)}  # type: ignore[arg-type]
    unknown = sorted(set(values) - set(fields))
    if unknown:
        raise ConfigError(f"{kind.__name__} has no field {', '.join(unknown)}", f"one of {', '.join(sorted(fields))}")
    built: dict[str, Any] = {}
    for name, value in values.items():
        default = fields[name].default
        factory = fields[name].default_factory
        like = factory() if factory is not dataclasses.MISSING else default
        if dataclasses.is_dataclass(like) and isinstance(value, Mapping):
            value = from_dict(type(like), value)
        elif isinstance(value, list):
            value = tuple(value)
        built[name] = value
    return kind(**built)
