"""schemathesis over every route: whatever is sent, no 5xx, no undocumented status, and answers as documented."""

from __future__ import annotations

import contextlib
import os
import warnings
from pathlib import Path

import pytest
from fastapi import Response
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable

from helpers.bundle import make_bundle
from helpers.serving import running
from himari_rl.serving.http.app import create_app
from himari_rl.serving.http.routes import ENDPOINTS
from himari_rl.serving.settings import ServeSettings

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import schemathesis
    from schemathesis.checks import not_a_server_error
    from schemathesis.core.failures import FailureGroup
    from schemathesis.generation import GenerationMode
    from schemathesis.specs.openapi.checks import (
        content_type_conformance,
        response_schema_conformance,
        status_code_conformance,
    )

CHECKS = (not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance)


EXAMPLES = int(os.environ.get("HIMARI_SCHEMA_EXAMPLES", "5"))  # for each route and kind of data; more by hand
ROUTES = {endpoint for endpoint in ENDPOINTS if endpoint != "GET /docs"}


@pytest.mark.parametrize("kind", ["base", "lstm", "multi"])
def test_whatever_is_sent_the_answer_is_a_documented_one(tmp_path: Path, kind: str) -> None:
    folder = make_bundle(tmp_path, kind, hidden=(4,))
    tried = set()
    with running(create_app(folder, ServeSettings(max_sessions=20, reload_s=60))) as client:
        schema = schemathesis.openapi.from_url(f"{client.base_url}/openapi.json")
        for found in schema.get_all_operations():
            operation = found.ok()
            tried.add(operation.label)
            for mode in GenerationMode:

                @settings(
                    max_examples=2 if operation.method == "get" else EXAMPLES,
                    deadline=None,
                    derandomize=True,
                    database=None,
                    suppress_health_check=list(HealthCheck),
                    phases=(Phase.explicit, Phase.generate),
                )
                @given(operation.as_strategy(generation_mode=mode))
                def check(case: schemathesis.Case) -> None:
                    response = case.call(session=None, timeout=60)
                    case.validate_response(response, checks=CHECKS)

                with contextlib.suppress(Unsatisfiable):  # a route without parameters has nothing to get wrong
                    check()
    assert tried == ROUTES


def test_the_checks_find_a_planted_500_and_a_status_that_is_not_documented(tmp_path: Path) -> None:
    """The control."""
    app = create_app(make_bundle(tmp_path, hidden=(4,)))

    @app.get("/planted/{status}", response_model=None)
    async def planted(status: int) -> Response:
        return Response(status_code=status)

    with running(app) as client:
        schema = schemathesis.openapi.from_url(f"{client.base_url}/openapi.json")
        operation = schema["/planted/{status}"]["GET"]
        for status in (500, 418):
            case = operation.Case(path_parameters={"status": status})
            with pytest.raises(FailureGroup):
                case.validate_response(case.call(), checks=CHECKS)
