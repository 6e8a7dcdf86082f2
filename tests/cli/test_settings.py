"""Every field of every section is reachable, has a meaning, and an option that is made of it once."""

from __future__ import annotations

import dataclasses
import json
import types
from collections import Counter
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

import pytest

from helpers import ROOT, run_python
from himari_rl import cli
from himari_rl.cli.extras import EXTRAS
from himari_rl.cli.settings import COMMANDS, KINDS, SECTIONS, every_key, resolved, section_type, sections_of
from himari_rl.config import settings_of
from himari_rl.experiments.walk_forward import Settings
from himari_rl.serving.settings import ServeSettings, from_environment
from himari_rl.training.job import Job

TYPES = [(section, kind) for section in SECTIONS for kind in (KINDS if section == "agent" else KINDS[:1])]
WORDS = {  # a valid other value where a field takes only some words
    "agent.head": "squash",
    "agent.advantage": "gae",
    "agent.gap_rule": "advance",
    "environment.reward": "log_growth",
    "serve.gap_rule": "advance",
    "train.device": "cpu",
    "certify.device": "cpu",
    "run.clock": "bar",
    "portfolio.account": "given",
    "launch.profile": "cpu",
    "monitoring.profile": "steady",
    "budget.max_cost": "5.0",
    "machines.t4.places": "a/b,c/d",
    "machines.l4.places": "a/b,c/d",
    "machines.cpu.places": "a/b,c/d",
    "machines.run_job.memory": "4Gi",
}


def other(annotation: Any, value: Any, key: str) -> str:
    """Text of a valid value that is not `value`."""
    if key in WORDS:
        return WORDS[key]
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin in (Union, types.UnionType):
        return other(arguments[0], value, key)
    if origin is Literal:
        return next(str(each) for each in arguments if each != value)
    if origin is not None:
        return {str: "x,y", int: "7,8", float: "4.0,5.0"}[arguments[0]]
    if annotation is bool:
        return str(not value).lower()
    if annotation is int:
        return str((value or 0) + 1)
    if annotation is float:
        return repr(0.9 * value if value else 0.125)
    return "3d" if key.startswith("walk_forward.") else "x"


def shown(annotation: Any, text: str) -> Any:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin in (Union, types.UnionType):
        return shown(arguments[0], text)
    if origin is Literal:
        return text
    if origin is not None:
        return [shown(arguments[0], part) for part in text.split(",")]
    if annotation is bool:
        return text == "true"
    return annotation(text) if annotation in (int, float) else text


