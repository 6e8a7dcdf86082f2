"""The config system: keys, types, origins, order, errors; on a section made up here, so that the expected is known."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest

from himari_rl.config import (
    SECRET,
    Given,
    Resolved,
    as_dict,
    config_hash,
    field_help,
    from_assignments,
    from_dict,
    from_environment,
    from_yaml,
    require_seeds,
    resolve,
    settings_of,
)
from himari_rl.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Inner:
    stop: float = 0.5
    """Where it stops;
    inf is never."""


@dataclass(frozen=True, kw_only=True)
class Base:
    count: int = 3
    """How many."""
    rate: float = 0.25
    """How fast."""


@dataclass(frozen=True, kw_only=True)
class Toy(Base):
    rate: float = 0.75
    """How fast, here."""
    flag: bool = False
    """Whether."""
    name: str = "a"
    """What it is called."""
    names: tuple[str, ...] = ()
    """Several."""
    numbers: tuple[float, ...] = (1.0,)
    """Numbers."""
    maybe: int | None = None
    """A number or none."""
    mode: Literal["slow", "fast"] = "slow"
    """One of two."""
    key: bytes = field(default=b"", metadata=SECRET)
    """Nobody's business."""
    inner: Inner = field(default_factory=Inner)
    """A part."""


SECTIONS = {"toy": Toy}


def toy(*given: Given) -> Resolved:
    return resolve(SECTIONS, given)


def test_nothing_given_is_the_dataclass_itself() -> None:
    found = toy()
    assert found["toy"] == Toy()
    assert {s.origin for s in found.settings.values()} == {"default"}
    assert list(found.settings)[:2] == ["toy.count", "toy.rate"]
    assert "toy.inner.stop" in found.settings
    assert "toy.inner" not in found.settings


def test_help_is_the_docstring_under_the_field_and_a_subclass_says_its_own() -> None:
    assert field_help(Toy)["rate"] == "How fast, here."
    assert field_help(Base)["rate"] == "How fast."
    said = {s.key: s.help for s in settings_of(Toy, "toy")}
    assert said["toy.inner.stop"] == "Where it stops; inf is never."
    assert said["toy.count"] == "How many."


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("count", "7", 7),
        ("rate", "1e-3", 0.001),
        ("rate", "2", 2.0),
        ("flag", "true", True),
        ("flag", "0", False),
        ("name", "b c", "b c"),
        ("names", "x, y", ("x", "y")),
        ("names", "", ()),
        ("numbers", "2,3.5", (2.0, 3.5)),
        ("numbers", "[2, 3]", (2.0, 3.0)),
        ("maybe", "4", 4),
        ("maybe", "none", None),
        ("mode", "fast", "fast"),
        ("key", "abc", b"abc"),
        ("inner.stop", "inf", math.inf),
        ("inner.stop", "none", math.inf),
    ],
)
def test_text_becomes_the_fields_type(key: str, text: str, value: Any) -> None:
    setting = toy(*from_assignments([f"toy.{key}={text}"])).settings[f"toy.{key}"]
    assert setting.value == value
    assert type(setting.value) is type(value)
    assert setting.origin == "--set"


@pytest.mark.parametrize(
    ("key", "yaml", "value"),
    [
        ("count", "7", 7),
        ("rate", "2", 2.0),
        ("rate", "1e-3", 0.001),  # YAML 1.1 reads this as text
        ("flag", "yes", True),
        ("names", "[x, y]", ("x", "y")),
        ("numbers", "2", (2.0,)),
        ("maybe", "null", None),
        ("inner.stop", ".inf", math.inf),
        ("inner.stop", "none", math.inf),
    ],
)
def test_yaml_becomes_the_fields_type_nested_or_dotted(key: str, yaml: str, value: Any) -> None:
    nested = f"toy: {{{key.replace('.', ': {')}: {yaml}{'}' * key.count('.')}}}"
    for text in (nested, f"toy.{key}: {yaml}"):
        setting = toy(*from_yaml(text, "run.yaml")).settings[f"toy.{key}"]
        assert (setting.value, setting.origin) == (value, "run.yaml")


@pytest.mark.parametrize(
    ("key", "raw"),
    [
        ("count", "many"),
        ("count", "1.5"),
        ("count", 1.5),
        ("count", True),
        ("rate", "nan"),
        ("rate", math.nan),
        ("rate", "fast"),
        ("flag", "maybe"),
        ("flag", 3),
        ("name", 3),
        ("numbers", "1,x"),
        ("maybe", "x"),
        ("mode", "other"),
        ("inner.stop", [1.0]),
    ],
)
def test_a_wrong_type_is_one_line_with_who_said_it_what_and_the_meaning(key: str, raw: Any) -> None:
    with pytest.raises(ConfigError) as refused:
        toy(Given(key=f"toy.{key}", raw=raw, origin="run.yaml"))
    assert f"run.yaml: toy.{key} is {raw!r}; expected " in str(refused.value)
    assert "\n" not in str(refused.value)
    assert str(refused.value).endswith(".")  # the field's own docstring


