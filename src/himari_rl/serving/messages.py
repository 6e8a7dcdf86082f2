"""The shapes of requests and answers, with examples: what the OpenAPI document shows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PlainValidator, WithJsonSchema
from pydantic_core import PydanticCustomError

from himari_rl.policy.arrival import END_MS, FIRST_MS, ArrivalError, Place, milliseconds, share

MAX_STATES, MAX_SEQUENCE, MAX_HISTORY, MAX_ASSETS = 256, 64, 1000, 64
TIERS = ("T1", "T2", "T3", "T4")
# confidence .82; BUY; T2; a quarter of the largest position, long, winning; a calm, rising hour
EXAMPLE_STATE: list[Any] = [0.82, 0, 0, 1, 0, 1, 0, 0, 0.25, 1, 0.04, 0.012, 0.03, 0.09, 0.6, 0.05]
EXAMPLE_TIME = 1_767_225_600_000

_STATE_SCHEMA: dict[str, Any] = {
    "type": "array",
    "items": {"type": "number"},
    "minItems": 16,
    "examples": [EXAMPLE_STATE],
}
# The numbers are checked by features/validation.py, which names the feature and the cure; the schema is for readers.
State = Annotated[list[Any], WithJsonSchema(_STATE_SCHEMA)]
ARRIVAL = "arrival"
"""The type of a problem that policy/arrival.py found, with its own cure."""


def _arrival(name: str, check: Callable[[object, Place], Any]) -> PlainValidator:
    """A field that policy/arrival.py judges: its refusal, at the field's place in the request."""

    def judge(value: object) -> Any:
        try:
            return check(value, (name,))
        except ArrivalError as error:
            parts = {"found": error.found, "expected": error.expected, "cure": error.cure}
            raise PydanticCustomError(ARRIVAL, "{found}; expected {expected}; {cure}", parts) from error

    return PlainValidator(judge)


_TIME_SCHEMA = {"type": "integer", "minimum": FIRST_MS, "exclusiveMaximum": END_MS}
Milliseconds = Annotated[
    int, _arrival("timestamp", milliseconds), WithJsonSchema({**_TIME_SCHEMA, "description": "Bar's opening, ms UTC"})
]
_SHARE = WithJsonSchema({"type": "number", "minimum": 0, "maximum": 1})
Confidence = Annotated[float, _arrival("confidence", share), _SHARE]
CascadeRisk = Annotated[float, _arrival("cascade_risk", share), _SHARE]
WinRate = Annotated[
    float,
    _arrival("win_rate", share),
    WithJsonSchema(
        {**_SHARE.json_schema, "description": "Share of the last ten closed trades that won; 0.5 before the first"}
    ),
]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Price = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Name = Annotated[str, Field(min_length=1, max_length=100)]


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class PredictRequest(_Request):
    """One state: 16 numbers for one asset, 52 for three. Give `state`, or for a recurrent policy `sequence`."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"state": EXAMPLE_STATE}],
            "oneOf": [{"required": ["state"]}, {"required": ["sequence"]}],
        }
    )

    state: State | None = Field(None, description="The features in the encoder's order; see docs/features.md")
    memory: str | None = Field(
        None, description="Recurrent policies only: `memory` of the previous answer, unchanged; leave it out to start"
    )
    session_id: Name | None = Field(
        None, description="Recurrent policies only: this server keeps the memory; needs `timestamp`"
    )
    timestamp: Milliseconds | None = Field(None, description="With session_id: opening time of the bar, ms UTC")
    sequence: Annotated[list[State], Field(min_length=1, max_length=MAX_SEQUENCE)] | None = Field(
        None, description=f"Up to {MAX_SEQUENCE} states, oldest first, from no memory; the answer is the last one's"
    )


class RegimeCap(BaseModel):
    """A multiplier that the regime does not allow."""

    wanted: float
    cap: float


class RiskNote(BaseModel):
    """Limits of the policy's ledger that shrank this answer; see docs/serving.md."""

    wanted: dict[str, float] = Field(description="By symbol: what the policy answered before the limits")
    regime_cap: dict[str, RegimeCap] | None = Field(None, description="By symbol: volatility or cascade risk")
    gross_cap: RegimeCap | None = Field(None, description="Sum of exposures, as a multiple of equity")


class SessionGap(BaseModel):
    """Bars were missing: memory was `reset`, or `advance`d over them; the encoder takes `one_return` across them."""

    rule: Literal["reset", "advance", "one_return"]
    missing_bars: int | None = None
    reason: str | None = None


class Answer(BaseModel):
    """One decision. Fields beyond the first four are there only when they say something."""

    position_multiplier: float | None = Field(None, ge=0, le=2, description="One asset: multiple of the base position")
    position_multipliers: dict[str, float] | None = Field(None, description="Several assets: the same, by symbol")
    confidence: float = Field(
        ge=0,
        le=1,
        description="Share of training states at least as unusual as this one, times the agreement of the ensemble",
    )
    memory: str | None = Field(None, description="Policies that remember: send it with the next state")
    memory_started: bool | None = Field(
        None,
        description="Policies that remember: no memory was there. An LSTM began an episode; a policy with beliefs took "
        "the volatility of its last training days, moved a little by the state's own",
    )
    repeated: bool | None = Field(None, description="Sessions: this bar was decided before, from the same memory")
    corrected: bool | None = Field(None, description="/v1/decide: this bar was decided before, with another close")
    flat: list[str] | None = Field(
        None, description="/v1/decide: symbols whose closes have not moved for 20 bars; no volatility limit binds"
    )
    bar_age_s: float | None = Field(None, description="/v1/decide: the bar closed more than two intervals ago")
    gap: SessionGap | None = Field(None, description="Bars were missing before this one")
    out_of_distribution: bool | None = Field(
        None, description="Only there when true: fewer than one training state in a thousand is as unusual"
    )
    risk: RiskNote | None = Field(None, description="Only there when a risk limit shrank the answer")


