"""The body of POST /predict in one pass: pydantic-core parses it, checks its shape and holds each number to its range.

It accepts nothing that messages.PredictRequest with features/validation.py refuses. What it refuses, the FastAPI route
looks at again, to accept it (a value beyond its bound by rounding) or to say which field is wrong and how to cure it.
"""

from __future__ import annotations

from collections.abc import Sequence

from pydantic_core import SchemaValidator, core_schema

from himari_rl.policy.arrival import END_MS, FIRST_MS
from himari_rl.serving.messages import MAX_SEQUENCE, MAX_STATES

_NUMBER = core_schema.float_schema(strict=True, allow_inf_nan=False)
_BASE64 = core_schema.nullable_schema(core_schema.str_schema(strict=True))
_NAME = core_schema.nullable_schema(core_schema.str_schema(strict=True, min_length=1, max_length=100))
_TIME = core_schema.nullable_schema(core_schema.int_schema(strict=True, ge=FIRST_MS, lt=END_MS))


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


def batch_reader(bounds: Sequence[tuple[float, float]]) -> SchemaValidator:
    """Bytes to the states of POST /v1/batch, tuples whose numbers stand in `bounds`; every instance is a list."""
    states = core_schema.list_schema(_state(bounds), min_length=1, max_length=MAX_STATES)
    return SchemaValidator(
        core_schema.typed_dict_schema({"instances": core_schema.typed_dict_field(states)}, extra_behavior="forbid")
    )


def _state(bounds: Sequence[tuple[float, float]]) -> core_schema.CoreSchema:
    return core_schema.tuple_schema(
        [core_schema.float_schema(strict=True, allow_inf_nan=False, ge=low, le=high) for low, high in bounds]
    )
