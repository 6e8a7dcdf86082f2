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
from himari_rl.serving.settings import ServeSettings

_KNOWN = 1_000  # verified tokens that are remembered until they expire
_FETCH_S, _AT_LEAST_S, _SKEW_S = 5.0, 60.0, 10
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
        shown = b""
        for name, value in headers:
            if name == b"x-api-key":
                shown = value
                break
            if name == b"authorization" and value[:7].lower() == b"bearer ":
                shown = value[7:].strip()
        if not shown:
            raise UnauthorisedError("the request shows no key", "one", _CURE)
        digest = hashlib.sha256(shown).digest()
        found = False
        for key in self._keys:  # all of them: the time must not tell which one was nearly right
            found |= hmac.compare_digest(key, digest)
        if found:
            return digest.hex()[:12]
        if self._tokens is None or shown.count(b".") != 2:
            raise UnauthorisedError("the key is not one of this server's", "a valid key", _CURE)
        return await self._tokens.email(shown.decode("latin-1"), digest)


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
        self._fetching = asyncio.Lock()

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
            raise ForbiddenError(f"{email or 'nobody'} may not use this server", "a listed e-mail", "ask its owner")
        if len(self._known) >= _KNOWN:
            self._known.clear()
        self._known[digest] = (float(claims["exp"]), email)
        return email

    def _claims(self, token: str, certificates: dict[str, str]) -> dict[str, Any]:
        from google.auth.exceptions import GoogleAuthError

        try:
            return self._decode(
                token, certs=certificates, audience=self._settings.audience, clock_skew_in_seconds=_SKEW_S
            )
        except (ValueError, TypeError, KeyError, GoogleAuthError) as error:
            reason = " ".join(str(error).split())[:100]
            raise UnauthorisedError(f"the ID token is refused: {reason}", "a valid one", _CURE) from error

    async def _keys(self, token: str) -> dict[str, str]:
        """The certificates; fetched where they are stale, or where the token names one that is new."""
        now = monotonic()
        unknown = _key_id(token) not in self._certificates
        if now < self._fresh_until and not (unknown and now > self._fetched + _AT_LEAST_S):
            return self._certificates
        async with self._fetching:
            if self._fetched < now:
                await self._fetch()
        return self._certificates

    async def _fetch(self) -> None:
        url = self._settings.certificates_url
        try:
            found, seconds = await asyncio.to_thread(_download, url)
        except (OSError, ValueError) as error:
            if not self._certificates:  # those of an hour ago are still the issuer's
                raise NotReadyError(f"the certificates at {url} cannot be had: {error}", cure="try again") from error
            seconds = _AT_LEAST_S
        else:
            self._certificates = found
        self._fetched = monotonic()
        self._fresh_until = self._fetched + max(seconds, _AT_LEAST_S)


def _key_id(token: str) -> str:
    """The key that signed the token, as its header says; empty for what is no token."""
    from google.auth import jwt
    from google.auth.exceptions import GoogleAuthError

    try:
        return str(jwt.decode_header(token).get("kid", ""))  # type: ignore[no-untyped-call]
    except (ValueError, TypeError, AttributeError, GoogleAuthError):
        return ""


def _download(url: str) -> tuple[dict[str, str], float]:
    """Certificates by key id, and for how many seconds they hold."""
    with urllib.request.urlopen(url, timeout=_FETCH_S) as response:
        document = json.loads(response.read())
        age = re.search(r"max-age=(\d+)", response.headers.get("cache-control", ""))
    if not isinstance(document, dict) or not document:
        raise ValueError("no certificates there")
    return {str(name): str(pem) for name, pem in document.items()}, float(age[1]) if age else 0.0
