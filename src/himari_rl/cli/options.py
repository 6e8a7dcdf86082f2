"""A command's options made from its settings: `--commission-rate` is environment.commission_rate, said once.

    @configured("train", "train.num_episodes", "environment.commission_rate", kind="base")
    def train_base(data: Data, settings: Resolved) -> None: ...

Name, type, default and help of such an option come from the dataclass's field; `--config FILE` and `--set key=value`
reach every other field. The command gets all of them, resolved, as `settings`.
"""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Union, get_args, get_origin, get_type_hints

from himari_rl.cli.settings import COMMANDS, KINDS, resolved, sections_of
from himari_rl.cli.signature import Argument, Option
from himari_rl.config import Given, Setting, settings_of
from himari_rl.errors import ConfigError

if TYPE_CHECKING:
    from rich.console import Console

ROOT = Path(__file__).resolve().parents[3]
"""Of the repository, where this package is run from one."""
CLOUD_FILE = Path("config") / "gcp_deployment.yaml"
_LISTING: ContextVar[bool] = ContextVar("listing", default=False)
_CHECKING: ContextVar[bool] = ContextVar("checking", default=False)
LEDGER = (
    "environment.allow_short",
    "environment.commission_rate",
    "environment.slippage_bps",
    "environment.max_position_pct",
    "environment.reward",
    "environment.risk_aversion",
    "agent.beliefs",
)
"""Fees, shorts, reward and beliefs: plain options of every command that trains on real bars."""
ACCEPT = "data.accept"
"""What is known of the data and accepted: an option of every command that trains or judges on bars."""
BUDGET = ("budget.max_cost", "budget.usd_per_hour")
"""Where a run stops by itself: an option of every command that trains for long."""
AGENT = ("agent.recipe", "agent.hidden_dim", "agent.learning_rate", "agent.weight_decay")
NAMES = {"serve.challenger_share": "--share"}  # where an option was called otherwise before there were sections

ConfigFile = Annotated[
    str | None,
    Option("--config", metavar="FILE", help="YAML of settings by section; one file may serve every command."),
]
Assignments = Annotated[
    list[str] | None,
    Option("--set", metavar="KEY=VALUE", help="Any other setting, again and again; `himari config show` lists them."),
]
Rules = Annotated[str | None, Option(help="YAML of thresholds (default: config/gates.yaml, else those built in).")]
Kind = Annotated[str, Argument(help="base, lstm or multi.")]
KindOrCode = Annotated[
    str,
    Argument(
        metavar="KIND|CODE",
        help="base, lstm or multi; or code of your own: MODULE:FACTORY, FILE.py:FACTORY, rule:MODULE:FUNCTION, "
        "table:FILE.csv, onnx:FILE, sb3:ALGORITHM, sb3:FILE.zip.",
    ),
]
ExternalCode = Annotated[
    bool,
    Option(
        "--external-code",
        envvar="HIMARI_EXTERNAL_CODE",
        help="Import the code that a bundle of kind external names; its hash is checked before.",
    ),
]
Json = Annotated[bool, Option("--json", help="One JSON document on stdout.")]


def told_on(console: Console) -> Callable[[str], None]:
    """A function that prints a line on a console as it is: no markup, and a line stays one line."""
    return lambda line: console.print(line, markup=False, highlight=False, soft_wrap=True)


@contextmanager
def listing() -> Iterator[None]:
    """Inside it commands are registered for a list of them only: without options that would load their sections."""
    token = _LISTING.set(True)
    try:
        yield
    finally:
        _LISTING.reset(token)


@contextmanager
def checking() -> Iterator[None]:
    """Inside it a command reads its words and settings, refuses what it must, and returns them instead of working."""
    token = _CHECKING.set(True)
    try:
        yield
    finally:
        _CHECKING.reset(token)


def configured(
    command: str, *keys: str, kind: str | None = None, usual: Path | None = None, launches: bool = False
) -> Callable[[Callable[..., Any]], Callable[[], Callable[..., Any]]]:
    """Makes a factory of the command that make_command is given: its own parameters, then an option for each of `keys`.

    Args:
        command: whose sections it has.
        keys: settings that are plain options.
        kind: of the agent; without it the command's own argument `kind`, where it has one.
        usual: the file that is read without --config, where it lies here or in the repository.
        launches: it begins another command: `--set` of sections that are not its own go to that one, as `others`.
    """

    def decorate(function: Callable[..., Any]) -> Callable[[], Callable[..., Any]]:
        return lambda: _command(function, command, () if _LISTING.get() else keys, kind, usual, launches)

    return decorate