class PredictAnswer(Answer):
    """One decision of one policy."""

    latency_ms: float = Field(description="Time spent validating and deciding, of all that were decided together")
    model_version: str = Field(examples=["base-3f2a90c1d7b4"])


class BatchRequest(_Request):
    """Up to 256 independent states, in the form of Vertex AI: each a list of numbers or a request of POST /predict."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"instances": [EXAMPLE_STATE, {"state": EXAMPLE_STATE}]}]}
    )

    instances: Annotated[list[State | PredictRequest], Field(min_length=1, max_length=MAX_STATES)]
    parameters: dict[str, Any] | None = Field(None, max_length=0, description="Vertex AI may send it; must be empty")


class BatchAnswer(BaseModel):
    """The decisions, in the order of the instances, all of one policy."""

    predictions: list[Answer]
    latency_ms: float
    model_version: str


class BarNow(_Request):
    """The bar that closed."""

    timestamp: Milliseconds
    close: Price


class SignalNow(_Request):
    """What Layer 2 says at the close of the bar."""

    action: Literal["STRONG_SELL", "SELL", "HOLD", "BUY", "STRONG_BUY"]
    confidence: Confidence
    tier: Literal["T1", "T2", "T3", "T4"]
    cascade_risk: CascadeRisk


class AccountNow(_Request):
    """The position at the close of the bar."""

    exposure: Finite = Field(description="Signed, as a fraction of equity; below 0 is short")
    unrealised_pnl: Finite = Field(description="Of the open position, as a fraction of equity")
    win_rate: WinRate


Past = Annotated[tuple[Milliseconds, Price], Field(strict=False)]  # a JSON array is a list; its numbers stay strict
History = Annotated[
    list[Past],
    Field(max_length=MAX_HISTORY, description="[timestamp, close] of at least 20 earlier bars; begins the stream anew"),
]


class AssetNow(_Request):
    """One asset at one close."""

    bar: BarNow
    signal: SignalNow
    account: AccountNow
    history: History | None = None
    features: dict[Name, Finite] | None = Field(None, description="The policy's own features at the close, by name")


_ASSET_EXAMPLE: dict[str, Any] = {
    "bar": {"timestamp": EXAMPLE_TIME, "close": 87_650.5},
    "signal": {"action": "BUY", "confidence": 0.82, "tier": "T2", "cascade_risk": 0.05},
    "account": {"exposure": 0.25, "unrealised_pnl": 0.02, "win_rate": 0.6},
    "history": [[EXAMPLE_TIME - 3_600_000 * k, 87_000.0 + 10 * (k % 7)] for k in range(20, 0, -1)],
}


class DecideRequest(_Request):
    """Raw numbers that the server encodes. One asset: bar, signal and account; several: `assets`, by symbol."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"symbol": "BTC-USDT", **_ASSET_EXAMPLE}]})

    session_id: Name | None = Field(
        None,
        description="This client's stream of bars; without it `history` comes with the request and nothing is kept",
    )
    symbol: Name | None = None
    bar: BarNow | None = None
    signal: SignalNow | None = None
    account: AccountNow | None = None
    history: History | None = None
    features: dict[Name, Finite] | None = Field(None, description="The policy's own features at the close, by name")
    assets: dict[str, AssetNow] | None = Field(None, max_length=MAX_ASSETS)


class DecideAnswer(PredictAnswer):
    """One decision, and the state that it was made on."""

    state: list[float] = Field(description="What the encoder made of the request")


class ErrorAnswer(BaseModel):
    """Why a request was refused. `detail` is a list for 422 and a sentence for every other status."""

    detail: str | list[ErrorDetail]


class ErrorDetail(BaseModel):
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


class Offer(BaseModel):
    """A place that policies come from, and what is served of it."""

    source: str
    model_version: str | None = None
    step: int | None = Field(None, description="The alias's step that is served")
    transaction: str | None = None
    refused: str | None = Field(None, description="Why what the source offers now is not served")
    mode: str | None = Field(None, description="The challenger's: shadow, or the share of clients it answers")


class Journalling(BaseModel):
    """The journal that every decision is in before it is answered."""

    place: str
    written: int = Field(description="Entries since the start")


class Ready(BaseModel):
    """Which policy answers."""

    status: str = "ready"
    model_version: str
    kind: str
    symbols: list[str]
    interval_ms: int = Field(description="Of the bars that it was trained on")
    first_bar: str = Field(description="Opening time of the first of them: bars of this grid are what it knows")
    ledger: dict[str, Any] = Field(description="Fees, base position and limits that it was trained with")
    state_dim: int
    features: list[str] = Field([], description="Features of its own that it reads, of each asset, by name")
    encoder_hash: str
    members: int = Field(description="Policies in the ensemble")
    trained_on: str
    synthetic: bool = Field(description="True: trained on an artificial market")
    gap_rule: str
    champion: Offer
    challenger: Offer | None = None
    looked_s_ago: float | None = Field(None, description="Seconds since the last look at the sources came back")
    journal: Journalling | None = Field(None, description="Only where decisions are journalled")
    failing: dict[str, str] = Field({}, description="Background jobs of the server that failed and begin anew, and why")


class Reloaded(BaseModel):
    """What a look at the source changed."""

    swapped: bool
    model_version: str


ErrorAnswer.model_rebuild()
