"""A part of a manifest: strict and frozen, so that an unknown field or a number where a string belongs is refused."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class ManifestPart(BaseModel):
    """The base of every section of a manifest."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)
