"""Settings: where they come from, what goes first, and what is said of a wrong one."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from leadctl.domain.errors import ConfigError
from leadctl.settings import OPTION_VARIABLES, LoadedSettings, Rate, Settings, find_config, load_settings


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def load(text: str, environ: Mapping[str, str] | None = None) -> LoadedSettings:
    Path("c.toml").write_text(text, encoding="utf-8")
    return load_settings("c.toml", environ or {})


def refused(text: str, environ: Mapping[str, str] | None = None) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        load(text, environ)
    assert caught.value.exit_code == 2
    return caught.value


# Which file


def test_without_a_file_the_defaults_hold(home: Path) -> None:
    loaded = load_settings(None, {"HOME": str(home)})
    assert loaded.settings == Settings()
    assert (loaded.path, loaded.origins, loaded.warnings) == (None, {}, ())
    assert loaded.settings.send.tries == 3
    assert (loaded.settings.send.timeout, loaded.settings.send.patience, loaded.settings.send.drain) == (300, 900, 20)
    assert (loaded.settings.database.name, loaded.settings.database.timezone) == ("main", "UTC")


def test_the_first_file_of_the_contract_is_read_and_not_merged(home: Path) -> None:
    files = {name: home / name for name in ("flag.toml", "variable.toml", "leadctl.toml")}
    files["xdg"] = home / "xdg" / "leadctl" / "config.toml"
    files["home"] = home / ".config" / "leadctl" / "config.toml"
    for name, path in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f'[database]\nname = "{name}"\n')
    environ = {
        "HOME": str(home),
        "XDG_CONFIG_HOME": str(home / "xdg"),
        "LEADCTL_CONFIG": str(files["variable.toml"]),
    }

    def named(explicit: str | None) -> str:
        return load_settings(explicit, environ).settings.database.name

    assert named(str(files["flag.toml"])) == "flag.toml"
    assert named(None) == "variable.toml"
    del environ["LEADCTL_CONFIG"]
    assert named(None) == "leadctl.toml"
    files["leadctl.toml"].unlink()
    assert named(None) == "xdg"
    del environ["XDG_CONFIG_HOME"]
    assert named(None) == "home"


def test_a_named_file_must_exist() -> None:
    for explicit, environ, source in (
        ("no.toml", {}, "--config"),
        (None, {"LEADCTL_CONFIG": "no.toml"}, "LEADCTL_CONFIG"),
    ):
        with pytest.raises(ConfigError, match=f"no.toml.*{source}") as caught:
            find_config(explicit, environ)
        assert "leadctl init" in caught.value.hint


# What goes first


def test_environment_goes_before_the_file_and_origins_are_told() -> None:
    loaded = load("[send]\ntries = 5\ndrain = 7\n", {"LEADCTL_SEND__TRIES": "9"})
    assert (loaded.settings.send.tries, loaded.settings.send.drain, loaded.settings.send.timeout) == (9, 7, 300)
    assert loaded.origins == {"send.tries": "environment", "send.drain": "file"}


@pytest.mark.parametrize(
    ("variable", "value", "section", "key", "read"),
    [
        ("LEADCTL_DATABASE__NAME", "crm", "database", "name", "crm"),
        ("LEADCTL_DATABASE__URL", "postgresql://h/d", "database", "url", "postgresql://h/d"),
        ("LEADCTL_DATABASE__TIMEZONE", "Europe/Moscow", "database", "timezone", "Europe/Moscow"),
        ("LEADCTL_LEDGER__URL", "sqlite:///x.db", "ledger", "url", "sqlite:///x.db"),
        ("LEADCTL_SEND__TRIES", "4", "send", "tries", 4), ("LEADCTL_SEND__TIMEOUT", "1.5", "send", "timeout", 1.5),
        ("LEADCTL_SEND__PATIENCE", "0", "send", "patience", 0.0), ("LEADCTL_SEND__DRAIN", "3", "send", "drain", 3.0),
        ("LEADCTL_NETWORK__ALLOW_PRIVATE", "127.0.0.0/8, ::1/128", "network", "allow_private",
         ["127.0.0.0/8", "::1/128"]),
        ("LEADCTL_NETWORK__ALLOW_PRIVATE", "", "network", "allow_private", []),
        ("LEADCTL_LIMITS__SCALE", "50", "limits", "scale", 50.0),
    ],
)  # fmt: skip
def test_every_section_can_be_overlaid(variable: str, value: str, section: str, key: str, read: Any) -> None:
    loaded = load("", {variable: value})
    assert getattr(getattr(loaded.settings, section), key) == read
    assert loaded.origins == {f"{section}.{key}": "environment"}
    assert loaded.warnings == ()


def test_time_zone_and_limits_from_the_environment() -> None:
    environ = {
        "LEADCTL_TIMEZONE": "Asia/Tokyo",
        "LEADCTL_LIMITS__AMOCRM__RATE": "2",
        "LEADCTL_LIMITS__AMOCRM__PER": "3",
    }
    loaded = load("[limits.amocrm]\nrate = 7\n", environ)
    assert loaded.settings.timezone == "Asia/Tokyo"
    assert loaded.settings.limits.rate_for("amocrm", 1) == Rate(rate=2, per=3)


def test_unknown_variables_are_warned_of_and_change_nothing() -> None:
    environ = dict.fromkeys(
        ("LEADCTL_SENT__TRIES", "LEADCTL_SEND__TRYS", "LEADCTL_SEND", "LEADCTL_DATABASE__URL__X",
         "LEADCTL_LIMITS__AMOCRM", "LEADCTL_FORCE", "LEADCTL_YES"), "canary"
    )  # fmt: skip
    loaded = load("", {**environ, "OTHER": "x"})
    assert loaded.settings == Settings()
    assert len(loaded.warnings) == len(environ)
    for name in environ:
        assert any(name in warning for warning in loaded.warnings)
    assert "canary" not in " ".join(loaded.warnings)


def test_variables_of_the_global_options_are_no_keys() -> None:
    Path("c.toml").write_text("")
    loaded = load_settings("c.toml", dict.fromkeys(OPTION_VARIABLES, "1"))
    assert (loaded.settings, loaded.warnings) == (Settings(), ())


# Values from elsewhere


def test_env_and_file_work_for_every_value(home: Path) -> None:
    (home / "url").write_text("postgresql://u:secret@h/d\n")
    text = f"""
    timezone = "env:ZONE"
    [database]
    url = "file:{home}/url"
    [send]
    tries = "env:TRIES"
    [network]
    allow_private = ["env:NET", "10.0.0.0/8"]
    [limits]
    scale = "env:SCALE"
    [limits."amocrm:7"]
    rate = "env:TRIES"
    """
    loaded = load(text, {"ZONE": "Asia/Tokyo", "TRIES": "5", "NET": "127.0.0.0/8", "SCALE": "2"})
    assert loaded.settings.timezone == "Asia/Tokyo"
    assert loaded.settings.database.url == "postgresql://u:secret@h/d"
    assert loaded.settings.send.tries == 5
    assert loaded.settings.network.allow_private == ["127.0.0.0/8", "10.0.0.0/8"]
    assert loaded.settings.limits.scale == 2
    assert loaded.settings.limits.rate_for("amocrm", 7) == Rate(rate=5)


def test_a_variable_may_point_on(home: Path) -> None:
    (home / "url").write_text("sqlite:///x.db")
    assert load("", {"LEADCTL_DATABASE__URL": f"file:{home}/url"}).settings.database.url == "sqlite:///x.db"
    assert load(
        '[network]\nallow_private = "env:NETS"', {"NETS": "127.0.0.0/8,::1/128"}
    ).settings.network.allow_private == [
        "127.0.0.0/8",
        "::1/128",
    ]


def test_what_is_not_there_is_named(home: Path) -> None:
    error = refused('[database]\nurl = "env:DB_URL"')
    assert error.message == "c.toml: database.url: environment variable DB_URL is not set"
    error = refused(f'[database]\nurl = "file:{home}/nothing"')
    assert "database.url" in error.message
    assert "No such file" in error.message
    (home / "binary").write_bytes(b"\xff\xfecanary")
    error = refused(f'[database]\nurl = "file:{home}/binary"')
    assert "UTF-8" in error.message
    assert "canary" not in error.message


# What is wrong


@pytest.mark.parametrize(
    ("text", "key", "right"),
    [
        ("[databse]\nurl = 'x'", "databse", "database"), ("[database]\nulr = 'x'", "database.ulr", "database.url"),
        ("[send]\ntrys = 1", "send.trys", "send.tries"), ("time_zone = 'UTC'", "time_zone", "timezone"),
        ("[network]\nallow_privat = []", "network.allow_privat", "network.allow_private"),
        ("[limits]\nscal = 2", "limits.scal", "limits.scale"),
        ("[limits.amocrm]\nrat = 3", "limits.amocrm.rat", "limits.amocrm.rate"),
        ('[limits."amocrm:7"]\nrate = 3\npr = 1', "limits.amocrm:7.pr", "limits.amocrm:7.per"),
    ],
)  # fmt: skip
def test_an_unknown_key_is_an_error_with_the_nearest_right_one(text: str, key: str, right: str) -> None:
    error = refused(text)
    assert error.message == f"c.toml: unknown key {key}"
    assert error.hint == f"did you mean {right}?"


def test_an_unknown_key_without_a_near_one_lists_what_is_known() -> None:
    assert refused("[database]\nqqqq = 1").hint == "known here: name, url, timezone, app_key, previous_keys, mapping"


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("timezone = 'Mars/Olympus'", "timezone"),
        ("timezone = '../../etc/passwd'", "timezone"),
        ("timezone = 5", "timezone"),
        ("timezone = ''", "timezone"),
        ("[database]\ntimezone = 'Mars'", "database.timezone"),
        ("[database]\nurl = 5", "database.url"),
        ("[database]\nurl = ''", "database.url"),
        ("[database]\nname = ''", "database.name"),
        ("[ledger]\nurl = ''", "ledger.url"),
        ("[send]\ntries = 0", "send.tries"),
        ("[send]\ntries = 2.5", "send.tries"),
        ("[send]\ntimeout = 0", "send.timeout"),
        ("[send]\ntimeout = inf", "send.timeout"),
        ("[send]\npatience = -1", "send.patience"),
        ("send = 3", "send"),
        ("[network]\nallow_private = ['127.0.0.1/8']", "network.allow_private"),
        ("[network]\nallow_private = ['x']", "network.allow_private"),
        ("[network]\nallow_private = [5]", "network.allow_private"),
        ("[limits]\nscale = 0", "limits.scale"),
        ("[limits]\nscale = nan", "limits.scale"),
        ("limits = 3", "limits"),
        ("[limits]\namocrm = 3", "limits.amocrm"),
        ("[limits.amocrm]\nper = 3", "limits.amocrm.rate"),
        ("[limits.amocrm]\nrate = 0", "limits.amocrm.rate"),
        ("[limits.amocrm]\nrate = 1\nper = 0", "limits.amocrm.per"),
        ('[limits."amocrm:7"]\nrate = "fast"', "limits.amocrm:7.rate"),
    ],
)
def test_a_wrong_value_is_named_by_file_and_key(text: str, key: str) -> None:
    error = refused(text)
    assert error.message.startswith(f"c.toml: {key}")
    assert "Value error" not in error.message
    assert "BaseModel" not in error.message
    assert error.hint


def test_a_wrong_variable_is_said_to_be_of_the_environment() -> None:
    error = refused("[send]\ntries = 3", {"LEADCTL_SEND__TRIES": "many"})
    assert error.message.startswith("environment: send.tries: ")
    error = refused("send = 3", {"LEADCTL_SEND__TRIES": "4"})
    assert "LEADCTL_SEND__TRIES" in error.message


@pytest.mark.parametrize("text", ["a = b", "[send", "[send]\ntries = 1\ntries = 2", "[limits.amocrm:7]\nrate = 1"])
def test_what_is_no_toml_is_said(text: str) -> None:
    error = refused(text)
    assert error.message.startswith("c.toml: not valid TOML: ")
    assert error.hint


def test_a_file_that_is_no_text(home: Path) -> None:
    (home / "c.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_settings("c.toml", {})


def test_a_byte_order_mark_is_no_error(home: Path) -> None:
    (home / "c.toml").write_bytes(b"\xef\xbb\xbf[send]\r\ntries = 4\r\n")
    assert load_settings("c.toml", {}).settings.send.tries == 4


@pytest.mark.parametrize(
    "text",
    [
        "[database]\nurl = ['canary-secret']", "[database]\nurl = {a = 'canary-secret'}",
        "[send]\ntries = 'canary-secret'",
        "[limits]\nscale = 'canary-secret'", "[limits]\namocrm = 'canary-secret'",
        "[database]\npassword = 'canary-secret'",
        "[database]\nurl = 'canary-secret", "database = 'canary-secret'",
    ],
)  # fmt: skip
def test_a_wrong_value_is_never_shown(text: str) -> None:
    error = refused(text)
    assert "canary-secret" not in f"{error.message} {error.hint}"


def test_a_wrong_value_of_the_environment_is_never_shown() -> None:
    for environ in ({"LEADCTL_SEND__TRIES": "canary-secret"}, {"LEADCTL_LIMITS__AMOCRM__RATE": "canary-secret"}):
        error = refused("", environ)
        assert "canary-secret" not in f"{error.message} {error.hint}"


# Limits


def test_a_credentials_rate_goes_before_its_channels() -> None:
    text = """
    [limits]
    scale = 2.5
    [limits.amocrm]
    rate = 7
    per = 2
    [limits."amocrm:7"]
    rate = 1
    [limits."email:file:0123456789ab"]
    rate = 3
    """
    limits = load(text).settings.limits
    assert limits.scale == 2.5
    assert limits.rate_for("amocrm", 7) == limits.rate_for("amocrm", "7") == Rate(rate=1, per=1)
    assert limits.rate_for("amocrm", 8) == Rate(rate=7, per=2)
    assert limits.rate_for("email", "file:0123456789ab") == Rate(rate=3)
    assert limits.rate_for("telegram", 7) is None
    assert set(limits.rates) == {"amocrm", "amocrm:7", "email:file:0123456789ab"}


def test_no_limits_are_no_rates() -> None:
    assert Settings().limits.rates == {}
    assert Settings().limits.rate_for("amocrm", 7) is None
