"""Who may call: API keys, compared in constant time, and Google-signed ID tokens of people on a list.

google-auth proves the signature, the audience and the times of a token; it does not ask who issued it or to whom, so
both are checked here. Certificates are fetched once and kept as long as their issuer says.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import re
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable
from time import monotonic, time
from typing import Any

from himari_rl.errors import ConfigError
from himari_rl.serving.errors import NotReadyError
from himari_rl.serving.http.refusals import ForbiddenError, UnauthorisedError
from himari_rl.serving.jobs import in_daemon, said
from himari_rl.serving.settings import ServeSettings

_KNOWN = 1_000  # verified tokens that are remembered until they expire
_FETCH_S, _AT_LEAST_S, _SKEW_S = 5.0, 60.0, 10
_MOST_WAITING = 64  # requests that wait for certificates; the next ones are a 503 at once
_LONGEST = 16_384  # bytes of a token
_BLANKS = b" \t"  # around a header's value they are none of it (RFC 9110, 5.5)
_CURE = "send x-api-key, or authorization: Bearer with a key or an ID token"


class Guard:
    """Lets a request in, or raises."""

    def __init__(self, settings: ServeSettings) -> None:
        self._keys = [hashlib.sha256(key.encode()).digest() for key in settings.api_keys]
        self._tokens = Tokens(settings) if settings.audience else None

    async def __call__(self, headers: Iterable[tuple[bytes, bytes]]) -> str:
        """The name of the client: the start of its key's digest, or its e-mail.

        Raises:
            UnauthorisedError: nothing that this server accepts was shown.
            ForbiddenError: a valid token of somebody who is not on the list.
            NotReadyError: the issuer's certificates cannot be had.
        """
        keys, bearers = [], []
        for name, value in headers:
            if name == b"x-api-key":
                keys.append(value)
            elif name == b"authorization":
                bearers.append(value)
        if len(keys) > 1 or len(bearers) > 1:  # a proxy may look at the one and this server at the other
            raise UnauthorisedError("the request shows two keys", "one", _CURE)
        shown = b""
        if keys:
            shown = keys[0].strip(_BLANKS)
        elif bearers and bearers[0][:7].lower() == b"bearer ":
            shown = bearers[0][7:].strip(_BLANKS)
        if not shown:
            raise UnauthorisedError("the request shows no key", "one", _CURE)
        digest = hashlib.sha256(shown).digest()
        found = False
        for key in self._keys:  # all of them: the time must not tell which one was nearly right
            found |= hmac.compare_digest(key, digest)
        if found:
            return digest.hex()[:12]
        if self._tokens is None or len(shown) > _LONGEST or shown.count(b".") != 2:
            raise UnauthorisedError("the key is not one of this server's", "a valid key", _CURE)
        return await self._tokens.email(shown.decode("latin-1"), digest)

    @property
    def waiting(self) -> int:
        """Requests that wait for the issuer's certificates."""
        return self._tokens.waiting if self._tokens else 0


class Tokens:
    """ID tokens of one audience."""

    def __init__(self, settings: ServeSettings) -> None:
        try:
            from google.auth import jwt
        except ImportError as error:
            raise ConfigError("ID tokens need google-auth", cure="pip install google-auth") from error
        self._decode: Callable[..., dict[str, Any]] = jwt.decode
        self._settings = settings
        self._known: dict[bytes, tuple[float, str]] = {}
        self._certificates: dict[str, str] = {}
        self._fresh_until = self._fetched = -_AT_LEAST_S
        self._fetching: asyncio.Task[None] | None = None
        self._failure = ""  # of the last fetch
        self.waiting = 0

    async def email(self, token: str, digest: bytes) -> str:
        """Whose token it is.

        Raises:
            as Guard.
        """
        known = self._known.get(digest)
        if known is not None and known[0] > time():
            return known[1]
        claims = self._claims(token, await self._keys(token))
        if claims.get("iss") not in self._settings.issuers:
            raise UnauthorisedError("the token has another issuer", " or ".join(self._settings.issuers), _CURE)
        email = str(claims.get("email", ""))
        if claims.get("email_verified") is not True or email not in self._settings.emails:
            raise ForbiddenError(
                f"{email[:100] or 'nobody'} may not use this server", "a listed e-mail", "ask its owner"
            )
        if len(self._known) >= _KNOWN:
            self._known.clear()
        self._known[digest] = (claims["exp"], email)
        return email

    def _claims(self, token: str, certificates: dict[str, str]) -> dict[str, Any]:
        try:
            claims = self._decode(
                token, certs=certificates, audience=self._settings.audience, clock_skew_in_seconds=_SKEW_S
            )
            if not isinstance(claims, dict) or not isinstance(claims.get("iss"), str):
                claims = {"iss": ""}
            claims["exp"] = float(claims.get("exp", 0.0))
        except Exception as error:  # a token is anybody's text: whatever its parsers raise, it is no key of ours
            reason = " ".join(str(error).split())[:100] or type(error).__name__
            raise UnauthorisedError(f"the ID token is refused: {reason}", "a valid one", _CURE) from error
        return claims

    async def _keys(self, token: str) -> dict[str, str]:
        """The certificates; fetched where they are stale, or where the token names one that is new.

        Whose certificate is there does not wait for fresher ones; who waits holds no place (ConcurrencyLimit).

        Raises:
            NotReadyError: there are none, or too many wait for them.
        """
        now = monotonic()
        known = _key_id(token) in self._certificates
        if now < self._fresh_until and (known or now <= self._fetched + _AT_LEAST_S):
            return self._certificates
        if self._fetching is None or self._fetching.done():
            self._fetching = asyncio.create_task(self._fetch())
        if known:
            return self._certificates
        if self.waiting >= _MOST_WAITING:
            raise NotReadyError(f"{self.waiting} requests wait for the issuer's certificates", cure="try again")
        self.waiting += 1
        try:
            await asyncio.shield(self._fetching)
        finally:
            self.waiting -= 1
        if not self._certificates:
            raise NotReadyError(self._failure, cure="try again")
        return self._certificates

    async def _fetch(self) -> None:
        url = self._settings.certificates_url
        try:
            found, seconds = await in_daemon(lambda: _download(url))
        except Exception as error:  # noqa: BLE001  # yesterday's are still the issuer's; where there are none, it is said
            self._failure = f"the certificates at {url} cannot be had: {said(error)}"
            seconds = _AT_LEAST_S
            if not self._certificates:
                return
        else:
            self._certificates = found
        self._fetched = monotonic()
        self._fresh_until = self._fetched + max(seconds, _AT_LEAST_S)


def _key_id(token: str) -> str:
    """The key that signed the token, as its header says; empty for what is no token."""
    from google.auth import jwt

    try:
        return str(jwt.decode_header(token).get("kid", ""))  # type: ignore[no-untyped-call]
    except Exception:  # noqa: BLE001  # `_claims` says what is wrong with it
        return ""


def _download(url: str) -> tuple[dict[str, str], float]:
    """Certificates by key id, and for how many seconds they hold."""
    try:
        response = urllib.request.urlopen(url, timeout=_FETCH_S)  # nosec B310 - settings take http and https alone
    except urllib.error.HTTPError as error:
        with error:  # it holds the connection
            raise ValueError(f"status {error.code}") from None
    with response:
        document = json.loads(response.read())
        age = re.search(r"max-age=(\d+)", response.headers.get("cache-control", ""))
    if not isinstance(document, dict) or not document:
        raise ValueError("no certificates there")
    return {str(name): str(pem) for name, pem in document.items()}, float(age[1]) if age else 0.0
