"""A certificate of a recomputed verdict: signed, refused where any field is changed, held against a run's files."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from helpers.verdict import run_small, small_bars, small_settings
from himari_rl.cli import main
from himari_rl.data.table import write_bars
from himari_rl.errors import StorageError
from himari_rl.evaluation.record import BUNDLE, CURVES, DOCUMENT
from himari_rl.experiments.certificate import _FIELDS, check_certificate, files_of, write_certificate
from himari_rl.experiments.run import run_walk_forward
from himari_rl.experiments.verify import verify
from himari_rl.policy.bundle import amend
from himari_rl.policy.signature import key_text, private_key, public_key, sign, signature_of


def keys(folder: Path, name: str) -> tuple[Path, Path]:
    """A new pair of PEM files, private and public."""
    secret = Ed25519PrivateKey.generate()
    mine, theirs = folder / f"{name}.pem", folder / f"{name}.pub"
    mine.write_bytes(secret.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    theirs.write_bytes(secret.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return mine, theirs


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run, two pairs of keys, and the certificate of the first."""
    folder = tmp_path_factory.mktemp("certificate")
    run_small(folder / "run")
    mine, _ = keys(folder, "mine")
    keys(folder, "other")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SOURCE_DATE_EPOCH", "1700000000")
        files = files_of(folder / "run")
        write_certificate(folder / "c.json", verify(folder / "run", small_bars()), folder / "run", files, mine)
    return folder


