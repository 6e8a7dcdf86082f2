"""Writes docs/reference/{cli,config,http}.md from the code. `python docs/reference.py --check` exits 1 where a page is
not what the code says.
"""

from __future__ import annotations

import re
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from himari_rl import cli
from himari_rl.cli.settings import COMMANDS, KINDS, SECTIONS, section_type
from himari_rl.config import Setting, settings_of
from himari_rl.monitoring.metrics import HELP
from himari_rl.monitoring.runner import RUN_HELP

PLACE = Path(__file__).resolve().parent / "reference"
WIDTH = 120
FROM_ENVIRONMENT = ("serve", "run")
WRITTEN = "<!-- Written by `python docs/reference.py` from the code: change it there. -->\n\n"
CLI_HEAD = """# Command line

Exit codes: 0 done; 1 refused by a gate or a check; 2 bad usage or bad input, one line that says what was found, what
was expected and the cure; 130 stopped by Ctrl-C. Every command has `--help`; where `--json` is listed, stdout is one
JSON document. A list option takes several words (`--data a b c`) or is repeated. `--config FILE` and `--set KEY=VALUE`
reach every key of [the configuration](config.md). Long work shows a bar on a terminal and a line every 30 seconds in a
pipe. Colour is for terminals only, and `NO_COLOR=1` switches it off.
"""
CONFIG_HEAD = """# Configuration

One system for all commands. Later ones win: the default; `config/gates.yaml` for the gate; `--config run.yaml`;
`HIMARI_*` variables (server and runner); `--set section.field=value`; the command's own option. Unknown keys are
refused. `himari config show COMMAND` prints what a command would use, and where each value was set; the resolved
settings and their hash are in every run folder, manifest and run card. `himari init` writes a commented `run.yaml`.
"""
HTTP_HEAD = """# HTTP

The policy server's routes, as its `/openapi.json` has them; `/docs` on a running server shows them with examples. What
each means and why a request is refused: [serving.md](../serving.md). An error's body is `{"detail": [...]}` with the
field and the cure.
"""


def cell(text: object) -> str:
    """Text that may stand in a table."""
    return " ".join(str(text).split()).replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*")


def prose(text: str) -> str:
    """Prose in lines of the house's width."""
    return textwrap.fill(cell(text), WIDTH, break_on_hyphens=False, break_long_words=False)


def shell(line: str) -> str:
    """A command, continued on further lines where it is long."""
    return " \\\n".join(
        textwrap.wrap(line, WIDTH - 2, subsequent_indent="    ", break_on_hyphens=False, break_long_words=False)
    )