@pytest.mark.parametrize("command", sorted(COMMANDS))
@pytest.mark.parametrize("kind", KINDS)
def test_every_field_is_reached_by_set(command: str, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    made = sections_of(command, kind)
    settings = [s for section, each in made.items() for s in settings_of(each, section)]
    asked = {s.key: other(s.annotation, s.value, s.key) for s in settings}
    words = [part for key, text in asked.items() for part in ("--set", f"{key}={text}")]
    assert cli.main(["config", "show", command, kind, *words, "--json"]) == 0
    found = {s["key"]: s for s in json.loads(capsys.readouterr().out)["settings"]}
    assert list(found) == list(asked)
    for setting in settings:
        one = found[setting.key]
        assert one["origin"] == "--set"
        expected = "(set)" if setting.secret else shown(setting.annotation, asked[setting.key])
        assert one["value"] == expected, setting.key


@pytest.mark.parametrize(("section", "kind"), TYPES)
def test_every_field_has_a_meaning_and_builds(section: str, kind: str) -> None:
    made = section_type(section, kind)
    assert all(dataclasses.is_dataclass(made) and f.kw_only for f in dataclasses.fields(made))
    assert [s.key for s in settings_of(made, section) if not s.help] == []
    assert resolved(next(c for c in COMMANDS if section in COMMANDS[c]), kind)[section] == made()


def test_a_field_without_a_meaning_would_be_found() -> None:
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Mute:
        number: int = 1

    assert [s.key for s in settings_of(Mute, "m") if not s.help] == ["m.number"]


def test_the_library_and_the_command_line_have_the_same_defaults() -> None:
    job, walk = Job(), Settings()
    for name, library in (("train", job), ("walk_forward", walk)):
        made = section_type(name)()
        assert {f.name: getattr(library, f.name) for f in dataclasses.fields(made)} == vars(made)
    assert job.seeds == walk.seeds == (0, 1, 2, 3, 4)
    assert walk.recipe.bars == 500_000  # what --bars-per-seed was
    assert section_type("tune")().num_episodes * job.environment.episode_bars == 250_000


def test_no_option_is_made_twice_and_every_made_one_is_a_field() -> None:
    command = cli.build_app()
    tree = {name: each for name, each in command.commands.items() if name != "train"}
    tree |= {f"train {name}": each for name, each in command.commands["train"].commands.items()}
    for name, each in tree.items():
        options = [option for parameter in each.params for option in parameter.opts]
        assert [o for o, count in Counter(options).items() if count > 1] == [], name
        for parameter in each.params:
            key = parameter.name.removesuffix("__first").removesuffix("__off").replace("__", ".")
            assert "__" not in parameter.name or key in every_key(), (name, key)


def test_fees_shorts_and_the_agent_are_plain_options_with_the_fields_own_words(capsys: Any) -> None:
    for words in (["train", "base"], ["walk-forward"], ["tune"]):
        assert cli.main([*words, "--help"]) == 0
        text = " ".join(capsys.readouterr().out.replace("│", " ").split())
        for option in ("--allow-short", "--commission-rate", "--slippage-bps", "--max-position-pct", "--reward"):
            assert option in text
        assert "0.001" in text  # the default, from the field


def test_each_origin_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    (tmp_path / "run.yaml").write_text("serve: {log_every: 1, reload_s: 9}\nenvironment: {commission_rate: 0.0004}\n")
    monkeypatch.setenv("HIMARI_LOG_EVERY", "2")
    monkeypatch.setenv("HIMARI_MAX_SESSIONS", "3")
    words = ["--config", str(tmp_path / "run.yaml"), "--set", "serve.max_sessions=4"]
    assert cli.main(["config", "show", "serve", *words, "--json"]) == 0
    found = {s["key"]: (s["value"], s["origin"]) for s in json.loads(capsys.readouterr().out)["settings"]}
    assert found["serve.reload_s"] == (9.0, "run.yaml")
    assert found["serve.log_every"] == (2, "HIMARI_LOG_EVERY")
    assert found["serve.max_sessions"] == (4, "--set")
    assert found["serve.admin"] == (True, "default")


def test_rules_of_the_gate_come_from_their_own_file_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text("min_sharpe: 0.5\nmax_drawdown: 0.4\n")
    (tmp_path / "run.yaml").write_text("gate: {min_sharpe: 0.7}\n")
    found = resolved("gate", file="run.yaml", rules="mine.yaml").settings
    assert (found["gate.min_sharpe"].value, found["gate.min_sharpe"].origin) == (0.7, "run.yaml")
    assert (found["gate.max_drawdown"].value, found["gate.max_drawdown"].origin) == (0.4, "mine.yaml")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--set", "environment.comission_rate=1"], "expected environment.commission_rate"),
        (["--set", "serve.log_every=1"], "himari walk-forward base does not use serve.log_every"),
        (["--set", "agent.lstm_hidden_dim=8"], "himari walk-forward base does not use agent.lstm_hidden_dim"),
        (["--set", "environment.commission_rate=high"], "environment.commission_rate is 'high'; expected a number"),
        (["--set", "environment.commission_rate"], "expected key=value"),
        (["--config", "nowhere.yaml"], "nowhere.yaml"),
        (["--commission-rate", "7"], "commission_rate 7.0; expected a number from 0 to 0.1"),
        (["--reward", "mine"], "reward 'mine'"),
        (["--seeds", "none"], "--seeds"),
        (["--hidden-dim", "0"], "hidden_dim 0"),
        (["--num-episodes", "0"], "num_episodes 0"),
    ],
)
def test_a_mistake_is_one_line_and_exit_2(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["walk-forward", "base", "--data", "x.csv", *words]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.splitlines()) == 1
    assert said in err


def test_a_value_that_cannot_be_is_refused_before_the_data_is_read(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["train", "base", "--data", "nowhere.csv", "--commission-rate", "7"]) == 2
    assert "commission_rate" in capsys.readouterr().err


def test_one_file_serves_every_command(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(
        "agent: {lstm_hidden_dim: 8}\nenvironment: {allow_short: yes}\nserve: {log_every: 5}\ngate: {min_sharpe: 2}\n"
    )
    place = str(tmp_path / "run.yaml")
    assert resolved("train", "lstm", place)["agent"].lstm_hidden_dim == 8
    assert resolved("train", "base", place)["environment"].allow_short is True
    assert resolved("serve", file=place)["serve"].log_every == 5


def test_the_example_is_read_by_every_command_and_used() -> None:
    place = str(ROOT / "config" / "run.yaml")
    for command in COMMANDS:
        found = resolved(command, file=place)
        used = [s.key for s in found.settings.values() if s.origin == "run.yaml"]
        assert bool(used) == bool({"environment", "walk_forward", "gate", "serve"} & set(COMMANDS[command]))
    assert resolved("train", file=place)["environment"].cost_rate == pytest.approx(0.0009)


def test_every_field_of_the_server_has_its_variable() -> None:
    """One loop: what is a field has a variable, without a list."""
    for field in dataclasses.fields(ServeSettings):
        (setting,) = (s for s in settings_of(ServeSettings, "serve") if s.key == f"serve.{field.name}")
        text = other(setting.annotation, setting.value, setting.key)
        found = from_environment({f"HIMARI_{field.name.upper()}": text})
        assert list(found) == [field.name]
        assert found[field.name] != setting.value
    assert from_environment({"AIP_HEALTH_ROUTE": "/health"}) == {"vertex_health_route": "/health"}


def test_config_show_answers_without_torch_and_without_any_extra() -> None:
    blocked = [name for names in EXTRAS.values() for name in names]
    code = f"""
import sys
sys.modules |= dict.fromkeys({blocked!r})
from himari_rl.cli import main
for command in {list(COMMANDS)!r}:
    for kind in {KINDS!r}:
        assert main(["config", "show", command, kind, "--json"]) == 0
"""
    result = run_python(code)
    assert result.returncode == 0, result.stderr
