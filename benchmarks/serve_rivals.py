"""The servers that benchmarks/serve.py compares, one a process: python benchmarks/serve_rivals.py NAME PORT [SOURCE]

floor   an ASGI app of three lines            noop      FastAPI with a body model and no work
torch   the usual way: torch in a FastAPI route, a BaseHTTPMiddleware that logs every request
ours    himari_rl.serving                     ours-gcs  the same with google-cloud-storage loaded
ours-asgi  the same as an ASGI app alone, without serving/http/protocol.py
"""

from __future__ import annotations

import logging
import sys
import time
from typing import Any

ANSWER = b'{"position_multiplier":1.0,"confidence":0.8,"latency_ms":0.01,"model_version":"base-000000000000"}'


async def floor(scope: Any, receive: Any, send: Any) -> None:
    """What any answer costs here."""
    if scope["type"] != "http":
        return
    await receive()
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(ANSWER))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": ANSWER})


def noop() -> Any:
    """FastAPI's own price."""
    from fastapi import FastAPI
    from pydantic import BaseModel

    class Request(BaseModel):
        state: list[float]

    app = FastAPI()

    async def predict(request: Request) -> dict[str, Any]:
        return {"position_multiplier": 1.0, "confidence": 0.8, "latency_ms": 0.01, "model_version": "base"}

    predict.__annotations__["request"] = Request
    app.post("/predict")(predict)
    return app


def torch_style() -> Any:
    """torch inside the route, every request through a middleware and a log line."""
    import torch
    from fastapi import FastAPI, HTTPException, Request
    from pydantic import BaseModel

    torch.set_num_threads(1)
    layers = [torch.nn.Linear(16, 128), torch.nn.Tanh(), torch.nn.Linear(128, 128), torch.nn.Tanh()]
    network = torch.nn.Sequential(*layers, torch.nn.Linear(128, 2))
    logging.basicConfig(filename="/dev/null", level=logging.INFO)
    log = logging.getLogger("requests")

    class State(BaseModel):
        state: list[float]

    app = FastAPI()

    async def logged(request: Request, call_next: Any) -> Any:
        start = time.time()
        response = await call_next(request)
        log.info(
            "%s %s %s %.1f ms", request.method, request.url.path, response.status_code, (time.time() - start) * 1e3
        )
        return response

    async def predict(request: State) -> dict[str, Any]:
        start = time.time()
        if len(request.state) != 16:
            raise HTTPException(400, "state must have 16 numbers")
        with torch.no_grad():
            mean, _ = network(torch.tensor(request.state, dtype=torch.float32).unsqueeze(0))[0]
            multiplier = torch.clamp(1 + torch.tanh(mean), 0, 2).item()
        return {
            "position_multiplier": multiplier,
            "confidence": 0.8,
            "latency_ms": (time.time() - start) * 1e3,
            "model_version": "base",
        }

    predict.__annotations__["request"] = State
    app.post("/predict")(predict)
    app.middleware("http")(logged)
    return app


def main() -> None:
    name, port, *source = sys.argv[1:]
    if name.startswith("ours"):
        if name == "ours-gcs":
            # tensorboard brings grpc to a development environment; the container that serves has none
            sys.modules["grpc"] = None  # type: ignore[assignment]
            from google.cloud import storage  # noqa: F401
        from himari_rl.serving.http.app import create_app
        from himari_rl.serving.http.run import listen, make_server, serve
        from himari_rl.serving.settings import ServeSettings

        app, sock = (
            create_app(source[0], ServeSettings(reload_s=0.2, other_contracts=name == "ours-gcs")),
            listen("127.0.0.1", int(port)),
        )
        if name == "ours-asgi":
            server = make_server(app)
            server.config.http = "httptools"
            server.run(sockets=[sock])
        else:
            serve(app, sock)
        return
    import uvicorn

    app = {"floor": lambda: floor, "noop": noop, "torch": torch_style}[name]()
    lifespan = "off" if name == "floor" else "on"
    uvicorn.run(
        app, port=int(port), loop="uvloop", http="httptools", access_log=False, log_level="warning", lifespan=lifespan
    )


if __name__ == "__main__":
    main()
