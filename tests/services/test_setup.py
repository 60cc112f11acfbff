"""init and doctor."""

import os
import sqlite3
import stat
import tomllib
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from leadctl.domain.errors import ConfigError, DatabaseUnreachable
from leadctl.domain.outcomes import TargetState
from leadctl.services import doctor as doctor_module
from leadctl.services.config_template import render_config
from leadctl.services.doctor import without_password
from leadctl.services.setup import doctor, doctor_exit_code, init
from leadctl.settings import Settings, load_settings
from tests.services.ledgers import leave, make_world, opened
from tests.support.channels import NOW
from tests.support.schemas import validate
from tests.support.world import World

TABLES = {"leads", "credentials", "entity_credentials", "project_credentials"}


@pytest.fixture(autouse=True)
def _own_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)


def made(path: Path, url: str | None = None) -> dict[str, Any]:
    document = init(path, url)
    validate(document)
    return document


def tables(file: Path) -> set[str]:
    connection = sqlite3.connect(file)
    try:
        return {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    finally:
        connection.close()


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


# -- init --------------------------------------------------------------------------------------------------------


def test_init_writes_a_config_that_loads_and_a_database_with_the_four_tables() -> None:
    document = made(Path("leadctl.toml"))
    assert document["created_tables"]
    assert document["database"] == "sqlite:///leads.db"
    assert "leadctl --config leadctl.toml doctor" in document["next"]
    assert mode(Path("leadctl.toml")) == 0o600
    assert tables(Path("leads.db")) >= TABLES
    loaded = load_settings(None, {})
    assert loaded.settings == Settings()
    assert loaded.path == Path("leadctl.toml")


def test_an_existing_config_is_never_overwritten() -> None:
    Path("leadctl.toml").write_text("mine")
    with pytest.raises(ConfigError, match="exists already") as caught:
        init(Path("leadctl.toml"), None)
    assert caught.value.exit_code == 2
    assert Path("leadctl.toml").read_text() == "mine"
    assert not Path("leads.db").exists()


def test_a_dangling_link_is_not_followed() -> None:
    Path("leadctl.toml").symlink_to("elsewhere.toml")
    with pytest.raises(ConfigError, match="exists already"):
        init(Path("leadctl.toml"), None)
    assert not Path("elsewhere.toml").exists()


def test_a_config_elsewhere_has_its_database_beside_it(tmp_path: Path) -> None:
    document = made(tmp_path / "etc" / "leadctl" / "config.toml")
    assert document["database"] == f"sqlite:///{tmp_path}/etc/leadctl/leads.db"
    assert tables(tmp_path / "etc" / "leadctl" / "leads.db") >= TABLES


def test_an_existing_database_is_left_as_it_is() -> None:
    connection = sqlite3.connect("app.db")
    connection.execute("CREATE TABLE users (id INTEGER)")
    connection.close()
    before = Path("app.db").read_bytes()
    assert not made(Path("leadctl.toml"), "sqlite:///app.db")["created_tables"]
    assert Path("app.db").read_bytes() == before


def test_a_server_that_does_not_answer_leaves_no_config() -> None:
    with pytest.raises(DatabaseUnreachable) as caught:
        init(Path("leadctl.toml"), "postgresql://app:s3cr3t@127.0.0.1:9/crm")
    assert caught.value.exit_code == 5
    assert "s3cr3t" not in str(caught.value)
    assert not Path("leadctl.toml").exists()


def test_a_url_from_the_environment_stays_one(monkeypatch: pytest.MonkeyPatch) -> None:
    document = made(Path("one.toml"), "env:CRM_URL")
    assert (document["database"], document["created_tables"]) == ("env:CRM_URL", False)
    monkeypatch.setenv("CRM_URL", "sqlite:///from-env.db")
    assert made(Path("two.toml"), "env:CRM_URL")["created_tables"]
    assert tomllib.loads(Path("two.toml").read_text())["database"]["url"] == "env:CRM_URL"
    assert tables(Path("from-env.db")) >= TABLES


@pytest.mark.parametrize("url", ["leads.db", "oracle://h/db", "sqlite://", "sqlite:///no/such/directory/leads.db"])
def test_a_bad_url_writes_nothing(url: str) -> None:
    with pytest.raises(ConfigError):
        init(Path("leadctl.toml"), url)
    assert not Path("leadctl.toml").exists()


def test_a_place_that_cannot_be_written() -> None:
    Path("file").write_text("")
    with pytest.raises(ConfigError, match="cannot be written"):
        init(Path("file/leadctl.toml"), None)


def test_every_key_of_the_settings_is_in_the_config_and_right_when_uncommented() -> None:
    lines = [line.removeprefix("# ") for line in render_config().splitlines()]
    tree = tomllib.loads("\n".join(filter(_is_toml, lines)))
    settings = Settings.model_validate(tree)
    assert settings.send == Settings().send
    for name, field in Settings.model_fields.items():
        assert name in tree
        for key in getattr(field.annotation, "model_fields", {}):
            assert key in tree[name], f"{name}.{key}"
    assert settings.limits.rates["amocrm"].rate == 5


def _is_toml(line: str) -> bool:
    try:
        return bool(tomllib.loads(line))
    except tomllib.TOMLDecodeError:
        return False


def test_the_config_that_is_written_survives_any_url() -> None:
    url = 'postgresql://a:"\\\x7f\t☃@h/db'
    assert tomllib.loads(render_config(url))["database"]["url"] == url


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://u:p'w@x@h/db", "postgresql://u:***@h/db"),
        ("postgresql://h/db?password=se&user=x", "postgresql://h/db?password=***&user=x"),
        ("mysql://u@h/d", "mysql://u@h/d"),
        ("sqlite:////a/b.db", "sqlite:////a/b.db"),
    ],
)
def test_a_url_is_shown_without_its_password(url: str, shown: str) -> None:
    assert without_password(url) == shown


