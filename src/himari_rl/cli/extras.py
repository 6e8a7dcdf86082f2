"""A package that is not installed, as one line with the pip command that installs it."""

from __future__ import annotations

from collections.abc import Sequence

EXTRAS = {
    "data": ("ccxt", "pandas", "pyarrow", "rich", "scipy", "tenacity"),
    "train": ("gymnasium", "tensorboard", "torch"),
    "judge": ("jinja2", "optuna", "skfolio", "sqlalchemy"),
    "serve": ("fastapi", "httptools", "orjson", "prometheus_client", "starlette", "uvicorn"),
    "fast": ("uvloop",),
    "client": ("httpx",),
    "postgres": ("psycopg",),
    "sign": ("cryptography",),
    "onnx": ("onnx", "onnxruntime"),
    "gcs": ("google",),
    "cluster": ("dask", "distributed"),
}
"""Extra of pyproject.toml -> the packages it brings."""


INCLUDES = {"train": ("data",)}
WHOLE = {
    "train": ("train",),
    "certify": ("train",),
    "tune": ("train", "judge"),
    "walk-forward": ("train", "judge"),
    "evaluate": ("train", "judge"),
    "demo": ("train", "judge", "serve"),
    "run": ("client",),
    "ab": ("client",),
}
"""Command -> every extra that it uses, so that nobody is sent to pip twice."""


def missing_extra(error: ModuleNotFoundError, argv: Sequence[str]) -> str:
    """One line for a package that some extra brings; empty for any other module, whose absence is a bug."""
    package = (error.name or "").partition(".")[0]
    extra = next((extra for extra, packages in EXTRAS.items() if package in packages), None)
    if extra is None:
        return ""
    command = next((word for word in argv if not word.startswith("-")), "")
    whole = WHOLE.get(command, ())
    brings = {part for each in whole for part in (each, *INCLUDES.get(each, ()))}
    asked = ",".join(whole if extra in brings else (*whole, extra))
    return f"himari {command} needs {package}, which is not installed; pip install 'himari-rl[{asked}]'"
