"""Every private part of uvicorn that http/protocol.py and http/upgrade.py rely on, by name: it fails where one changes.

Then read uvicorn's protocols/http/httptools_impl.py again beside the two, mend what must be, write the new facts down
here and move the upper bound in pyproject.toml; HIMARI_TURBO=0 serves without protocol.py meanwhile.
"""

from __future__ import annotations

import ast
import asyncio
import inspect
import tomllib
from importlib.metadata import version
from typing import Any, NamedTuple

import pytest
import uvicorn
from httptools import HttpRequestParser
from packaging.requirements import Requirement
from uvicorn.protocols.http import flow_control, httptools_impl
from uvicorn.server import ServerState

from helpers import ROOT
from himari_rl.serving.http import protocol


class Method(NamedTuple):
    """One method of HttpToolsProtocol."""

    arguments: tuple[str, ...]  # after self
    asks_parser: frozenset[str] = frozenset()
    calls: frozenset[str] = frozenset()  # of its own methods


PROTOCOL = {
    "__init__": Method(
        ("config", "server_state", "app_state", "_loop"), frozenset({"set_dangerous_leniencies"}), frozenset()
    ),
    "connection_made": Method(("transport",)),
    "connection_lost": Method(("exc",), frozenset(), frozenset({"_unset_keepalive_if_required"})),
    "eof_received": Method(()),
    "data_received": Method(
        ("data",),
        frozenset({"feed_data"}),
        frozenset(
            {
                *("_unset_keepalive_if_required", "send_400_response", "_should_upgrade"),
                *("handle_websocket_upgrade", "_unsupported_upgrade_warning"),
            }
        ),
    ),
    "on_message_begin": Method(()),
    "on_url": Method(("url",)),
    "on_header": Method(("name", "value")),
    "on_headers_complete": Method(
        (),
        frozenset({"get_http_version", "get_method", "should_upgrade", "should_keep_alive"}),
        frozenset({"_should_upgrade", "_start_asgi_task", "on_response_complete"}),
    ),
    "on_body": Method(("body",), frozenset({"should_upgrade"}), frozenset({"_should_upgrade"})),
    "on_message_complete": Method((), frozenset({"should_upgrade"}), frozenset({"_should_upgrade"})),
    "on_response_complete": Method(
        (), frozenset(), frozenset({"_unset_keepalive_if_required", "_start_asgi_task", "timeout_keep_alive_handler"})
    ),
    "_start_asgi_task": Method(("cycle", "app")),
    "shutdown": Method(()),
}
"""What protocol.py and upgrade.py override or call, and every callback of the parser."""
ATTRIBUTES = {
    "__init__": {
        *("config", "loop", "parser", "server_state", "connections", "tasks"),
        *("transport", "flow", "cycle", "pipeline", "headers", "expect_100_continue", "timeout_keep_alive"),
    },
    "connection_made": {"client", "flow"},
    "on_message_begin": {"url", "expect_100_continue", "headers", "scope"},
}
"""What the two read of a connection, by the method that sets it anew."""


