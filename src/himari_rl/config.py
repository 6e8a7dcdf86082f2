"""The one config system: frozen dataclasses with dotted keys, a value's origin, JSON and a hash.

    settings_of(PPOConfig, "agent")     every field: key, type, default, and its docstring, which is its help
    resolve(sections, given)            default < file < environment < --set < option; each value knows where it was set

A section is a frozen, keyword-only dataclass beside the component it configures, so that a field, its default and its
meaning stand in one place. Which sections a command has is the command line's business (cli/settings.py).
"""

from __future__ import annotations

import ast
import dataclasses
import difflib
import hashlib
import inspect
import json
import math
import sys
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from himari_rl.errors import ConfigError

C = TypeVar("C")
DEFAULT = "default"
SECRET = {"secret": True}  # nosec B105 - a mark of fields, no secret
"""Metadata of a field whose value is shown to nobody."""


def as_dict(config: Any) -> dict[str, Any]:
    """A dataclass as plain JSON types: tuples become lists, and infinity (a limit that is off) becomes null."""
    found: dict[str, Any] = _plain(dataclasses.asdict(config))
    return found


def config_hash(config: Any) -> str:
    """Twelve hex digits that change when any field of a dataclass (or value of a mapping) does."""
    plain = _plain(config) if isinstance(config, Mapping) else as_dict(config)
    text = json.dumps(plain, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    return None if isinstance(value, float) and value == math.inf else value


def require_ranges(config: Any, ranges: Mapping[str, tuple[float, float]]) -> None:
    """Refuses a config whose numbers are not in their ranges, both ends included; NaN is in none.

    Raises:
        ConfigError: the first such field.
    """
    for name, (low, high) in ranges.items():
        value = getattr(config, name)
        if not low <= value <= high:
            raise ConfigError(f"{name} {value}", f"a number from {low:g} to {high:g}")


def require_seeds(seeds: Sequence[int]) -> None:
    """Refuses seeds that make no ensemble.

    Raises:
        ConfigError: none, one twice, or a negative one.
    """
    if not seeds or len(set(seeds)) != len(seeds) or min(seeds) < 0:
        raise ConfigError(f"seeds {list(seeds)}", "at least one, each once, none below 0")


def from_dict(kind: type[C], values: Mapping[str, Any]) -> C:
    """Rebuilds a config from `as_dict`'s output.

    Raises:
        ConfigError: a field the config does not have (a typo must not be ignored).
    """
    hints = _hints(kind)  # type: ignore[arg-type]  # a class is hashable
    fields = [f.name for f in dataclasses.fields(kind)]  # type: ignore[arg-type]
    unknown = sorted(set(values) - set(fields))
    if unknown:
        raise ConfigError(f"{kind.__name__} has no field {', '.join(unknown)}", f"one of {', '.join(sorted(fields))}")
    built: dict[str, Any] = {}
    for name, value in values.items():
        if dataclasses.is_dataclass(hints[name]) and isinstance(value, Mapping):
            value = from_dict(hints[name], value)
        elif isinstance(value, list):
            value = tuple(value)
        elif value is None and hints[name] is float:
            value = math.inf
        built[name] = value
    return kind(**built)


_hints = cache(get_type_hints)
"""Resolved once: a fifth of the time in which a server reads a bundle."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One field of a section: what it is called, what it means, what it is and who said so."""

    key: str
    """section.field, with the fields of nested configs behind further dots."""
    annotation: Any
    value: Any
    help: str
    origin: str = DEFAULT
    metadata: Mapping[str, Any] = field(default_factory=dict)

    @property
    def secret(self) -> bool:
        return bool(self.metadata.get("secret"))

    def shown(self) -> Any:
        """The value as JSON: infinity as text, and of a secret only whether there is one."""
        if self.secret:
            return "(set)" if self.value else ""
        return "inf" if self.value == math.inf else _plain(self.value)


@cache
def field_help(kind: type) -> dict[str, str]:
    """The docstring under each field of a dataclass, read from its source; a subclass's own goes before."""
    found: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        if not dataclasses.is_dataclass(base):
            continue
        statements = _class_bodies(base.__module__).get(base.__name__, [])
        for here, after in zip(statements, [*statements[1:], None], strict=True):
            if not isinstance(here, ast.AnnAssign) or not isinstance(here.target, ast.Name):
                continue
            if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
                found[here.target.id] = " ".join(str(after.value.value).split())
    return found


@cache
def _class_bodies(module: str) -> dict[str, list[ast.stmt]]:
    """The statements of each class of a module by its name; inspect.getsource would parse the module for each class."""
    tree = ast.parse(inspect.getsource(sys.modules[module]))
    return {node.name: node.body for node in ast.walk(tree) if isinstance(node, ast.ClassDef)}


@cache
def settings_of(kind: type, section: str) -> tuple[Setting, ...]:
    """Every field of a section's dataclass at its default, nested configs flattened, in the order they are declared."""
    hints, help_of = get_type_hints(kind), field_help(kind)
    found: list[Setting] = []
    for each in dataclasses.fields(kind):
        key, annotation = f"{section}.{each.name}", hints[each.name]
        if dataclasses.is_dataclass(annotation) and isinstance(annotation, type):
            found += settings_of(annotation, key)
            continue
        default = each.default_factory() if each.default_factory is not dataclasses.MISSING else each.default
        text = help_of.get(each.name, "")
        found.append(Setting(key=key, annotation=annotation, value=default, help=text, metadata=each.metadata))
    return tuple(found)


@dataclass(frozen=True, kw_only=True)
class Given:
    """One value that somebody gave: text to be read by the field's type, or a value of a YAML file or an option."""

    key: str
    raw: Any
    origin: str
    shared: bool = False
    """True where a key of another command is passed over (a file is for all of them); else it is refused."""
    typed: bool = False
    """True where the raw value has the field's type already."""


@dataclass(frozen=True)
class Resolved:
    """The sections of one command, each value with its origin. `resolved["agent"]` is the section's dataclass."""

    sections: Mapping[str, type]
    settings: Mapping[str, Setting]

    def __getitem__(self, section: str) -> Any:
        return self._built(self.sections[section], section)

    def _built(self, kind: type, prefix: str) -> Any:
        hints = get_type_hints(kind)
        values = {}
        for each in dataclasses.fields(kind):
            key = f"{prefix}.{each.name}"
            nested = key not in self.settings
            values[each.name] = self._built(hints[each.name], key) if nested else self.settings[key].value
        return kind(**values)

    def typed(self, section: str) -> list[str]:
        """The options of a section that somebody typed: plain ones and --set."""
        of = [setting for key, setting in self.settings.items() if key.startswith(f"{section}.")]
        return sorted({setting.origin for setting in of if setting.origin.startswith("--")})

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON, nested by section; secrets hidden."""
        found: dict[str, Any] = {}
        for key, setting in self.settings.items():
            *path, name = key.split(".")
            place = found
            for part in path:
                place = place.setdefault(part, {})
            place[name] = setting.shown()
        return found

    @property
    def hash(self) -> str:
        """Twelve hex digits that change when any value does."""
        return config_hash(self.to_dict())


def resolve(
    sections: Mapping[str, type],
    given: Iterable[Given] = (),
    *,
    known: Callable[[], Iterable[str]] = tuple,
    user: str = "this command",
) -> Resolved:
    """The sections with what was given, later values over earlier ones.

    Args:
        known: the keys of every command, asked for only where a key is not of these sections.
        user: who has these sections, for the error line.

    Raises:
        ConfigError: a key that does not exist, that this command does not use, or a value of a wrong type.
    """
    settings = {s.key: s for section, kind in sections.items() for s in settings_of(kind, section)}
    for one in given:
        if one.key in settings:
            setting = settings[one.key]
            value = one.raw if one.typed else converted(setting, one)
            settings[one.key] = dataclasses.replace(setting, value=value, origin=one.origin)
            continue
        everything = {*known(), *settings}
        if one.key not in everything:
            raise ConfigError(f"{one.origin}: no setting {one.key!r}", nearest(one.key, everything), SHOW)
        if not one.shared:
            raise ConfigError(f"{one.origin}: {user} does not use {one.key}", f"a key of {', '.join(sections)}", SHOW)
    return Resolved(sections, settings)


SHOW = "himari config show lists every setting"


def nearest(key: str, known: Iterable[str]) -> str:
    """The setting that was probably meant."""
    known = sorted(known)
    close = difflib.get_close_matches(key, known, 1, 0.6)
    if not close:  # the section was left out, or is another one
        names = {k.rpartition(".")[2]: k for k in reversed(known)}
        close = [names[n] for n in difflib.get_close_matches(key.rpartition(".")[2], names, 1, 0.6)]
    return close[0] if close else f"a key of {', '.join(dict.fromkeys(k.partition('.')[0] for k in known))}"


def from_yaml(text: str | bytes, origin: str, section: str = "") -> list[Given]:
    """What a YAML file gives: `environment: {commission_rate: 0.0004}` or `environment.commission_rate: 0.0004`.

    Args:
        section: the section that the whole file is of, where it is of one alone.

    Raises:
        ConfigError: no YAML, no mapping, or a key twice.
    """
    import yaml

    class Loader(yaml.SafeLoader):
        """Refuses a key that stands twice in one mapping: the first would be lost without a word."""

        def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
            keys = [self.construct_object(key, deep=True) for key, _ in node.value]
            for key in keys:
                if keys.count(key) > 1:
                    raise ConfigError(f"{origin}: {key} stands twice (line {node.start_mark.line + 1} on)", "it once")
            return super().construct_mapping(node, deep)

    try:
        document = yaml.load(text, Loader)  # nosec B506 - Loader is a SafeLoader
    except yaml.YAMLError as error:
        found = f"{origin} is no YAML: {' '.join(str(error).split())}"
        raise ConfigError(found, "section: {name: value}", "mind the indentation") from error
    if document is None:
        return []
    if not isinstance(document, Mapping):
        raise ConfigError(f"{origin} holds a {type(document).__name__}", "a mapping of sections to their settings")
    flat = [Given(key=k, raw=v, origin=origin, shared=True) for k, v in _flat(document, section)]
    keys = [one.key for one in flat]
    if (twice := next((key for key in keys if keys.count(key) > 1), None)) is not None:
        raise ConfigError(f"{origin}: {twice} stands twice", "it once")
    return flat


def _flat(document: Mapping[Any, Any], prefix: str) -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for name, value in document.items():
        key = f"{prefix}.{name}" if prefix else str(name)
        if isinstance(value, Mapping):
            found += _flat(value, key)
        elif value is not None or "." in key:  # a section with nothing in it says nothing
            found.append((key, value))
    return found


def from_assignments(words: Iterable[str], origin: str = "--set") -> list[Given]:
    """What repeated `key=value` words give.

    Raises:
        ConfigError: a word without `=`.
    """
    found = []
    for word in words:
        key, equals, text = word.partition("=")
        if not equals:
            raise ConfigError(f"{origin} {word}", "key=value", "for example --set environment.commission_rate=0.0004")
        found.append(Given(key=key.strip(), raw=text.strip(), origin=origin))
    return found


def from_environment(kind: type, section: str, environment: Mapping[str, str], prefix: str = "HIMARI_") -> list[Given]:
    """What PREFIX<FIELD> variables give for each field, or the alias in its metadata (`env`); an empty one is unset."""
    found = []
    for setting in settings_of(kind, section):
        own = prefix + setting.key.partition(".")[2].replace(".", "_").upper()
        for name in (setting.metadata.get("env", own), own):
            if environment.get(name):
                found.append(Given(key=setting.key, raw=environment[name], origin=name))
    return found


def converted(setting: Setting, given: Given) -> Any:
    """A given value as the field's type.

    Raises:
        ConfigError: it is none of it.
    """
    try:
        return _converted(setting.annotation, given.raw)
    except (TypeError, ValueError) as error:
        what = given.origin if given.origin.startswith("HIMARI_") else f"{given.origin}: {setting.key}"
        said = "(hidden)" if setting.secret else repr(given.raw)
        raise ConfigError(f"{what} is {said}", expected(setting.annotation), setting.help) from error


_WORDS = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}


def _converted(annotation: Any, raw: Any) -> Any:
    origin, arguments = get_origin(annotation), get_args(annotation)
    text = raw.strip() if isinstance(raw, str) else None
    nothing = raw is None or (text is not None and text.lower() in ("none", "null"))
    if origin in (Union, types.UnionType):
        (inner,) = (a for a in arguments if a is not type(None))
        return None if nothing and type(None) in arguments else _converted(inner, raw)
    if origin is Literal:
        return arguments[[str(a) for a in arguments].index(str(raw))]
    if origin is not None and issubclass(origin, Sequence):
        if text is not None:
            raw = [part for part in (p.strip() for p in text.strip("[]()").split(",")) if part]
        elif not isinstance(raw, list | tuple):
            raw = [raw]
        return tuple(_converted(arguments[0], each) for each in raw)
    if annotation is bool:
        return _WORDS[text.lower()] if text is not None and text.lower() in _WORDS else _exactly(bool, raw)
    if annotation is int:
        return int(text) if text is not None else _exactly(int, raw)
    if annotation is float:
        number = math.inf if nothing else float(text) if text is not None else float(_exactly((int, float), raw))
        return _exactly(float, number if number == number else None)  # NaN is no number
    if annotation is bytes:
        return raw if isinstance(raw, bytes) else str(_exactly(str, raw)).encode()
    return _exactly(annotation, raw)


def _exactly(kind: Any, raw: Any) -> Any:
    if not isinstance(raw, kind) or (isinstance(raw, bool) and kind is not bool):
        raise TypeError(kind)
    return raw


def expected(annotation: Any) -> str:
    """What a field takes, in words."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin in (Union, types.UnionType):
        return " or ".join(expected(a) if a is not type(None) else "none" for a in arguments)
    if origin is Literal:
        return " or ".join(map(str, arguments))
    if origin is not None:
        return f"{expected(arguments[0])}, or several with commas"
    words = {bool: "true or false", int: "a whole number", float: "a number"}
    return words.get(annotation, "a text")
