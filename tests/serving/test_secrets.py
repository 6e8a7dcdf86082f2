"""Keys, tokens and memory keys are planted wherever they may stand, and looked for in all that the server says."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from helpers import PATIENCE_S, ROOT
from helpers.bundle import make_bundle
from helpers.serving import cloud_run_server
from himari_rl.serving.messages import EXAMPLE_STATE

PLANTED = "planted-secret"
GOOD, WRONG, MEMORY = f"{PLANTED}-good-key", f"{PLANTED}-wrong-key", f"{PLANTED}-memory-key-of-32-bytes"
SEEN = "an-id-that-is-written-down"


def asked(client: httpx.Client) -> list[httpx.Response]:
    """Answers to requests that show a secret where one belongs, and where none does."""
    body = {"state": EXAMPLE_STATE}
    found = [client.get(path) for path in ("/", "/health", "/ready", "/metrics", "/docs", "/openapi.json")]
    for key in (GOOD, WRONG):
        for headers in (
            {"x-api-key": key},
            {"authorization": f"Bearer {key}"},
            {"authorization": f"Basic {key}"},
            {"authorization": key},
            {"x-api-key": key, "x-request-id": SEEN},
            {"cookie": f"key={key}"},
        ):
            found += [client.get(path, headers=headers) for path in ("/", "/ready", "/metrics", f"/?key={key}")]
            found += [client.post("/predict", json=body, headers=headers, params={"key": key})]
            for wrong in (
                b"",
                b"{",
                b"[1]",
                b'{"state": [1]}',
                b'{"instances": []}',
            ):
                for path in ("/predict", "/v1/batch", "/v1/decide", "/admin/reload"):
                    found.append(client.post(path, content=wrong, headers=headers))
    found.append(client.post("/predict", json=body, headers=[("x-api-key", GOOD), ("x-api-key", WRONG)]))
    return found


def test_no_secret_is_in_any_line_or_answer_of_the_server(tmp_path: Path) -> None:
    """The control: an id that may be written down is found by the same search, in lines and in answers."""
    folder = make_bundle(tmp_path, "lstm", hidden=(4,))
    settings = {"HIMARI_API_KEYS": f"{GOOD},{PLANTED}-other-key", "HIMARI_MEMORY_KEY": MEMORY}
    settings |= {"HIMARI_ACCESS_LOG": "true", "HIMARI_LOG_EVERY": "1"}
    with cloud_run_server(folder, **settings) as (process, client):
        answers = asked(client)
        (folder / "manifest.json").write_text("{}")  # what is refused later is said, too
        refused = client.post("/admin/reload", headers={"x-api-key": GOOD})
        process.terminate()
        lines = "".join(process.communicate(timeout=PATIENCE_S))
    statuses = {answer.status_code for answer in answers}
    assert {200, 401, 422} <= statuses
    assert 500 not in statuses
    assert refused.status_code >= 400
    said = "".join(f"{answer.headers}{answer.text}" for answer in (*answers, refused))
    for text in (lines, said):
        assert SEEN in text
        assert PLANTED not in text, text[max(0, text.index(PLANTED) - 200) :][:400]


@pytest.mark.parametrize(
    "settings",
    [
        {"HIMARI_API_KEYS": f"{GOOD},{GOOD}"},
        {"HIMARI_API_KEYS": f"{GOOD} x,\tb", "HIMARI_MAX_SESSIONS": "many"},
        {"HIMARI_API_KEYS": GOOD, "HIMARI_MEMORY_KEY": MEMORY, "HIMARI_CHALLENGER_SHARE": "7"},
    ],
)
def test_no_secret_is_in_what_a_start_that_is_refused_says(tmp_path: Path, settings: dict[str, str]) -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "cloud_run" / "api_server.py")],
        env=os.environ | {"MODEL_PATH": str(tmp_path), "PORT": "0", "HOST": "127.0.0.1"} | settings,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    assert done.returncode not in (0, None)
    assert "expected" in done.stdout + done.stderr
    assert PLANTED not in done.stdout + done.stderr
