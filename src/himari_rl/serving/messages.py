"""The shapes of requests and answers, with examples: what the OpenAPI document shows."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema

# confidence .82; BUY; T2; a quarter of the largest position, long, winning; a calm, rising hour
EXAMPLE_STATE = [0.82, 0, 0, 1, 0, 1, 0, 0, 0.25, 1, 0.04, 0.012, 0.03, 0.09, 0.6, 0.05]

# The numbers are checked by features/validation.py, which names the feature and the cure; the schema is for readers.
State = Annotated[
    list[Any],
    WithJsonSchema({"type": "array", "items": {"type": "number"}, "minItems": 16, "examples": [EXAMPLE_STATE]}),
]


class PredictRequest(BaseModel):
    """One state: 16 numbers for one asset, 52 for three."""

    model_config = ConfigDict(extra="forbid", strict=True)

    state: State = Field(description="The features in the encoder's order; see docs/features.md")
    memory: str | None = Field(
        None, description="Recurrent policies only: `memory` of the previous answer, unchanged; leave it out to start"
    )


class PredictAnswer(BaseModel):
    """One decision. Which optional fields are there depends on the policy, never on the request."""

    position_multiplier: float | None = Field(None, ge=0, le=2, description="One asset: multiple of the base position")
    position_multipliers: dict[str, float] | None = Field(None, description="Several assets: the same, by symbol")
    confidence: float = Field(
        ge=0,
        le=1,
        description="Share of training states at least as unusual as this one, times the agreement of the ensemble",
    )
    memory: str | None = Field(None, description="Recurrent policies: send it with the next state")
    memory_started: bool | None = Field(None, description="Recurrent policies: no memory was sent, an episode began")
    out_of_distribution: bool | None = Field(
        None, description="Only there when true: fewer than one training state in a thousand is as unusual"
    )
    latency_ms: float = Field(description="Time spent validating and deciding")
    model_version: str = Field(examples=["base-3f2a90c1d7b4"])


class Problem(BaseModel):
    """Why a request was refused. `detail` is a list for 422 and a sentence for every other status."""

    detail: str | list[ProblemDetail]


class ProblemDetail(BaseModel):
    """One thing that is wrong with a request."""

    type: str
    loc: list[str | int]
    msg: str = Field(examples=["volatility is nan; expected a finite number in [0, 1]; send the state once ..."])
    cure: str


class Root(BaseModel):
    """What this server is."""

    name: str
    version: str
    status: str = Field(description="ready or not ready")
    endpoints: dict[str, str]


class Health(BaseModel):
    """The process lives."""

    status: str = "alive"


class Ready(BaseModel):
    """Which policy answers."""

    status: str = "ready"
    model_version: str
    kind: str
    symbols: list[str]
    state_dim: int
    encoder_hash: str
    members: int = Field(description="Policies in the ensemble")
    trained_on: str
    synthetic: bool = Field(description="True: trained on an artificial market")


Problem.model_rebuild()