def test_later_origins_win_over_earlier_ones() -> None:
    layers = [
        *from_yaml("toy: {count: 1, rate: 1, name: file}", "run.yaml"),
        *from_environment(Toy, "toy", {"HIMARI_RATE": "2", "HIMARI_NAME": "variable"}),
        *from_assignments(["toy.name=set", "toy.name=set again"]),
    ]
    found = toy(*layers)
    assert [
        (found.settings[f"toy.{n}"].value, found.settings[f"toy.{n}"].origin) for n in ("count", "rate", "name")
    ] == [
        (1, "run.yaml"),
        (2.0, "HIMARI_RATE"),
        ("set again", "--set"),
    ]


@pytest.mark.parametrize(
    ("key", "meant"),
    [("toy.cuont", "toy.count"), ("count", "toy.count"), ("tyo.rate", "toy.rate"), ("inner.stop", "toy.inner.stop")],
)
def test_an_unknown_key_is_refused_with_the_nearest_one(key: str, meant: str) -> None:
    with pytest.raises(ConfigError, match=rf"no setting '{key}'; expected {meant}"):
        toy(*from_assignments([f"{key}=1"]))
    with pytest.raises(ConfigError, match=f"run.yaml: no setting '{key}'"):
        toy(*from_yaml(f"{key}: 1", "run.yaml"))


def test_another_commands_key_is_passed_over_in_a_file_and_refused_where_it_is_typed() -> None:
    def known() -> list[str]:
        return ["other.size"]

    assert resolve(SECTIONS, from_yaml("other: {size: 1}", "run.yaml"), known=known)["toy"] == Toy()
    with pytest.raises(ConfigError, match=r"himari toy does not use other\.size"):
        resolve(SECTIONS, from_assignments(["other.size=1"]), known=known, user="himari toy")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("toy: {count: 1, count: 2}", "count stands twice"),
        ("toy: {count: 1}\ntoy.count: 2", "toy.count stands twice"),
        ("toy: {count: 1}\ntoy: {rate: 2}", "toy stands twice"),
        ("toy: [", "no YAML"),
        ("[1]", "a mapping of sections"),
        ("toy: 3", "no setting 'toy'"),
        ("toy: {inner: {stop: {x: 1}}}", "no setting 'toy.inner.stop.x'"),
    ],
)
def test_a_file_that_cannot_be_meant_is_one_line(text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=r"run\.yaml") as refused:
        toy(*from_yaml(text, "run.yaml"))
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)


def test_an_empty_file_and_an_empty_section_say_nothing() -> None:
    assert from_yaml("", "x") == from_yaml("toy:\n", "x") == []


def test_a_word_without_a_value_is_refused() -> None:
    with pytest.raises(ConfigError, match="key=value"):
        from_assignments(["toy.count"])


def test_an_empty_variable_is_unset_and_an_alias_counts() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Served:
        route: str = field(default="", metadata={"env": "AIP_ROUTE"})
        """A route."""

    assert from_environment(Toy, "toy", {"HIMARI_COUNT": ""}) == []
    (one,) = from_environment(Served, "s", {"AIP_ROUTE": "/x"})
    assert (one.key, one.raw, one.origin) == ("s.route", "/x", "AIP_ROUTE")
    both = from_environment(Served, "s", {"AIP_ROUTE": "/x", "HIMARI_ROUTE": "/y"})
    assert both[-1].origin == "HIMARI_ROUTE"  # our own name goes before the platform's


def test_a_secret_is_used_and_not_shown() -> None:
    found = toy(*from_assignments(["toy.key=abc"]))
    assert found["toy"].key == b"abc"
    assert found.to_dict()["toy"]["key"] == "(set)"
    with pytest.raises(ConfigError) as refused:
        toy(Given(key="toy.key", raw=12345, origin="run.yaml"))
    assert "12345" not in str(refused.value)


def test_json_and_back_with_limits_that_are_off() -> None:
    config = Toy(names=("x",), inner=Inner(stop=math.inf))
    plain = as_dict(config)
    assert plain["inner"] == {"stop": None}  # JSON has no infinity
    assert plain["names"] == ["x"]
    assert from_dict(Toy, plain | {"key": b""}) == config
    with pytest.raises(ConfigError, match="no field cuont"):
        from_dict(Toy, {"cuont": 1})


def test_the_hash_changes_with_every_value_and_with_no_origin() -> None:
    changed = [f"toy.{k}" for k in ("count=4", "rate=.1", "flag=1", "name=z", "maybe=1", "mode=fast", "inner.stop=inf")]
    hashes = {toy(*from_assignments([word])).hash for word in changed}
    assert len(hashes | {toy().hash}) == len(changed) + 1
    assert toy(*from_assignments(["toy.count=3"])).hash == toy().hash
    assert config_hash(Base()) != config_hash(Base(count=4))


@pytest.mark.parametrize("seeds", [(), (1, 1), (-1,)])
def test_seeds_that_make_no_ensemble_are_refused(seeds: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match="seeds"):
        require_seeds(seeds)