def table(head: tuple[str, ...], rows: list[tuple[object, ...]]) -> str:
    """A table of Markdown; backticked cells are left as they are."""
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for row in rows:
        cells = [str(each).replace("|", "\\|") if str(each).startswith("`") else cell(each) for each in row]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def commands(command: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every command that does something, in the order of the road."""
    inner = getattr(command, "commands", None)
    if inner is None:
        yield path, command
        return
    for name in command.list_commands(None):
        yield from commands(inner[name], f"{path} {name}".strip())


def cli_page() -> str:
    """Every command with its arguments, options and example."""
    parts = [WRITTEN, CLI_HEAD]
    for path, command in commands(cli.build_app()):
        text, _, example = (command.help or "").partition("Example:")
        parts.append(f"\n## himari {path}\n\n{prose(text)}\n\n```bash\n{shell(' '.join(example.split()))}\n```\n\n")
        rows: list[tuple[object, ...]] = []
        for each in command.params:
            if each.name == "help":
                continue
            names = ", ".join([*each.opts, *each.secondary_opts])
            if each.param_type_name == "argument":
                names = each.metavar or (each.name or "").upper()
            rows.append((f"`{names}`", default_of(each), getattr(each, "help", None) or ""))
        parts.append(table(("option", "default", "meaning"), rows))
    return "".join(parts)


def default_of(each: Any) -> str:
    """What an option is without being given."""
    if each.required:
        return "required"
    shown = getattr(each, "show_default", None)
    if isinstance(shown, str):
        return shown
    value = each.default
    return "" if value is None or value is False or value == () or callable(value) else str(value)


def config_page() -> str:
    """Every setting of every section, an agent's by its kinds."""
    parts = [WRITTEN, CONFIG_HEAD]
    for section in SECTIONS:
        users = ", ".join(f"`{name}`" for name, has in COMMANDS.items() if section in has)
        parts.append(f"\n## {section}\n\n{prose(f'Of {users}.')}\n\n")
        if section == "agent":
            by_kind = {kind: {s.key: s for s in settings_of(section_type(section, kind), section)} for kind in KINDS}
            rows = [
                (f"`{key}`", *agent_cells(key, by_kind))
                for key in dict.fromkeys(k for v in by_kind.values() for k in v)
            ]
            parts.append(table(("key", "default", "meaning"), rows))
            continue
        rows = []
        for setting in settings_of(section_type(section), section):
            meaning = setting.help
            if section in FROM_ENVIRONMENT:
                name = setting.key.partition(".")[2].replace(".", "_").upper()
                meaning += f" Variable: {setting.metadata.get('env', f'HIMARI_{name}')}."
            rows.append((f"`{setting.key}`", said(setting), meaning))
        parts.append(table(("key", "default", "meaning"), rows))
    return "".join(parts)


def agent_cells(key: str, by_kind: dict[str, dict[str, Setting]]) -> tuple[str, str]:
    """Default and meaning of an agent's setting; where kinds differ, each says its own."""
    has = {kind: settings[key] for kind, settings in by_kind.items() if key in settings}
    values = {kind: said(setting) for kind, setting in has.items()}
    one = len(set(values.values())) == 1
    default = next(iter(values.values())) if one else "; ".join(f"{kind} {value}" for kind, value in values.items())
    only = "" if len(has) == len(by_kind) else f" Of {', '.join(has)} only."
    return default, next(iter(has.values())).help + only


def said(setting: Setting) -> str:
    """A default as it would be typed."""
    value = setting.shown()
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return {True: "true", False: "false", None: "none"}[value] if isinstance(value, bool | None) else str(value)


def http_page() -> str:
    """Every route with its answers, every body with its fields, every metric."""
    from himari_rl.serving.http.app import create_app

    document = create_app("a-policy-that-is-not-there").openapi()
    parts = [WRITTEN, HTTP_HEAD, "\n## Routes\n\n"]
    rows: list[tuple[object, ...]] = []
    for path, methods in document["paths"].items():
        for method, route in methods.items():
            body = route.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema", {})
            answers = ", ".join(sorted(route["responses"]))
            rows.append((f"`{method.upper()} {path}`", schema_name(body), answers, first_sentence(route)))
    parts.append(table(("route", "body", "status", "what"), rows))
    for name, schema in document["components"]["schemas"].items():
        parts.append(f"\n## {name}\n\n{prose(schema.get('description', ''))}\n\n")
        required = set(schema.get("required", ()))
        fields: list[tuple[object, ...]] = [
            (f"`{field}`", type_of(each), "required" if field in required else "", each.get("description", ""))
            for field, each in schema.get("properties", {}).items()
        ]
        parts.append(table(("field", "type", "", "meaning"), fields))
    parts.append(
        "\n## Metrics of the server\n\n" + table(("name", "meaning"), [(f"`{k}`", v) for k, v in HELP.items()])
    )
    parts.append("\n## Metrics of the runner\n\nIts own routes are in [runner.md](../runner.md).\n\n")
    parts.append(table(("name", "meaning"), [(f"`{k}`", v) for k, v in RUN_HELP.items()]))
    return re.sub(r"\n{3,}", "\n\n", "".join(parts))


def first_sentence(route: dict[str, Any]) -> str:
    """The first paragraph of a route's description."""
    return str(route.get("description", "")).partition("\n\n")[0]


def schema_name(schema: dict[str, Any]) -> str:
    """The name that a schema refers to."""
    return str(schema.get("$ref", "")).rpartition("/")[2]


def type_of(schema: dict[str, Any]) -> str:
    """A field's type and bounds in words."""
    if "$ref" in schema:
        return schema_name(schema)
    if "anyOf" in schema:
        return " or ".join(type_of(each) for each in schema["anyOf"])
    if "enum" in schema:
        return " or ".join(map(str, schema["enum"]))
    kind = str(schema.get("type", "any"))
    if kind == "array":
        kind = f"list of {type_of(schema.get('items', {}))}"
    low, high = (schema.get(name) for name in ("minimum", "maximum"))
    if low is not None or high is not None:
        kind += f" [{'' if low is None else f'{low:g}'}, {'' if high is None else f'{high:g}'}]"
    return kind


PAGES = {"cli.md": cli_page, "config.md": config_page, "http.md": http_page}


def main(argv: list[str]) -> int:
    """Writes the pages, or with --check compares them."""
    code = 0
    for name, page in PAGES.items():
        path = PLACE / name
        if "--check" in argv:
            if not path.exists() or path.read_text() != page():
                sys.stderr.write(f"docs/reference/{name} is not what the code says; run: python docs/reference.py\n")
                code = 1
            continue
        path.parent.mkdir(exist_ok=True)
        path.write_text(page())
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
