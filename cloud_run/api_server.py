"""The server for Cloud Run: himari_rl.serving with settings from the environment.

    MODEL_PATH=runs/mine/bundle python cloud_run/api_server.py

MODEL_PATH          folder of the policy bundle (required)
PORT                8080 unless Cloud Run says otherwise
HOST                0.0.0.0
HIMARI_MEMORY_KEY   signs the memory of recurrent policies; the same on every instance
"""

from __future__ import annotations

import os
import sys

from himari_rl.errors import ConfigError, HimariError
from himari_rl.serving.app import create_app
from himari_rl.serving.run import listen, serve
from himari_rl.serving.settings import ServeSettings


def main() -> int:
    """Serves until SIGTERM. A bundle that does not load yet is a 503 with the reason, not an exit."""
    try:
        bundle, port = os.environ.get("MODEL_PATH", ""), os.environ.get("PORT", "8080")
        if not bundle:
            raise ConfigError(
                "MODEL_PATH is not set", "the folder of a policy bundle", "set MODEL_PATH and start again"
            )
        if not port.isascii() or not port.isdigit():
            raise ConfigError(f"PORT is {port!r}", "a number", "unset PORT or set it to 8080")
        settings = ServeSettings(memory_key=os.environ.get("HIMARI_MEMORY_KEY", "").encode())
        serve(create_app(bundle, settings), listen(os.environ.get("HOST", "0.0.0.0"), int(port)))
    except HimariError as error:
        sys.stderr.write(f"api_server: {error}\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