def _command(
    function: Callable[..., Any],
    command: str,
    keys: tuple[str, ...],
    kind: str | None,
    usual: Path | None,
    launches: bool,
) -> Callable[..., Any]:
    hints = get_type_hints(function, include_extras=True)
    own = [p.replace(annotation=hints[p.name]) for p in inspect.signature(function).parameters.values()]
    own = [p for p in own if p.name not in ("settings", "others")]
    made = [option for key in keys for option in _options(command, key, kind)]
    common = [_parameter("config_file", ConfigFile), _parameter("assignments", Assignments)]
    common += [_parameter("rules", Rules)] if "gate" in COMMANDS[command] else []
    first = [p for p in own if p.default is inspect.Parameter.empty]
    rest = [p for p in own if p.default is not inspect.Parameter.empty]

    def run(**given: Any) -> Any:
        file, assignments = given.pop("config_file"), given.pop("assignments") or ()
        if launches:
            given["others"] = list(assignments), file
            assignments = [word for word in assignments if word.partition(".")[0] in COMMANDS[command]]
        if file is None and usual is not None:
            file = next((str(path) for path in (usual, ROOT / usual) if path.is_file()), None)
        of_kind = kind or given.get("kind") or KINDS[0]
        of_kind = KINDS[0] if ":" in of_kind else of_kind  # code of somebody's own, whose agent is its own affair
        options = _given(command, keys, of_kind, {p.name: given.pop(p.name) for p in made})
        settings = resolved(command, of_kind, file, assignments, options, given.pop("rules", None))
        for section in settings.sections:
            settings[section]  # a value that no component takes is refused before anything is read
        if _CHECKING.get():
            return settings
        return function(**given, settings=settings)

    run.__name__, run.__doc__ = function.__name__, function.__doc__
    parameters = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in [*first, *made, *rest, *common]]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # what make_command reads
    run.__annotations__ = {p.name: p.annotation for p in parameters}
    return run


def _parameter(name: str, annotation: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def option_name(key: str) -> str:
    """The plain option of a setting."""
    return NAMES.get(key, f"--{key.rpartition('.')[2].replace('_', '-')}")


def _dest(key: str) -> str:
    return key.replace(".", "__")


def _options(command: str, key: str, kind: str | None) -> list[inspect.Parameter]:
    """The option of a setting; of a list of seeds two, how many and the first."""
    section = key.partition(".")[0]
    kinds = (kind,) if kind else KINDS if section == "agent" else KINDS[:1]
    found = {k: _setting(command, section, key, k) for k in kinds}
    setting = next(iter(found.values()))
    if key.endswith(".seeds"):
        count, first = len(setting.value), setting.value[0]
        many = Option("--seeds", min=1, help=setting.help, show_default=str(count), metavar="COUNT")
        one = Option("--seed", min=0, help="First of the seeds.", show_default=str(first))
        return [
            _parameter(_dest(key), Annotated[int | None, many]),
            _parameter(_dest(key) + "__first", Annotated[int | None, one]),
        ]
    shown = {k: _said(each.value) for k, each in found.items()}
    default = shown[next(iter(shown))]
    default += "".join(f"; {k} {text}" for k, text in shown.items() if text != default)
    name = option_name(key)
    on = any(each.value is True for each in found.values())
    option = Option(name, help=setting.help, show_default=default or ("on" if on else False))
    made = [_parameter(_dest(key), Annotated[_option_type(setting.annotation), option])]
    if on:  # a line of its own: beside its option it would take the width of every option's name
        off = Option(_off(name), help=f"Without {name}.", show_default=False)
        made.append(_parameter(_dest(key) + "__off", Annotated[bool | None, off]))
    return made


def _off(name: str) -> str:
    return f"--no-{name[2:]}"


def _setting(command: str, section: str, key: str, kind: str) -> Setting:
    return next(each for each in settings_of(sections_of(command, kind)[section], section) if each.key == key)


def _said(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return ""
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _option_type(annotation: Any) -> Any:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin in (Union, types.UnionType):
        return annotation
    return (list[arguments[0]] if origin is tuple else annotation) | None  # type: ignore[valid-type]


def _given(command: str, keys: tuple[str, ...], kind: str, values: dict[str, Any]) -> list[Given]:
    """What was typed, as settings; None was not."""
    found = []
    for key in keys:
        value, origin = values[_dest(key)], option_name(key)
        if key.endswith(".seeds"):
            first = values[_dest(key) + "__first"]
            usual = _setting(command, key.partition(".")[0], key, kind).value
            origin = "--seeds" if value is not None else "--seed"
            if value is not None or first is not None:
                start = usual[0] if first is None else first
                value = tuple(range(start, start + (len(usual) if value is None else value)))
        if values.get(_dest(key) + "__off"):
            if value:
                raise ConfigError(f"{origin} and {_off(origin)}", "one of them", "leave one out")
            value, origin = False, _off(origin)
        if value is not None and value != []:
            raw = tuple(value) if isinstance(value, list) else value
            found.append(Given(key=key, raw=raw, origin=origin, typed=True))
    return found
