"""The command line's contract: flags, examples, exit codes, one line for every mistake."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from helpers import run_himari, run_python
from himari_rl import cli
from himari_rl.cli.signature import make_command, make_group
from himari_rl.errors import DataError, RefusedError

# Adding a flag is a line here; taking one away breaks somebody's script.
SHARED = "--config --set --json"
LEDGER = (
    "--allow-short --commission-rate --slippage-bps --max-position-pct --reward --risk-aversion --beliefs --no-beliefs"
)
AGENT = "--recipe --hidden-dim --learning-rate --weight-decay"
TRAIN = (
    f"{SHARED} {LEDGER} {AGENT} --accept --data --device --features --num-episodes --out --overwrite --resume "
    "--save-interval --seed --seeds --tensorboard --test-fraction --max-cost --usd-per-hour"
)
CONTRACT = {
    "certify": f"{SHARED} {AGENT} --num-episodes --device --html --jobs --market --max-cost --seed --seeds "
    "--usd-per-hour",
    "config show": SHARED,
    "cost": f"{SHARED} --costs --offline --profile --spot",
    "deploy": f"{SHARED} --dry-run --profile --render --write",
    "launch": f"{SHARED} --detach --dry-run --launch-id --local --max-cost --model --profile --spot",
    "monitoring": f"{SHARED} --dry-run --email --offline --profile",
    "data audit": "--accept --interval --json --symbol",
    "data fetch": "--exchange --json --out --since --timeframe --until",
    "data join": "--json --max-age --out --symbol",
    "features check": "--cuts --data --json --rows --symbol",
    "decide": f"{SHARED} --accept-implausible --accept-leak --base --lstm --multi --new-ledger --rules --signer",
    "completion": "",
    "demo": "--data --json --num-episodes --out --real --seed --symbol",
    "doctor": "--data --json",
    "init": "--json --rows --seed",
    "evaluate": f"{SHARED} --accept --allow-seen --beliefs-from --costs --data --external-code --funding --html "
    "--risk-aversion --seed --symbol --test-fraction --trials",
    "gate": f"{SHARED} --accept-implausible --accept-leak --champion --external-code --new-ledger --rules --run "
    "--signer",
    "promote": f"{SHARED} --accept-implausible --accept-leak --champion --external-code --folder --new-ledger "
    "--override --rules --run --signer",
    "register": f"{SHARED} --data --kind --rules --span --symbol --symbols",
    "report": f"{SHARED} --accept-implausible --accept-leak --champion --external-code --new-ledger --out --rules "
    "--signer",
    "judge": "--json --per-year --seed --trials",
    "verify": "--beliefs-from --certificate --data --external-code --funding --jobs --json --key --symbol --symbols "
    "--train",
    "certificate": "--json --run --signer",
    "runs": "--html --json",
    "rollback": "--folder --json --reason",
    "export": "--json --out",
    "sign": "--json --key",
    "run halt": "--journal --json --why",
    "run resume": "--journal --json --why",
    "journal verify": "--json",
    "journal tail": "--count --json --kind",
    "journal export": "--json --out",
    "replay": "--bundle --json",
    "ab plan": f"{SHARED} --accounts --alpha --between --correlation --experiment --interval --measure --mode --sharpe",
    "ab report": "--json",
    "ab run": f"{SHARED} --alpha --challenger --champion --follow --measure --mode --out",
    "ab status": "--json",
    "serve": f"{SHARED} --access-log --allow-anonymous --challenger --external-code --host --journal "
    "--log-every --other-contracts --port --share --signer",
    "train base": f"{TRAIN} --beliefs-from --symbol",
    "train multi": f"{TRAIN} --funding --interval --symbols",
    "train lstm": f"{TRAIN} --symbol --gap-rule --lstm-hidden-dim --lstm-num-layers",
    "tune": f"{SHARED} {LEDGER} {AGENT} --accept --num-episodes --data --features --funding --out --seed --symbol "
    "--symbols --test-fraction --trials",
    "walk-forward": f"{SHARED} {LEDGER} {AGENT} --accept --expanding --no-expanding --num-episodes --bootstrap-paths "
    "--data --beliefs-from --embargo-bars --features --folds --funding --jobs --key --out --overwrite --rules "
    "--scheduler --seed --seeds --step --symbol --symbols --synthetic-paths --task --test --train --tune-trials "
    "--usd-per-hour --max-cost "
    "--validation-fraction --warm-start",
}


def commands(command: Any = None, path: str = "") -> Iterator[tuple[str, Any]]:
    command = command or cli.build_app()
    inner = getattr(command, "commands", None)
    if inner is None:
        yield path, command
    else:
        for name, sub in inner.items():
            yield from commands(sub, f"{path} {name}".strip())


def test_every_command_and_flag_is_the_promised_one() -> None:
    flags = {
        path: {
            name
            for option in command.params
            for name in (*option.opts, *option.secondary_opts)
            if name.startswith("--")
        }
        for path, command in commands()
    }
    assert flags == {path: set(promised.split()) for path, promised in CONTRACT.items()}


@pytest.mark.parametrize("path", sorted(CONTRACT))
def test_help_has_an_example_that_names_the_command(path: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([*path.split(), "--help"]) == 0
    out = capsys.readouterr().out
    assert "xample" in out
    assert f"himari {path}" in out.split("xample", 1)[1]


SLOW_TO_IMPORT = (
    *("torch", "gymnasium", "pandas", "scipy", "pyarrow", "ccxt", "fastapi", "uvicorn", "arch", "skfolio", "sklearn"),
    *("optuna", "sqlalchemy", "plotly", "tensorboard", "onnx", "dask", "cryptography"),
    *("google.auth", "google.api_core", "google.cloud.storage"),  # google.cloud itself may be a .pth file's
)


HELP_OF_EACH = """
import contextlib, io, json, sys
from himari_rl import cli
for path in {paths!r}:
    with contextlib.redirect_stdout(io.StringIO()) as said:
        code = cli.main([*path.split(), "--help"])
    print(json.dumps([path, code, said.getvalue(), [name for name in {slow!r} if name in sys.modules]]))
