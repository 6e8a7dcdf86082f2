"""What a client shows a server: an API key, or a Google-signed ID token that is renewed before it ends."""

from __future__ import annotations

import base64
import json
import math
import threading
from collections.abc import Callable, Mapping
from time import monotonic, time
from urllib.parse import quote
from urllib.request import Request, urlopen

from himari_rl.errors import ConfigError

METADATA = "http://metadata.google.internal/computeMetadata/v1/instance/service-accounts/default/identity"
EARLY_S = 300.0  # before its end a token is renewed
FETCH_S = 5.0


def fetched(audience: str) -> str:
    """A token from Google's metadata server, which every machine of Google Cloud has.

    Raises:
        ConfigError: there is no such server.
    """
    request = Request(f"{METADATA}?audience={quote(audience, safe='')}", headers={"Metadata-Flavor": "Google"})
    try:
        with urlopen(request, timeout=FETCH_S) as response:  # nosec B310 - METADATA is http
            token: str = response.read().decode().strip()
    except OSError as error:
        raise ConfigError(
            f"no ID token for {audience}: {error}", "Google's metadata server", "run on Google Cloud, or use an api_key"
        ) from error
    return token


def expiry(token: str) -> float:
    """When a token ends, in seconds since 1970, as it says itself; 0 where it says nothing."""
    return _claim(token, "exp")


def lifetime_s(token: str) -> float:
    """How long it is good for from its issue on, as it says itself; infinite where it says nothing."""
    issued = _claim(token, "iat")
    return expiry(token) - issued if issued else math.inf


def _claim(token: str, name: str) -> float:
    try:
        payload = token.split(".")[1]
        return float(json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))[name])
    except (IndexError, KeyError, ValueError, TypeError):
        return 0.0


class Credentials:
    """The headers of every question. A token is renewed in the background: no decision waits for it."""

    def __init__(self, api_key: str, audience: str, fetch: Callable[[str], str] = fetched) -> None:
        self._key, self._audience, self._fetch = api_key, audience, fetch
        self._token, self._ends = "", 0.0
        self._until = 0.0  # monotonic: the wall clock may be set back, and a token ends all the same
        self._renewing = threading.Lock()

    def begin(self) -> None:
        """Fetches the first token.

        Raises:
            ConfigError: there is none.
        """
        if self._audience:
            self._renew()

    def headers(self) -> Mapping[str, str]:
        """What to show now."""
        if self._key:
            return {"x-api-key": self._key}
        if not self._audience:
            return {}
        over = time() > self._ends - EARLY_S or monotonic() > self._until - EARLY_S
        if over and self._renewing.acquire(blocking=False):
            threading.Thread(target=self._renew_quietly, daemon=True).start()
        return {"authorization": f"Bearer {self._token}"}

    def _renew(self) -> None:
        token = self._fetch(self._audience)
        self._token, self._ends, self._until = token, expiry(token), monotonic() + lifetime_s(token)

    def _renew_quietly(self) -> None:
        try:
            self._renew()
        except ConfigError:  # the next question tries again; the server says 401 meanwhile, which is counted
            return
        finally:
            self._renewing.release()
