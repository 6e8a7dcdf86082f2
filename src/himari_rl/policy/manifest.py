"""The manifest of a policy bundle: what a policy is, what it was trained on, how it must be used.

Strict and frozen: an unknown field, a number where a string belongs, or two fields that contradict each
other are refused, when the exporter builds it and again when anybody reads it.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from functools import cached_property
from itertools import pairwise
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, Field, JsonValue, ValidationError, model_validator

from himari_rl.config import from_dict
from himari_rl.errors import BundleError, ConfigError
from himari_rl.features.contract import state_dim
from himari_rl.policy.beliefs import Beliefs
from himari_rl.policy.charges import Charges
from himari_rl.policy.code import CodeReference
from himari_rl.policy.drift import DriftSpec
from himari_rl.policy.ledger_config import LedgerConfig
from himari_rl.policy.manifest_part import ManifestPart
from himari_rl.policy.risk import RiskLimits

Finite = Annotated[float, Field(allow_inf_nan=False)]
Positive = Annotated[int, Field(gt=0)]
Digest = Annotated[str, Field(pattern=r"^([0-9a-f]{64})?$")]
MOST_WIDTH, MOST_LAYERS, MOST_SYMBOLS = 2**16, 64, 256
"""Of a network and a policy: what reads a forged manifest must not run for hours over what it asks for."""
Width = Annotated[int, Field(gt=0, le=MOST_WIDTH)]

LARGEST = 1e9
"""Of a number in a normaliser; features are shares and returns. Beyond it one is damaged, and float32 overflows."""
_OWN_FORM = ("interval_ms", "limits", "charges")  # fields of LedgerSpec that are no plain field of LedgerConfig
GAP_RULES = ("reset", "advance")  # what becomes of a recurrent policy's memory when a session misses bars
SHAPING = {  # fields of a manifest that shape an answer
    "symbols",
    "encoder_hash",
    "normaliser",
    "network",
    "beliefs",
    "ledger",
    "confidence",
    "weights_sha256",
    "external",
}


class NormaliserSpec(ManifestPart):
    """x = clip((state - mean) / std, -clip, clip) * keep, fitted on training rows only. All (F,)."""

    mean: tuple[Annotated[float, Field(ge=-LARGEST, le=LARGEST)], ...]
    std: tuple[Annotated[float, Field(ge=1 / LARGEST, le=LARGEST)], ...]
    keep: tuple[Literal[0, 1], ...]  # 0 hides a feature from the network
    clip: Annotated[float, Field(gt=0, le=LARGEST)]


class NetworkSpec(ManifestPart):
    """[LSTM layers ->] tanh layers -> linear output -> head; of somebody's own code there is none to tell."""

    trunk: Literal["mlp", "lstm", "external"]
    hidden: Annotated[tuple[Width, ...], Field(max_length=MOST_LAYERS)]
    """Width of each tanh layer, after the LSTM where there is one."""
    activation: Literal["tanh"] = "tanh"
    head: Literal["band", "centre", "squash", "external"]
    lstm_hidden: Annotated[int, Field(ge=0, le=MOST_WIDTH)] = 0
    lstm_layers: Annotated[int, Field(ge=0, le=MOST_LAYERS)] = 0

    @model_validator(mode="after")
    def _agree(self) -> NetworkSpec:
        recurrent = self.lstm_hidden > 0 and self.lstm_layers > 0
        if recurrent != (self.trunk == "lstm") or (self.lstm_hidden > 0) != (self.lstm_layers > 0):
            raise ValueError("lstm_hidden and lstm_layers are positive exactly where trunk is lstm")
        return self


class TensorSpec(ManifestPart):
    """One array of a policy that is code."""

    dtype: Annotated[str, Field(pattern=r"^(bool|u?int(8|16|32|64)|float(16|32|64))$")]
    shape: tuple[Annotated[int, Field(ge=0)], ...]


