"""The server's settings, one place, frozen; and how they are read from a container's environment."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from himari_rl import config
from himari_rl.errors import ConfigError
from himari_rl.policy.manifest import GAP_RULES

SECTION = "serve"
GOOGLE_ISSUERS = ("https://accounts.google.com", "accounts.google.com")
GOOGLE_CERTIFICATES = "https://www.googleapis.com/oauth2/v1/certs"


@dataclass(frozen=True, kw_only=True)
class ServeSettings:
    """How a server behaves; nothing here can change a policy's answer to a state."""

    symbols: tuple[str, ...] = ()
    """The assets this server is for; a policy for others is refused. Empty: whatever the policy was made for."""
    external_code: bool = False
    """Imports the code that a bundle of kind external names, if its hash is the judged one; else it is refused."""
    other_contracts: bool = False
    """Takes an alias or challenger of other symbols, another interval or another encoder than what is served."""
    reload_s: float = 2.0
    """Seconds between two looks at the alias or bundle, and between two attempts while no valid policy is loaded."""
    throttled: bool = False
    """The CPU is taken away after each answer (Cloud Run's default): looks are then part of a request, and said so."""
    look_timeout_s: float = 10.0
    """A look that takes longer is named in /ready, and nobody waits for it: its disk or bucket may hang."""
    start_wait_s: float = 5.0
    """Listens after this time at the latest, even when the policy has not arrived yet."""
    memory_key: bytes = field(default=b"", metadata=config.SECRET)
    """Signs the memory of recurrent policies; the same on every instance. Empty: a random key for this process."""
    gap_rule: str = ""
    """A session misses bars: `reset` its memory or `advance` it. Empty: as the manifest says."""
    max_bar_age_s: float = 0.0
    """/v1/decide refuses a bar that closed more seconds ago; 0: none, and the answer says bar_age_s."""
    open_bars: bool = False
    """/v1/decide takes a bar that has opened and not closed yet, by this machine's clock."""
    signer: str = ""
    """PEM file of an Ed25519 public key: only bundles signed with its private half are served. Empty: all are."""

    max_body_bytes: int = 524_288
    """Largest request body; more is answered with 413 and not read."""
    max_sessions: int = 2_000
    """Sessions with memory or history held here; a new one above that is answered with 429."""
    max_sessions_each: int = 500
    """The same for one client: its key, its e-mail or its address."""
    session_ttl_s: float = 86_400.0
    """A session that was silent for so long is forgotten."""
    max_concurrency: int = 512
    """Requests begun and not answered; one more is answered with 503 and Retry-After, unread."""
    body_timeout_s: float = 10.0
    """A body that has not arrived by then is answered with 408."""
    max_bodies_each: int = 128
    """Requests of one client address whose body is awaited; one more whose body has not come with it is a 429."""
    head_timeout_s: float = 10.0
    """A request's headers that have not arrived by then are answered with 408; a connection without any is closed."""
    turbo: bool = True
    """Answers a plain POST within uvicorn's parser (http/protocol.py); off: the same bytes from plain ASGI."""

    api_keys: tuple[str, ...] = field(default=(), metadata=config.SECRET)
    """Any of these in x-api-key or as bearer token opens the server."""
    audience: str = ""
    """Takes Google-signed ID tokens for this audience; they must name an e-mail of `emails`."""
    emails: tuple[str, ...] = ()
    """The people and service accounts that a token may belong to."""
    issuers: tuple[str, ...] = GOOGLE_ISSUERS
    """Who may have issued a token."""
    certificates_url: str = GOOGLE_CERTIFICATES
    """Where the issuer's certificates are; they are kept as long as its cache-control says."""
    admin: bool = True
    """POST /admin/reload answers; off where anybody could call it."""
    cors_origins: tuple[str, ...] = ()
    """Web pages that may call from a browser. Empty: none."""

    journal: str = field(default="", metadata=config.SECRET)
    """Every decision is in this journal before it is answered: an SQLite file, or postgresql://user@host/database."""
    journal_wait_s: float = 2.0
    """An answer that the journal has not taken by then is a 503."""
    journal_queue: int = 1_024
    """Answers that may wait for the journal; one more is a 503."""

    challenger: str = ""
    """A second bundle or alias, for `challenger_share`."""
    challenger_share: float = 0.0
    """Share of clients that the challenger answers, always the same ones; 0: it decides in the shadow."""

    access_log: bool = False
    """One line of JSON for every request: method, path, status, time, client and request id."""
    log_every: int = 0
    """One structured log line for every so many answers; 0: none."""
    metrics_port: int = 0
    """A second port with GET /metrics alone, of this machine alone and without a key; 0: none."""
    vertex_health_route: str = field(default="", metadata={"env": "AIP_HEALTH_ROUTE"})
    """Vertex AI's AIP_HEALTH_ROUTE: answers as GET /ready."""
    vertex_predict_route: str = field(default="", metadata={"env": "AIP_PREDICT_ROUTE"})
    """Vertex AI's AIP_PREDICT_ROUTE: answers as POST /v1/batch."""

    def __post_init__(self) -> None:
        if self.gap_rule and self.gap_rule not in GAP_RULES:
            raise ConfigError(f"gap_rule is {self.gap_rule!r}", "reset or advance", "unset it to let the manifest say")
        if not self.max_bar_age_s >= 0.0:
            raise ConfigError(f"max_bar_age_s is {self.max_bar_age_s}", "seconds, or 0 for no limit", "set it to 0")
        if not (self.journal_wait_s > 0.0 and self.journal_queue > 0):
            found = f"journal_wait_s is {self.journal_wait_s} and journal_queue {self.journal_queue}"
            raise ConfigError(found, "seconds and requests above 0", "leave them out")
        if not 0.0 <= self.challenger_share < 1.0:
            raise ConfigError(f"challenger_share is {self.challenger_share}", "at least 0 and below 1", "0 is a shadow")
        if self.challenger_share and not self.challenger:
            raise ConfigError("there is a challenger_share and no challenger", "a bundle or alias", "name a challenger")
        for key in self.api_keys:  # never said: a log may have more readers than a secret
            if not key or key != key.strip() or not key.isascii() or not key.isprintable():
                raise ConfigError(
                    "an API key is empty, or has blanks around it or letters that no header carries", "text"
                )
        if len(set(self.api_keys)) != len(self.api_keys):
            raise ConfigError("an API key is there twice", "each once", "drop one of them")
        if not self.certificates_url.startswith(("https://", "http://")):  # urllib would open a file: as well
            raise ConfigError(
                f"certificates_url is {self.certificates_url}", "an https:// address", "name the issuer's certificates"
            )
        if bool(self.audience) != bool(self.emails):
            raise ConfigError(
                "ID tokens need an audience and the e-mails that may use them", "both or none", "set both"
            )

    @property
    def guarded(self) -> bool:
        """Whether a client must show something."""
        return bool(self.api_keys or self.audience)


