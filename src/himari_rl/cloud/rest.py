"""Google's REST APIs by google-auth's session: Cloud Run jobs, dashboards, alerts and log-based metrics."""

from __future__ import annotations

from typing import Any

from himari_rl.cloud.config import CloudConfig
from himari_rl.cloud.patience import LostAnswerError, SoldOutError
from himari_rl.errors import CloudError, not_installed

_SCOPE = "https://www.googleapis.com/auth/cloud-platform"
_UNSURE = (500, 502, 503, 504)


class ConflictingError(CloudError):
    """The resource exists already, or has changed since it was read."""


class RestApi:
    """One host's JSON calls; each is asked once, and what may be repeated is the caller's to say."""

    def __init__(self, cloud: CloudConfig, host: str, call_s: float = 60.0) -> None:
        try:
            import requests
        except ImportError as error:
            raise not_installed(f"a call to {host}", error, "gcp") from error
        self._errors = requests.RequestException
        self._call_s = call_s
        if cloud.rest_endpoint:
            self.base = cloud.rest_endpoint.rstrip("/")
            self._session: Any = requests.Session()
            return
        from google.auth import default
        from google.auth.exceptions import DefaultCredentialsError
        from google.auth.transport.requests import AuthorizedSession

        self.base = f"https://{host}"
        try:
            credentials, _ = default(scopes=[_SCOPE])
        except DefaultCredentialsError as error:
            raise CloudError(
                f"no credentials for {host}", "", "gcloud auth application-default login, or a service account"
            ) from error
        self._session = AuthorizedSession(credentials)  # type: ignore[no-untyped-call]  # google-auth has no types here

    def call(self, method: str, path: str, body: Any = None, **query: str) -> dict[str, Any] | None:
        """The answer's JSON; None where a GET finds nothing.

        Raises:
            LostAnswerError: nothing tells whether it was carried out. SoldOutError: no quota.
            ConflictingError: it exists already. CloudError: anything else that is refused.
        """
        what = f"{method} {path}"
        try:
            answer = self._session.request(
                method, f"{self.base}/{path}", json=body, params=query or None, timeout=self._call_s
            )
        except self._errors as error:
            raise LostAnswerError(f"{what}: {type(error).__name__}", "", "try again") from error
        if answer.status_code == 404 and method == "GET":
            return None
        if answer.ok:
            return dict(answer.json()) if answer.content else {}
        said = f"{what}: HTTP {answer.status_code} {_reason(answer)}"
        if answer.status_code == 429:
            raise SoldOutError(said, "", "another region, a larger quota, or a later hour")
        if answer.status_code in _UNSURE:
            raise LostAnswerError(said, "", "try again")
        if answer.status_code in (409, 412):
            raise ConflictingError(said, "", "try again")
        raise CloudError(said, "", "see the project's permissions and settings")

    def pages(self, path: str, field: str, **query: str) -> list[dict[str, Any]]:
        """Every item of a listing, page after page."""
        found: list[dict[str, Any]] = []
        token = ""  # nosec B105 - none is known yet
        while True:
            answer = self.call("GET", path, **query, **({"pageToken": token} if token else {})) or {}
            found += answer.get(field, [])
            token = str(answer.get("nextPageToken", ""))
            if not token:
                return found


def _reason(answer: Any) -> str:
    try:
        return str(answer.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return " ".join(answer.text.split())[:200]