class ExternalSpec(ManifestPart):
    """The code of a policy of kind external, by name and hash, and what is kept of it; see policy/external.py."""

    name: str  # MODULE:NAME, or an adapter and what it adapts
    sha256: Digest
    settings: str = ""  # what it was made with
    modules: dict[str, Digest] = Field(default={})  # of its author's own, which it imports
    packages: dict[str, str] = Field(default={})  # distributions it was judged with, and versions: told, not asked for
    kept: Literal["arrays", "attributes", "refit"]
    ships: bool = True  # False: it goes by the clock, or remembers something that no server could carry
    tensors: dict[str, TensorSpec]

    @property
    def reference(self) -> CodeReference:
        return CodeReference(name=self.name, sha256=self.sha256, settings=self.settings, modules=self.modules)


class TrainingData(ManifestPart):
    """The bars the policy was trained on."""

    sha256: str
    source: str
    start: str  # ISO 8601, UTC, open of the first bar
    end: str  # open of the last bar
    rows: Positive
    interval_ms: Positive
    synthetic: bool


class LedgerSpec(ManifestPart):
    """The ledger the policy was trained in: evaluation uses it unless told otherwise."""

    max_position_pct: Finite
    commission_rate: Finite
    slippage_bps: Finite
    allow_short: bool
    interval_ms: Positive
    limits: dict[str, Finite | None]  # RiskLimits by name; None is infinity: that limit is off
    charges: dict[str, Finite | tuple[Finite, ...]] | None = None  # Charges by name; None: one rate is all

    @model_validator(mode="after")
    def _a_ledger_can_use_it(self) -> LedgerSpec:
        try:
            _ = self.config
        except ConfigError as error:
            raise ValueError(str(error)) from error
        return self

    @classmethod
    def of(cls, config: LedgerConfig, interval_ms: int) -> LedgerSpec:
        """The manifest's form of a ledger's config, on bars of one interval."""
        limits = {name: None if value == math.inf else value for name, value in vars(config.limits).items()}
        charges = None if config.charges.off else dict(vars(config.charges))
        plain = {name: getattr(config, name) for name in cls.model_fields if name not in _OWN_FORM}
        return cls(interval_ms=interval_ms, limits=limits, charges=charges, **plain)

    @cached_property
    def config(self) -> LedgerConfig:
        """The ledger's config, as everything that trades in it takes it."""
        limits = from_dict(RiskLimits, {k: math.inf if v is None else v for k, v in self.limits.items()})
        plain = {name: getattr(self, name) for name in type(self).model_fields if name not in _OWN_FORM}
        return LedgerConfig(limits=limits, charges=from_dict(Charges, self.charges or {}), **plain)


class ConfidenceSpec(ManifestPart):
    """What `confidence` is read from; see policy/confidence.py, which fits it."""

    probabilities: tuple[Finite, ...]
    distance_quantiles: tuple[Finite, ...]
    spread_half: Annotated[float, Field(gt=0, allow_inf_nan=False)]

    @model_validator(mode="after")
    def _increasing(self) -> ConfidenceSpec:
        p, q = self.probabilities, self.distance_quantiles
        if len(p) < 2 or len(p) != len(q) or p[0] != 0.0 or p[-1] != 1.0:
            raise ValueError("probabilities run from 0 to 1 with one quantile each")
        if any(b <= a for a, b in pairwise(p)) or any(b < a for a, b in pairwise(q)):
            raise ValueError("probabilities and quantiles increase")
        return self