def from_environment(environment: Mapping[str, str] | None = None) -> dict[str, Any]:
    """The settings that a container's environment gives, as arguments of ServeSettings.

    HIMARI_<FIELD> for every field, for example HIMARI_LOG_EVERY; lists have commas. AIP_HEALTH_ROUTE and
    AIP_PREDICT_ROUTE as Vertex AI sets them.

    Raises:
        ConfigError: a number is none.
    """
    given = config.from_environment(ServeSettings, SECTION, os.environ if environment is None else environment)
    found = config.resolve({SECTION: ServeSettings}, given).settings
    return {one.key.removeprefix(f"{SECTION}."): found[one.key].value for one in given}


def bare(host: str) -> str:
    """A host without the brackets that an IPv6 address has in a URL."""
    return host[1:-1] if host.startswith("[") and host.endswith("]") else host


LOOPBACK = ("127.", "::1", "localhost")


def check_exposure(host: str, settings: ServeSettings, allow_anonymous: bool) -> bool:
    """Whether /admin may answer on `host`: where a client shows a key, or nobody else can reach it.

    Raises:
        ConfigError: other machines could call without showing anything, and nobody said that they may.
    """
    local = bare(host).startswith(LOOPBACK)
    if not local and not settings.guarded and not allow_anonymous:
        raise ConfigError(
            f"{host} can be reached from other machines and no client must show a key",
            "HIMARI_API_KEYS, or HIMARI_AUDIENCE with HIMARI_EMAILS",
            "set them, or say --allow-anonymous (HIMARI_ALLOW_ANONYMOUS=1) where something in front checks clients",
        )
    return local or settings.guarded
