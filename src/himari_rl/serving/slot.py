"""A slot: one policy that was read, checked and has decided once, with all that an answer needs of it.

A request reads its slot once, so an answer never mixes two policies; a swap is one assignment.
"""

from __future__ import annotations

from pathlib import Path
from time import monotonic
from typing import NamedTuple

from himari_rl.errors import BundleError, HimariError, StateError
from himari_rl.features.contract import WIDTH, state_dim
from himari_rl.features.validation import layout_of, validate_state
from himari_rl.policy.alias import Alias, bundle_of, read_alias
from himari_rl.policy.arrival import ArrivalRules
from himari_rl.policy.bundle import MANIFEST
from himari_rl.policy.code import allow_code
from himari_rl.policy.manifest import GAP_RULES
from himari_rl.policy.runtime import Policy, load_policy
from himari_rl.serving.limits import Limiter
from himari_rl.serving.reader import body_reader
from himari_rl.serving.settings import ServeSettings
from himari_rl.storage import is_file, join, stamp

MOST_PAUSE_S = 60.0
"""Between two readings of an offer that is refused and does not change."""
_CONTRACT = ("symbols", "interval_ms", "encoder")
_OTHER = "offer one that its clients can be answered by, or allow others (--other-contracts, HIMARI_OTHER_CONTRACTS=1)"
_ORDINARY = [0.5, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0.1, 0.5, 0]  # HOLD, T4, flat: a quiet hour


class Contract(NamedTuple):
    """What clients of a policy must know of it: another one of the same contract can take its place unseen."""

    symbols: tuple[str, ...]
    interval_ms: int
    encoder_hash: str

    def check(self, offered: Slot, cure: str) -> None:
        """Refuses a policy of another contract.

        Raises:
            BundleError: names what differs.
        """
        for name, found, expected in zip(_CONTRACT, offered.contract, self, strict=True):
            if found != expected:
                raise BundleError(
                    f"{offered.version} has {name} {_plain(found)}", f"{_plain(expected)}, served now", cure
                )


def _plain(value: object) -> str:
    return ", ".join(value) if isinstance(value, tuple) else str(value)


class Slot:
    """One policy, warm."""

    __slots__ = (
        *("alias", "arrival", "contract", "digest", "dim", "gap_rule", "interval_ms", "layout"),
        *("limiter", "own", "policy", "reader", "recurrent", "symbols", "version"),
    )

    def __init__(self, policy: Policy, gap_rule: str = "", alias: Alias | None = None) -> None:
        manifest = policy.manifest
        self.policy = policy
        self.version = manifest.version
        self.digest = manifest.shaping_sha256  # not the manifest's: a signature does not change what a memory means
        self.dim = manifest.state_dim
        self.recurrent = policy.memory_size > 0
        self.symbols = manifest.symbols
        self.interval_ms = manifest.ledger.interval_ms
        self.contract = Contract(self.symbols, self.interval_ms, manifest.encoder_hash)
        self.arrival = ArrivalRules.of(manifest)
        self.limiter = Limiter(manifest.ledger, manifest.symbols)
        self.own = manifest.own_features
        self.layout = layout_of(self.dim, self.symbols, self.own)
        self.reader = body_reader(self.layout.bounds)
        self.gap_rule = gap_rule or manifest.gap_rule
        self.alias = alias
        if self.gap_rule not in GAP_RULES:
            raise BundleError(f"{self.version} has gap_rule {self.gap_rule!r}", "reset or advance", "export it again")
        warm_up(self)


def warm_up(slot: Slot) -> None:
    """One real decision on an ordinary state, through the limits.

    Raises:
        BundleError: the policy does not answer it.
    """
    state = ordinary_state(len(slot.symbols), len(slot.own))
    try:
        validate_state(state, slot.dim, slot.symbols, slot.own)
        slot.limiter(state, slot.policy.decide(state).multipliers.tolist())
    except StateError as error:
        raise BundleError(f"{slot.version} refuses an ordinary state: {error}") from error


def ordinary_state(assets: int, own: int = 0) -> list[float]:
    """A valid state of a quiet hour without positions: for warming up and for a first curl."""
    state = [float(value) for value in _ORDINARY] * assets
    return state + [0.0] * (state_dim(assets, own) - WIDTH * assets)  # no correlation, no exposure