"""


@pytest.fixture(scope="module")
def helped() -> dict[str, list[Any]]:
    """Code, page and slow imports of each --help, one after the other in a fresh process: what one has imported stays
    imported for the next, so that nothing hides."""
    result = run_python(HELP_OF_EACH.format(paths=["", *sorted(CONTRACT)], slow=SLOW_TO_IMPORT))
    assert result.stderr == ""
    return {path: said for path, *said in map(json.loads, result.stdout.splitlines())}


@pytest.mark.parametrize("path", ["", *sorted(CONTRACT)])
def test_help_answers_at_once_because_it_imports_nothing_that_is_slow(path: str, helped: dict[str, list[Any]]) -> None:
    code, page, slow = helped[path]
    assert "Usage: himari" in page
    assert (code, slow) == (0, [])


def test_what_is_slow_to_import_would_be_noticed() -> None:
    code = HELP_OF_EACH.format(paths=["", "runs"], slow=SLOW_TO_IMPORT)
    said = run_python(code.replace("code = ", "if path: import pyarrow\n        code = ")).stdout.splitlines()
    assert [json.loads(line)[3] for line in said] == [[], ["pyarrow"]]


@pytest.mark.parametrize("argv", [["nonsense"], ["--nonsense"]])
def test_bad_usage_is_exit_2_and_one_line_with_a_hint(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(argv) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.splitlines()) == 1
    assert "see himari --help" in err


def test_no_command_at_all_shows_the_help() -> None:
    result = run_himari()
    assert result.returncode == 2
    assert "Usage: himari" in result.stdout + result.stderr
    assert "Traceback" not in result.stderr


@pytest.fixture
def app_that_raises(monkeypatch: pytest.MonkeyPatch) -> Any:
    def install(error: BaseException) -> None:
        def go() -> None:
            raise error

        app = make_group("himari")
        app.add_command(make_command(go))
        monkeypatch.setattr(cli, "build_app", lambda *_, **__: app)

    return install


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (
            DataError("no file x.csv", "a CSV", "check the path"),
            2,
            "himari: no file x.csv; expected a CSV; check the path",
        ),
        (RefusedError("no edge found", "", "keep 1.0"), 1, "himari: no edge found; keep 1.0"),
        (DataError("two\nlines"), 2, "himari: two lines"),
        (KeyboardInterrupt(), 130, "himari: stopped"),
    ],
)
def test_an_expected_failure_is_one_line_and_its_exit_code(
    app_that_raises: Any, capsys: pytest.CaptureFixture[str], error: BaseException, code: int, line: str
) -> None:
    app_that_raises(error)
    assert cli.main(["go"]) == code
    assert capsys.readouterr().err.strip() == line


def test_a_bug_is_not_disguised_as_bad_input(app_that_raises: Any) -> None:
    app_that_raises(ZeroDivisionError("a bug"))
    with pytest.raises(ZeroDivisionError):
        cli.main(["go"])


def test_a_reader_that_leaves_early_gets_no_traceback() -> None:
    himari = str(Path(sys.executable).with_name("himari"))
    result = subprocess.run(["bash", "-c", f"{himari} --help | head -c 1"], capture_output=True, text=True, check=False)
    assert "Traceback" not in result.stderr


@pytest.fixture
def list_command() -> Any:
    def take(bundle: str, data: list[str] | None = None, seed: int = 0) -> None:
        """Takes a list."""

    app = make_group("himari")
    app.add_command(make_command(take))
    return app


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("take b --data x", "take b --data x"),
        ("take b --data x y z --seed 3", "take b --data x --data y --data z --seed 3"),
        ("take b --data x --data y", "take b --data x --data y"),
        ("take --data x y -- b", "take --data x --data y -- b"),
        ("take --seed 3 b", "take --seed 3 b"),
        ("take b --data", "take b --data"),
    ],
)
def test_a_list_option_takes_every_word_up_to_the_next_option(list_command: Any, typed: str, meant: str) -> None:
    assert cli.spread_lists(list_command, typed.split()) == meant.split()