# -- doctor ------------------------------------------------------------------------------------------------------


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = make_world(tmp_path)
    world.db_path.chmod(0o600)
    yield world
    world.folder.chmod(0o700)


def examined(config: str | None = "leadctl.toml") -> dict[str, list[dict[str, Any]]]:
    rows = doctor(config)
    validate({"schema": "leadctl.doctor/1", "checks": rows, "exit_code": doctor_exit_code(rows)})
    by_check: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        by_check.setdefault(row["check"], []).append(row)
    return by_check


def code() -> int:
    return doctor_exit_code(doctor("leadctl.toml"))


@pytest.mark.usefixtures("world")
def test_a_sound_place() -> None:
    checks = examined()
    told = {name: rows[0]["message"] for name, rows in checks.items()}
    assert told["config send.tries"] == "3 (default)"
    assert told["config limits.scale"] == "20.0 (file)"
    assert "leads 3, credentials 2, entity_credentials 2" in told["database"]
    assert "the first send makes it" in told["ledger"]
    assert told["credentials telegram"] == "1 enabled, 0 invalid"
    assert {row["verdict"] for rows in checks.values() for row in rows} == {"ok"}
    assert code() == 0


def test_a_ledger_is_told_with_what_it_knows(world: World) -> None:
    with opened(world) as app:
        installation = app.ledger.installation
        assert f"installation {installation}; it knows of no earlier send" in examined()["ledger"][0]["message"]
        leave(app, 1, 11, TargetState.DELIVERED)
        app.ledger.keep_override(11, "chat_id", -100999, NOW)
    checks = examined()
    assert checks["ledger"][0]["message"].endswith(f"installation {installation}")
    (override,) = checks["ledger overrides"]
    assert (override["verdict"], override["message"].split(" was ")[0]) == ("warning", "credential 11: chat_id")


def test_invalid_and_unsupported_credentials_are_named_with_the_field(world: World) -> None:
    world.add_credential(13, "telegram", {"chat_id": 1, "bot_token": "s3cr3t-bad-token"})
    world.add_credential(14, "Email", {})
    world.add_credential(15, "email", {}, enabled=False)
    checks = examined()
    (telegram,) = checks["credentials telegram"]
    assert telegram["verdict"] == "warning"
    assert "2 enabled, 1 invalid; credential 13: data.bot_token" in telegram["message"]
    assert checks["credentials"][0]["message"] == "1 of the unsupported type 'Email'"
    assert "credentials email" not in checks
    assert "s3cr3t" not in str(checks)
    assert code() == 0


def test_a_limit_above_the_documented_one_is_an_error(world: World) -> None:
    world.write_config("[limits.telegram]\nrate = 500\n")
    assert examined()["limits"][0]["code"] == "usage"
    assert code() == 2


@pytest.mark.parametrize(
    ("config", "exit_code", "check", "said"),
    [
        ("[database\n", 2, "config", "not valid TOML"),
        ("[database]\nurll = 1\n", 2, "config", "unknown key database.urll"),
        ('[database]\nurl = "sqlite:///none.db"\n', 2, "database", "does not exist"),
        ('[database]\nurl = "mysql://u:s3cr3t@127.0.0.1:9/db"\n', 5, "database", "does not answer"),
    ],
)
def test_what_must_be_corrected(tmp_path: Path, config: str, exit_code: int, check: str, said: str) -> None:
    (tmp_path / "leadctl.toml").write_text(config)
    checks = examined()
    (row,) = checks[check]
    assert (row["verdict"], said in row["message"]) == ("error", True)
    assert "s3cr3t" not in str(checks)
    assert code() == exit_code


def test_no_config_file_at_all() -> None:
    checks = examined(None)
    assert "there is no config file" in checks["config"][0]["message"]
    assert checks["database"][0]["verdict"] == "error"


def test_a_ledger_of_a_newer_release_is_an_error(world: World) -> None:
    with opened(world) as app, app.ledger.writing.begin() as connection:
        connection.exec_driver_sql("UPDATE leadctl_meta SET value = '99' WHERE key = 'schema_version'")
    assert "newer leadctl" in examined()["ledger"][0]["message"]
    assert code() == 2


@pytest.mark.usefixtures("world")
def test_an_unknown_variable_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEADCTL_SEND__TRYS", "5")
    (row,) = examined()["environment"]
    assert (row["verdict"], "LEADCTL_SEND__TRYS" in row["message"]) == ("warning", True)


def test_files_that_everybody_can_read(world: World) -> None:
    world.db_path.chmod(0o644)
    config = world.folder / "leadctl.toml"
    config.chmod(0o644)
    checks = examined()
    assert checks["file mode leads and credentials"][0]["hint"] == f"chmod o-rwx {world.db_path}"
    assert checks["file mode config"][0]["verdict"] == "ok"  # there is no secret in it
    config.write_text(config.read_text() + '[ledger]\nurl = "postgresql://u:s3cr3t@127.0.0.1:9/db"\n')
    checks = examined()
    assert checks["file mode config"][0]["verdict"] == "warning"
    assert "s3cr3t" not in str(checks)


def test_a_clock_that_is_behind_its_files(world: World) -> None:
    future = (NOW + timedelta(days=36_500)).timestamp()
    os.utime(world.db_path, (future, future))
    (row,) = examined()["clock"]
    assert (row["verdict"], "in the future" in row["message"]) == ("warning", True)


@pytest.mark.usefixtures("world")
def test_little_space_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor_module, "LOW_DISK", 1 << 62)
    assert examined()["ledger disk"][0]["verdict"] == "warning"