class Follower:
    """Where policies come from: a bundle's folder, or an alias (a .json file) that names one; local or gs://."""

    def __init__(self, source: Policy | str | Path, settings: ServeSettings) -> None:
        self._source = source
        allow_code(settings.external_code)
        self._symbols, self._gap_rule = settings.symbols, settings.gap_rule
        self._signer = None
        if settings.signer:
            from himari_rl.policy.signature import public_key

            self._signer = public_key(settings.signer)
        self._others = settings.other_contracts
        self.contract: Contract | None = None
        """What an offer must have: that of what is served."""
        self._seen = ""  # the stamp of what is served
        self._step = 0
        self._refusal: HimariError | None = None  # of the last look
        self._refused_mark, self._again_at, self._pause_s = "", 0.0, 0.0
        self._least_pause_s = settings.reload_s
        self.place = source.manifest.version if isinstance(source, Policy) else str(source)
        self._is_alias = self.place.endswith(".json") and not isinstance(source, Policy)

    def changed(self) -> Slot | None:
        """The policy to serve now, loaded and warm; None where it is the one that `changed` gave before.

        What was refused is read again when its file changes, else after a pause that doubles up to a minute.

        Raises:
            BundleError: what is offered is missing, damaged, for other symbols, does not answer, or could not be looked
                at for a reason that this program does not know.
            StorageError: it cannot be reached.
        """
        mark = ""
        try:
            mark = self._mark()
            if mark and mark == self._seen:
                self._refusal = None
                return None
            if self._refusal is not None and mark == self._refused_mark and monotonic() < self._again_at:
                raise self._refusal
            slot = self._load()
            if self.contract is not None and not self._others:
                self.contract.check(slot, _OTHER)
        except HimariError as error:
            self._remember(error, mark)
            raise
        except Exception as error:  # an operating system or a library can fail in any way, and the next look may not
            found = f"{self.place} could not be looked at: {type(error).__name__}: {' '.join(str(error).split())[:300]}"
            refusal = BundleError(found, "a bundle or an alias that can be read", "mend it, or point the alias again")
            self._remember(refusal, mark)
            raise refusal from error
        self._refusal, self._seen, self.contract = None, mark, slot.contract
        self._step = slot.alias.step if slot.alias else self._step
        return slot

    def forget(self) -> None:
        """The next look loads what is there as if it had never been."""
        self._seen, self._again_at = "", 0.0

    def hurry(self) -> None:
        """The next look reads what was refused again, whatever the pause."""
        self._again_at = 0.0

    def _mark(self) -> str:
        """A text that changes when the source offers something else; empty where there is nothing."""
        if isinstance(self._source, Policy):
            return "given"
        watched = self.place if self._is_alias else join(self.place, MANIFEST)
        return stamp(watched) if is_file(watched) else ""  # what is missing is _load's to say

    def _remember(self, error: HimariError, mark: str) -> None:
        if error is self._refusal:
            return
        again = self._refusal is not None and mark == self._refused_mark
        self._pause_s = min(2.0 * self._pause_s, MOST_PAUSE_S) if again else self._least_pause_s
        self._refusal, self._refused_mark, self._again_at = error, mark, monotonic() + self._pause_s

    def _load(self) -> Slot:
        if isinstance(self._source, Policy):
            return Slot(self._checked(self._source), self._gap_rule)
        if not self._is_alias:
            return Slot(self._checked(load_policy(self.place)), self._gap_rule)
        alias = read_alias(self.place)
        if alias.step < self._step:
            raise BundleError(
                f"{self.place} is at step {alias.step}", f"at least {self._step}, served already", "point it again"
            )
        policy = self._checked(load_policy(bundle_of(alias, self.place)))
        if alias.manifest_sha256 and policy.manifest.manifest_sha256 != alias.manifest_sha256:
            found, expected = policy.manifest.manifest_sha256[:12], alias.manifest_sha256[:12]
            raise BundleError(f"{alias.bundle} is {found} now", f"{expected}, as {self.place} says", "point it again")
        return Slot(policy, self._gap_rule, alias)

    def _checked(self, policy: Policy) -> Policy:
        found = policy.manifest.symbols
        if self._symbols and found != self._symbols:
            raise BundleError(
                f"{policy.manifest.version} is for {', '.join(found)}",
                f"a policy for {', '.join(self._symbols)}",
                "serve another bundle, or start the server for those symbols",
            )
        if self._signer is not None:
            from himari_rl.policy.signature import verify

            verify(policy.manifest, self._signer)
        return policy