class Manifest(ManifestPart):
    """Everything about a policy but its weights. Build one with `new_manifest`."""

    bundle_version: Literal[1] = 1
    kind: Literal["base", "lstm", "multi", "external"]
    symbols: Annotated[tuple[str, ...], Field(max_length=MOST_SYMBOLS)]
    state_dim: Positive
    action_dim: Positive
    feature_names: tuple[str, ...]
    encoder_hash: str
    normaliser: NormaliserSpec
    network: NetworkSpec
    external: ExternalSpec | None = None  # the code of a policy that is no network
    beliefs: Beliefs | None = None  # with them the band is a multiple of the one-liner's; see policy/beliefs.py
    seeds: Annotated[tuple[int, ...], Field(min_length=1, max_length=1_000)]  # one member of the ensemble each
    training_data: TrainingData
    ledger: LedgerSpec
    config: dict[str, JsonValue]
    config_hash: str
    code_version: str
    created_at: str
    confidence: ConfidenceSpec
    drift: DriftSpec | None = None  # what live features, multipliers and confidence are held against; older: none
    evaluation: dict[str, JsonValue] | None = None  # the verdict of the walk-forward that made it
    gate: dict[str, JsonValue] | None = None  # what its gate said then
    weights_sha256: Digest = ""  # both digests are filled in by write_bundle
    signature: str | None = None  # Ed25519, base64; see policy/signature.py
    manifest_sha256: Digest = ""

    @model_validator(mode="after")
    def _dimensions_agree(self) -> Manifest:
        normaliser = self.normaliser
        lengths = {
            "feature_names": len(self.feature_names),
            "normaliser.mean": len(normaliser.mean),
            "normaliser.std": len(normaliser.std),
            "normaliser.keep": len(normaliser.keep),
        }
        for name, length in lengths.items():
            expected = self.state_dim if name == "feature_names" else self.inputs
            if length != expected:
                raise ValueError(f"{name} has {length} entries, expected {expected}")
        if len(self.symbols) != self.action_dim or len(set(self.symbols)) != self.action_dim:
            raise ValueError(f"{len(set(self.symbols))} different symbols, action_dim is {self.action_dim}")
        self._code_agrees()
        if (self.kind != "external" and (self.kind == "multi") != (self.action_dim > 1)) or (
            self.kind == "lstm" and self.network.trunk != "lstm" and self.beliefs is None
        ):
            raise ValueError(f"kind {self.kind} with {self.action_dim} actions and a {self.network.trunk} trunk")
        if self.kind == "base" and self.network.trunk != "mlp":
            raise ValueError("kind base has a lstm trunk")
        if self.ledger.interval_ms != self.training_data.interval_ms:
            found = f"ledger.interval_ms is {self.ledger.interval_ms}"
            raise ValueError(f"{found}, but it was trained on bars of {self.training_data.interval_ms} ms")
        if not any(normaliser.keep):
            raise ValueError("normaliser.keep hides every feature")
        if self.beliefs is not None and self.beliefs.drift_net is not None and self.kind != "lstm":
            raise ValueError(f"a drift net in a policy of kind {self.kind}")
        if self.beliefs is not None and self.beliefs.own != len(self.own_features):
            raise ValueError(f"beliefs about {self.beliefs.own} own features, the state has {len(self.own_features)}")
        if self.beliefs is not None and (self.network.head != "band" or len(self.beliefs.usual) != self.action_dim):
            raise ValueError("beliefs belong to a band head, with one usual volatility an asset")
        return self

    def _code_agrees(self) -> None:
        told = {
            "kind": self.kind == "external",
            "trunk": self.network.trunk == "external",
            "head": self.network.head == "external",
            "external": self.external is not None,
        }
        if len(set(told.values())) > 1:
            found = ", ".join(name for name, is_code in told.items() if is_code)
            raise ValueError(f"a policy that is code by its {found} alone")

    @property
    def inputs(self) -> int:
        """Numbers that the network reads: the state, and with beliefs three more an asset."""
        return self.state_dim + (3 * self.action_dim if self.beliefs is not None else 0)

    @property
    def own_features(self) -> tuple[str, ...]:
        """Columns of the data that stand in its state after the contract's numbers, of each asset in turn."""
        names = self.feature_names[state_dim(self.action_dim) :]
        if self.action_dim == 1:
            return names
        first = self.symbols[0]
        return tuple(name.removeprefix(f"{first}.") for name in names[: len(names) // self.action_dim])

    @property
    def gap_rule(self) -> str:
        """What a server does with the memory of a session that missed bars; its own setting goes before."""
        return str(self.config.get("gap_rule", GAP_RULES[0]))

    @property
    def version(self) -> str:
        """What clients see as model_version: the kind and a digest of all that shapes an answer.

        The same policy has the same version whenever and wherever it was exported; when, of which bars and with which
        verdict is told by `manifest_sha256` alone.
        """
        return f"{self.kind}-{self.shaping_sha256[:12]}"

    @property
    def shaping_sha256(self) -> str:
        """The digest of all that shapes an answer: what a client's memory belongs to."""
        shaping = self.model_dump(mode="json", include=SHAPING) | {"gap_rule": self.config.get("gap_rule")}
        if self.beliefs is None:
            del shaping["beliefs"]  # a policy without them keeps the version it always had
        elif self.beliefs.drift_net is None:
            del shaping["beliefs"]["drift_net"]
        if self.external is None:
            del shaping["external"]
        else:
            del shaping["external"]["packages"]  # those of a machine, which shape nothing that is asked for
            if not self.external.modules:
                del shaping["external"]["modules"]  # such code keeps the version it always had
        if self.ledger.charges is None:
            del shaping["ledger"]["charges"]
        text = json.dumps(shaping, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()


def new_manifest(**fields: Any) -> Manifest:
    """A manifest from plain values: dicts, lists, numpy arrays; limits may be infinite.

    Raises:
        BundleError: a field is missing, unknown, of the wrong type or contradicts another.
    """
    try:
        text = json.dumps(_plain(fields), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise BundleError(f"the new manifest: {error}", "plain finite values") from error
    return parse_manifest(text, "the new manifest", "give what the field's type asks for")


def tensor_shapes(manifest: Manifest) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor the manifest asks for.

    Member i: {i}.lstm.{k}.weight_ih (4L, in), weight_hh (4L, L), bias (4L) in gate order i, f, g, o;
    {i}.trunk.{k}.weight (out, in), bias (out); {i}.out.weight (K, in), bias (K), K = 2A for a band, else A.
    """
    if manifest.external is not None:
        return {name: spec.shape for name, spec in manifest.external.tensors.items()}
    network = manifest.network
    outputs = manifest.action_dim * (2 if network.head == "band" else 1)
    shapes: dict[str, tuple[int, ...]] = {}
    for i in range(len(manifest.seeds)):
        width = manifest.inputs
        for k in range(network.lstm_layers):
            gates, cells = 4 * network.lstm_hidden, network.lstm_hidden
            shapes[f"{i}.lstm.{k}.weight_ih"] = (gates, width)
            shapes[f"{i}.lstm.{k}.weight_hh"] = (gates, cells)
            shapes[f"{i}.lstm.{k}.bias"] = (gates,)
            width = cells
        for k, hidden in enumerate(network.hidden):
            shapes[f"{i}.trunk.{k}.weight"], shapes[f"{i}.trunk.{k}.bias"] = (hidden, width), (hidden,)
            width = hidden
        shapes[f"{i}.out.weight"], shapes[f"{i}.out.bias"] = (outputs, width), (outputs,)
    return shapes


def tensor_dtype(manifest: Manifest, name: str) -> str:
    """float32, but for the arrays of somebody's own policy, which are what they are."""
    known = {} if manifest.external is None else manifest.external.tensors
    return known[name].dtype if name in known else "float32"


def parse_manifest(text: str | bytes, where: str, cure: str) -> Manifest:
    """A manifest from its JSON text.

    Args:
        where: what the text is, for the error line.
        cure: what the reader can do about a bad one.

    Raises:
        BundleError: a field is missing, unknown, of the wrong type or contradicts another.
    """
    try:
        return Manifest.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        field = ".".join(str(part) for part in first["loc"]) or "manifest"
        message = " ".join(first["msg"].split())
        raise BundleError(f"{where}: {field}: {message}", cure=cure) from error


def _plain(value: Any) -> Any:
    """Plain JSON types; +infinity becomes None, which of the checked fields only `limits` accepts."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return None if value == math.inf else value
