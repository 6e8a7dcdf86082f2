"""The server for Cloud Run and Vertex AI: himari_rl.serving with settings from the environment.

    MODEL_PATH=runs/mine/bundle HOST=127.0.0.1 python cloud_run/api_server.py

MODEL_PATH                       a bundle's folder or an alias (.json), local or gs:// (else AIP_STORAGE_URI)
PORT                             8080 unless Cloud Run (PORT) or Vertex AI (AIP_HTTP_PORT) says otherwise
HOST                             0.0.0.0
HIMARI_API_KEYS                  keys, with commas; any one in x-api-key or as bearer token
HIMARI_AUDIENCE, HIMARI_EMAILS   Google-signed ID tokens for this audience, of these e-mails
HIMARI_ALLOW_ANONYMOUS=1         no key: something in front (Cloud Run's IAM, Vertex AI) checks the clients
HIMARI_MEMORY_KEY                signs the memory of recurrent policies; the same on every instance
HIMARI_SIGNER                    PEM file of the Ed25519 public key that bundles must be signed with
HIMARI_ACCESS_LOG=1              one line of JSON for every request
HIMARI_TURBO=0                   no shortcut within uvicorn's parser: the same bytes from plain ASGI
HIMARI_<FIELD>                   any other field of himari_rl/serving/settings.py: `himari config show serve`
"""

from __future__ import annotations

import gc
import os
import sys
from dataclasses import replace


def main() -> int:
    """Serves until SIGTERM. A bundle that does not load yet is a 503 with the reason, not an exit.

    Says on stderr what it serves and where, one line of JSON when it listens and one when the policy is there.
    """
    gc.disable()  # until `serve`: see there
    from himari_rl.errors import ConfigError, HimariError
    from himari_rl.serving.http.app import create_app
    from himari_rl.serving.http.run import listen, serve, url_of
    from himari_rl.serving.settings import ServeSettings, check_exposure, from_environment

    env = os.environ
    try:
        source = env.get("MODEL_PATH") or env.get("AIP_STORAGE_URI", "")
        port = env.get("AIP_HTTP_PORT") or env.get("PORT", "8080")
        host = env.get("HOST", "0.0.0.0")  # nosec B104
        if not source:
            raise ConfigError(
                "MODEL_PATH is not set", "a policy bundle's folder or an alias", "set MODEL_PATH and start again"
            )
        if not port.isascii() or not port.isdigit():
            raise ConfigError(f"PORT is {port!r}", "a number", "unset PORT or set it to 8080")
        settings = ServeSettings(**from_environment(env))
        admin = check_exposure(host, settings, env.get("HIMARI_ALLOW_ANONYMOUS") == "1") and settings.admin
        app, sock = create_app(source, replace(settings, admin=admin)), listen(host, int(port))
        app.state.service.announce(url_of(host, sock))
        serve(app, sock)
    except HimariError as error:
        sys.stderr.write(f"api_server: {error}\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