def said_of(made: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((made / "c.json").read_text())
    return found


def test_it_says_what_was_recomputed_from_what_and_holds(made: Path) -> None:
    said, bars = said_of(made), small_bars()
    assert said["equal"] is True
    assert said["created_at"] == "2023-11-14T22:13:20+00:00"  # date -u -d @1700000000
    assert said["data"]["sha256"] == bars.fingerprint
    assert said["data"]["rows"] == len(bars)
    document = json.loads((made / "run" / DOCUMENT).read_text())
    assert said["verdict"]["sentence"] == document["judgement"]["verdict"]["sentence"]
    folds = {path.relative_to(made / "run").as_posix() for path in (made / "run" / "folds").rglob("*.fold")}
    assert folds < set(said["files"])
    found = check_certificate(made / "c.json", public_key(made / "mine.pub"), made / "run")
    assert found.holds
    assert found.compared == len(said["files"])
    assert "the same" in str(found)


def another(value: Any) -> Any:
    """Any other value of the same type, in its innermost place."""
    if isinstance(value, dict) and value:
        name = sorted(value)[0]
        return value | {name: another(value[name])}
    if isinstance(value, list) and value:
        return [another(value[0]), *value[1:]]
    if isinstance(value, bool):
        return not value
    return value + 1 if isinstance(value, int) else "AAAA" if isinstance(value, str) else ["added"]


@pytest.mark.parametrize("name", sorted(_FIELDS))
def test_any_field_that_is_changed_or_left_out_is_found(made: Path, tmp_path: Path, name: str) -> None:
    said = said_of(made)
    (tmp_path / "c.json").write_text(json.dumps(said | {name: another(said[name])}))
    with pytest.raises(StorageError, match=r"is not as it was signed|is no certificate: version"):
        check_certificate(tmp_path / "c.json")
    del said[name]
    (tmp_path / "c.json").write_text(json.dumps(said))
    with pytest.raises(StorageError, match=f"is no certificate: {name}"):
        check_certificate(tmp_path / "c.json")


def test_another_key_no_signature_and_a_field_more_are_refused(made: Path, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="is signed with the key"):
        check_certificate(made / "c.json", public_key(made / "other.pub"))
    said = said_of(made)
    for change, message in (({"signature": ""}, "is not signed"), ({"more": 1}, "is no certificate: more")):
        (tmp_path / "c.json").write_text(json.dumps(said | change))
        with pytest.raises(StorageError, match=message):
            check_certificate(tmp_path / "c.json")


def test_whoever_signs_a_changed_one_anew_is_found_out_by_the_key_and_by_nothing_else(
    made: Path, tmp_path: Path
) -> None:
    secret = private_key(made / "other.pem")
    said = said_of(made) | {"key": key_text(secret.public_key())}
    said["verdict"]["sentence"] = "The best policy there is."
    del said["signature"]
    payload = json.dumps(said, sort_keys=True, separators=(",", ":")).encode()
    (tmp_path / "c.json").write_text(json.dumps(said | {"signature": signature_of(payload, secret)}))
    assert not check_certificate(tmp_path / "c.json").holds  # nobody said whose it must be
    with pytest.raises(StorageError, match="is signed with the key"):
        check_certificate(tmp_path / "c.json", public_key(made / "mine.pub"))


def bit(run: Path, name: str) -> str:
    data = bytearray((run / name).read_bytes())
    data[-2] ^= 1
    (run / name).write_bytes(bytes(data))
    return f"{name}: was changed"


def gone(run: Path) -> str:
    (run / "folds" / "real" / "000-1.fold").unlink()
    return "folds/real/000-1.fold: is gone"


def added(run: Path) -> str:
    shutil.copy(run / "folds" / "real" / "000-1.fold", run / "folds" / "real" / "009-1.fold")
    return "folds/real/009-1.fold: was not there"


def manifest(run: Path) -> str:
    amend(run / BUNDLE, code_version="0.0.0")
    return f"{BUNDLE}/manifest.json: was changed"


@pytest.mark.parametrize(
    "change",
    [
        lambda run: bit(run, DOCUMENT),
        lambda run: bit(run, CURVES),
        lambda run: bit(run, "settings.json"),
        lambda run: bit(run, f"{BUNDLE}/weights.safetensors"),
        lambda run: bit(run, "folds/real/001-0.fold"),
        gone,
        added,
        manifest,
    ],
)
def test_a_run_that_is_no_longer_the_one_is_named(made: Path, tmp_path: Path, change: Callable[[Path], str]) -> None:
    run = Path(shutil.copytree(made / "run", tmp_path / "run"))
    expected = change(run)
    if expected.startswith(DOCUMENT):  # a bit of white space: JSON still
        (run / DOCUMENT).write_text((made / "run" / DOCUMENT).read_text() + " ")
    found = check_certificate(made / "c.json", public_key(made / "mine.pub"), run)
    assert found.differences == (expected,)
    assert not found.holds


def test_gate_and_signature_of_the_bundle_may_come_later(made: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(made / "run", tmp_path / "run"))
    amend(run / BUNDLE, gate={"passed": False, "reason": "said later", "exceptions": []})
    sign(run / BUNDLE, made / "mine.pem")
    assert check_certificate(made / "c.json", public_key(made / "mine.pub"), run).holds


def test_from_the_command_line_equal_and_not(made: Path, tmp_path: Path, capsys: Any) -> None:
    from himari_rl.data.sources import load_bars

    write_bars(small_bars(), tmp_path / "BTC-SYNTHETIC_1h.csv")
    run_walk_forward(load_bars(str(tmp_path / "BTC-SYNTHETIC_1h.csv")), small_settings(), tmp_path / "run", None)
    words = ["verify", str(tmp_path / "run"), "--data", str(tmp_path / "BTC-SYNTHETIC_1h.csv")]
    assert main([*words, "--certificate", str(tmp_path / "c.json")]) == 2
    assert "--certificate without --key" in capsys.readouterr().err
    words += ["--certificate", str(tmp_path / "c.json"), "--key", str(made / "mine.pem")]
    assert main(words) == 0
    asked = ["certificate", str(tmp_path / "c.json"), "--run", str(tmp_path / "run")]
    assert main(asked) == 1  # whose key?
    asked += ["--signer", str(made / "mine.pub")]
    assert main(asked) == 0
    assert "equal, recomputed at" in capsys.readouterr().out
    document = json.loads((tmp_path / "run" / DOCUMENT).read_text())
    document["judgement"]["verdict"]["utility"]["estimate"] += 0.5
    (tmp_path / "run" / DOCUMENT).write_text(json.dumps(document))
    assert main(asked) == 1
    assert f"{DOCUMENT}: was changed" in capsys.readouterr().out
    assert main(words) == 1  # not equal, and that is signed too
    assert main([*asked, "--json"]) == 1
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (found["holds"], found["certificate"]["equal"], found["changed"]) == (False, False, [])
