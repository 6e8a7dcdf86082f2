"""A POST's body in one pass: pydantic-core parses it, checks its shape and holds each number to its range.

It accepts nothing that messages.py with features/validation.py refuses. What it refuses, the FastAPI route looks at
again, to accept it (a value beyond its bound by rounding) or to say which field is wrong and how to cure it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NotRequired, TypedDict, cast

from pydantic import BaseModel
from pydantic_core import SchemaValidator, core_schema

from himari_rl.policy.arrival import END_MS, FIRST_MS
from himari_rl.schema import ACTIONS
from himari_rl.serving.messages import MAX_ASSETS, MAX_HISTORY, MAX_SEQUENCE, TIERS, DecideRequest

_NUMBER = core_schema.float_schema(strict=True, allow_inf_nan=False)
_BASE64 = core_schema.nullable_schema(core_schema.str_schema(strict=True))
_NAME = core_schema.nullable_schema(core_schema.str_schema(strict=True, min_length=1, max_length=100))
_MOMENT = core_schema.int_schema(strict=True, ge=FIRST_MS, lt=END_MS)
_TIME = core_schema.nullable_schema(_MOMENT)
_SHARE = core_schema.float_schema(strict=True, allow_inf_nan=False, ge=0.0, le=1.0)
_PRICE = core_schema.float_schema(strict=True, allow_inf_nan=False, gt=0.0)


class SentBar(TypedDict):
    """As messages.BarNow."""

    timestamp: int  # ms UTC, bar OPEN
    close: float


class SentSignal(TypedDict):
    """As messages.SignalNow."""

    action: str
    confidence: float
    tier: str
    cascade_risk: float


class SentAccount(TypedDict):
    """As messages.AccountNow."""

    exposure: float
    unrealised_pnl: float
    win_rate: float


class SentAsset(TypedDict):
    """As messages.AssetNow."""

    bar: SentBar
    signal: SentSignal
    account: SentAccount
    history: NotRequired[Sequence[tuple[int, float]] | None]
    features: NotRequired[dict[str, float] | None]


class SentDecide(TypedDict, total=False):
    """As messages.DecideRequest."""

    session_id: str | None
    symbol: str | None
    bar: SentBar | None
    signal: SentSignal | None
    account: SentAccount | None
    history: Sequence[tuple[int, float]] | None
    features: dict[str, float] | None
    assets: dict[str, SentAsset] | None


def body_reader(bounds: Sequence[tuple[float, float]]) -> SchemaValidator:
    """Bytes to the fields that were sent, for states whose numbers stand in `bounds`.

    `state` becomes a tuple. `memory` stays text: pydantic-core would read the url-safe alphabet of base64 too, and then
    two texts would mean one memory.
    """
    fields: dict[str, core_schema.CoreSchema] = {
        "state": _state(bounds),
        "memory": _BASE64,
        "session_id": _NAME,
        "timestamp": _TIME,
        "sequence": core_schema.list_schema(core_schema.list_schema(_NUMBER), min_length=1, max_length=MAX_SEQUENCE),
    }
    parts = {name: core_schema.typed_dict_field(schema, required=False) for name, schema in fields.items()}
    return SchemaValidator(core_schema.typed_dict_schema(parts, extra_behavior="forbid"))


def decide_reader() -> SchemaValidator:
    """Bytes to a SentDecide: a tenth of what messages.DecideRequest costs, whose checks call Python for each field."""
    past = core_schema.tuple_schema([_MOMENT, _PRICE])
    parts = {
        "bar": _object(timestamp=_MOMENT, close=_PRICE),
        "signal": _object(
            action=core_schema.literal_schema(list(ACTIONS)),
            confidence=_SHARE,
            tier=core_schema.literal_schema(list(TIERS)),
            cascade_risk=_SHARE,
        ),
        "account": _object(exposure=_NUMBER, unrealised_pnl=_NUMBER, win_rate=_SHARE),
    }
    history = core_schema.nullable_schema(core_schema.list_schema(past, max_length=MAX_HISTORY))
    named = core_schema.str_schema(strict=True, min_length=1, max_length=100)
    features = core_schema.nullable_schema(core_schema.dict_schema(named, _NUMBER))
    asset = _object({"history": history, "features": features}, **parts)
    assets = core_schema.dict_schema(core_schema.str_schema(strict=True), asset, max_length=MAX_ASSETS)
    whole = {name: core_schema.nullable_schema(part) for name, part in (parts | {"assets": assets}).items()}
    return SchemaValidator(
        _object(whole | {"session_id": _NAME, "symbol": _NAME, "history": history, "features": features})
    )


def as_sent(request: DecideRequest) -> SentDecide:
    """What `decide_reader` makes of the same request."""
    found = _fields(request)
    if request.assets is not None:
        found["assets"] = {symbol: _fields(asset) for symbol, asset in request.assets.items()}
    return cast(SentDecide, found)


def _fields(model: BaseModel) -> dict[str, Any]:
    """Not model_dump, which calls Python for each bar of a history."""
    return {name: _fields(part) if isinstance(part, BaseModel) else part for name, part in model.__dict__.items()}


def _object(
    optional: dict[str, core_schema.CoreSchema] | None = None, /, **required: core_schema.CoreSchema
) -> core_schema.CoreSchema:
    fields = {name: core_schema.typed_dict_field(schema) for name, schema in required.items()}
    fields |= {name: core_schema.typed_dict_field(part, required=False) for name, part in (optional or {}).items()}
    return core_schema.typed_dict_schema(fields, extra_behavior="forbid")


def _state(bounds: Sequence[tuple[float, float]]) -> core_schema.CoreSchema:
    return core_schema.tuple_schema(
        [core_schema.float_schema(strict=True, allow_inf_nan=False, ge=low, le=high) for low, high in bounds]
    )