def differences(source: str) -> list[str]:
    """What of httptools_impl.py is not as PROTOCOL and ATTRIBUTES say, one line each."""
    (kind,) = (
        node for node in ast.parse(source).body if isinstance(node, ast.ClassDef) and node.name == "HttpToolsProtocol"
    )
    methods = {node.name: node for node in kind.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
    found = [f"{name} is gone" for name in PROTOCOL if name not in methods]
    found += [f"{name} is new" for name in methods if name.startswith("on_") and name not in PROTOCOL]
    for name, expected in PROTOCOL.items():
        if name not in methods:
            continue
        method = methods[name]
        own = Method(
            tuple(argument.arg for argument in method.args.args[1:]),
            frozenset(_attributes(method, "self", "parser")),
            frozenset(_attributes(method, "self") & set(methods)),
        )
        found += [
            f"{name}: {field} {sorted(there)}, expected {sorted(wanted)}"
            for field, there, wanted in zip(Method._fields, own, expected, strict=True)
            if there != wanted and (wanted or field != "calls")
        ]
        unset = ATTRIBUTES.get(name, set()) - _assigned(method)
        found += [f"{name} does not set {attribute}" for attribute in sorted(unset)]
    return found


def _attributes(node: ast.AST, *path: str) -> set[str]:
    """Every x in `path.x` below `node`."""
    wanted = ".".join(path)
    return {
        part.attr for part in ast.walk(node) if isinstance(part, ast.Attribute) and ast.unparse(part.value) == wanted
    }


def _assigned(method: ast.AST) -> set[str]:
    targets: list[ast.expr] = []
    for part in ast.walk(method):
        if isinstance(part, ast.Assign):
            targets += part.targets
        elif isinstance(part, ast.AnnAssign):
            targets.append(part.target)
    return {
        target.attr for target in targets if isinstance(target, ast.Attribute) and ast.unparse(target.value) == "self"
    }


SOURCE = inspect.getsource(httptools_impl)


def test_uvicorns_protocol_is_as_ours_overrides_it() -> None:
    assert differences(SOURCE) == [], f"uvicorn {version('uvicorn')}: see this file's first lines"


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("def on_body(self, body: bytes)", "def on_body(self, data: bytes)", "on_body: arguments"),
        ("def on_response_complete(self)", "def response_complete(self)", "on_response_complete is gone"),
        ("def on_url(self", "def on_chunk_header(self) -> None: ...\n\n    def on_url(self", "on_chunk_header is new"),
        ("self.parser.get_http_version()", "self.parser.http_version()", "on_headers_complete: asks_parser"),
        ("self.parser.should_upgrade() and", "self.parser.is_upgrade() and", "on_body: asks_parser"),
        ('keep_alive=http_version != "1.0" and self.parser.should_keep_alive()', "keep_alive=True", "should_upgrade"),
        ("self.parser.feed_data(data)", "self.parser.feed(data)", "data_received: asks_parser"),
        ("self._start_asgi_task(self.cycle, app)", "self._begin(self.cycle, app)", "on_headers_complete: calls"),
        ('self.url = b""', 'self._url = b""', "on_message_begin does not set url"),
        ("self.tasks = server_state.tasks", "self.jobs = server_state.tasks", "__init__ does not set tasks"),
    ],
)
def test_a_change_in_uvicorn_is_named(old: str, new: str, said: str) -> None:
    """The negative control: each part that a release might change, changed."""
    assert old in SOURCE
    assert any(said in line for line in differences(SOURCE.replace(old, new)))


def test_what_stands_for_the_parser_answers_all_that_is_asked_and_agrees_with_a_real_one() -> None:
    """While a request that was held begins the ordinary path, _PLAIN_POST is asked instead of the parser."""
    asked = set().union(
        *(PROTOCOL[name].asks_parser for name in ("on_headers_complete", "on_body", "on_message_complete"))
    )
    assert {name for name in vars(protocol._PlainPost) if not name.startswith("_")} == asked
    parser = HttpRequestParser(type("Silent", (), {})())
    parser.feed_data(b"POST /predict HTTP/1.1\r\nhost: t\r\ncontent-length: 2\r\n\r\n{}")
    for name in asked:
        assert getattr(protocol._PLAIN_POST, name)() == getattr(parser, name)(), name


def test_the_parts_beside_the_protocol_are_there() -> None:
    for kind, names in (
        (flow_control.FlowControl, {"write_paused"}),
        (httptools_impl.RequestResponseCycle, {"response_complete"}),
        (ServerState, {"tasks", "connections", "total_requests", "default_headers"}),
    ):
        (tree,) = ast.parse(inspect.getsource(kind)).body
        assert names <= _assigned(tree), kind
    assert {"resume_reading", "pause_reading"} <= set(vars(flow_control.FlowControl))
    assert [*inspect.signature(flow_control.FlowControl).parameters] == ["transport"]


def test_the_server_makes_a_new_list_of_headers_for_every_date_and_shuts_every_connection_down() -> None:
    """protocol.py keeps the head of an answer for as long as it sees the same list."""

    async def run() -> None:
        server = uvicorn.Server(uvicorn.Config(lambda: None))
        server.config.load()
        await server.on_tick(0)
        first = server.server_state.default_headers
        await server.on_tick(10)
        assert server.server_state.default_headers is not first
        assert [name for name, _ in first] == [b"date", b"server"]

    asyncio.run(run())
    assert "connection.shutdown()" in inspect.getsource(uvicorn.Server.shutdown)


def test_uvicorn_is_bounded_below_the_next_minor_release() -> None:
    """A release that this file has not seen is not installed by accident."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        lines: list[Any] = tomllib.load(file)["project"]["optional-dependencies"]["serve"]
    (bound,) = (Requirement(line).specifier for line in lines if Requirement(line).name == "uvicorn")
    major, minor, *_ = map(int, version("uvicorn").split("."))
    assert bound.contains(version("uvicorn"))
    assert bound.contains(f"{major}.{minor}.99")
    assert not bound.contains(f"{major}.{minor + 1}.0")
