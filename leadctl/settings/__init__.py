"""Settings: one TOML file, then the environment, then flags.

Every value may be ``env:NAME`` or ``file:/path``. Unknown keys of the file are errors with the nearest right
one; unknown ``LEADCTL_…`` variables are warnings.
"""

import difflib
import ipaddress
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, get_args
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
)

from leadctl.domain.errors import ConfigError
from leadctl.settings.mapping import UNION_TAGS, MappingSettings
from leadctl.settings.mapping import Section as _Section

#: Environment variables of the global options; they are not keys of the file.
OPTION_VARIABLES = frozenset(
    {"LEADCTL_CONFIG", "LEADCTL_LOG_FORMAT", "LEADCTL_LOG_FILE", "LEADCTL_LOG_PERSONAL_DATA",
     "LEADCTL_NO_COLOR", "LEADCTL_QUIET", "LEADCTL_VERBOSE"}
)  # fmt: skip


def _known_zone(value: str) -> str:
    try:
        ZoneInfo(value)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError(f"no such time zone: {value}") from None
    return value


def _split(value: object) -> object:
    if isinstance(value, str):
        return [part.strip() for part in value.split(",") if part.strip()]
    return value


Zone = Annotated[str, AfterValidator(_known_zone)]
#: A list that may be given as one string, as an environment variable must.
TextList = Annotated[list[str], BeforeValidator(_split)]


class DatabaseSettings(_Section):
    """Where the leads and credentials are."""

    name: str = Field("main", min_length=1, max_length=100, description=(
        "Names the source of the leads in a ledger; keep it when host or password change."))  # fmt: skip
    url: str = Field("sqlite:///leads.db", min_length=1, description=(
        'A SQLAlchemy URL: sqlite, postgresql, mysql. "env:NAME" and "file:/path" work for every value.'))  # fmt: skip
    timezone: Zone = Field("UTC", description="Of naive date columns.")
    app_key: SecretStr | None = Field(None, min_length=1, description=(
        'Laravel\'s key ("base64:…"), where columns are encrypted.'))  # fmt: skip
    previous_keys: Annotated[list[SecretStr], BeforeValidator(_split)] = Field(default_factory=list, description=(
        "Laravel's keys of before, newest first, where values are still encrypted with them."))  # fmt: skip
    mapping: MappingSettings = Field(MappingSettings(), description=(
        "What tables and columns are called in a database of your own; see README."))  # fmt: skip


class LedgerSettings(_Section):
    """Where leadctl keeps what it knows about deliveries."""

    url: str | None = Field(None, min_length=1, description=(
        "Default: beside a SQLite database in FILE.leadctl.db, else in the database above."))  # fmt: skip


class SendSettings(_Section):
    """How long and how often."""

    tries: int = Field(3, ge=1, le=100, description="Attempts of one delivery within a run.")
    timeout: float = Field(300, gt=0, description=(
        "Seconds from a delivery's first request of this run, its back-offs and look-ups included."))  # fmt: skip
    patience: float = Field(900, ge=0, description=(
        "The longest single pause of a lane, in seconds; beyond it: unprocessed, exit 5."))  # fmt: skip
    drain: float = Field(20, ge=0, description="Seconds that a stop waits for requests in flight.")


class NetworkSettings(_Section):
    """Which addresses a credential may lead to."""

    allow_private: TextList = Field(default_factory=list, description=(
        'CIDRs that a credential\'s address may lie in, e.g. ["127.0.0.0/8"]; http:// only to these.'))  # fmt: skip

    @field_validator("allow_private")
    @classmethod
    def _cidrs(cls, value: list[str]) -> list[str]:
        for cidr in value:
            ipaddress.ip_network(cidr)
        return value


class Rate(_Section):
    """``rate`` requests per ``per`` seconds."""

    rate: float = Field(gt=0)
    per: float = Field(1, gt=0)


class LimitSettings(BaseModel):
    """Rates: ``scale``, and a table per channel or ``"channel:credential"``."""

    model_config = ConfigDict(extra="allow", frozen=True, allow_inf_nan=False)
    __pydantic_extra__: dict[str, Rate] = Field(init=False)

    scale: float = Field(1.0, gt=0, description=(
        "Multiplies every rate, and divides our own waits (look-up delays, back-offs), never a wait that a "
        "vendor names: for test servers; above 1 only for hosts inside allow_private."))  # fmt: skip

    def rate_for(self, channel: str, credential_id: int | str) -> Rate | None:
        """The rate set for this credential, else for its channel."""
        rates = self.__pydantic_extra__ or {}
        return rates.get(f"{channel}:{credential_id}") or rates.get(channel)

    @property
    def rates(self) -> Mapping[str, Rate]:
        return self.__pydantic_extra__ or {}


class Settings(_Section):
    """All of the configuration."""

    timezone: Zone | None = Field(None, description="For times on the command line; default: the machine's.")
    database: DatabaseSettings = DatabaseSettings()
    ledger: LedgerSettings = LedgerSettings()
    send: SendSettings = SendSettings()
    network: NetworkSettings = NetworkSettings()
    limits: LimitSettings = LimitSettings()


Origin = Literal["default", "file", "environment"]


@dataclass(frozen=True)
class LoadedSettings:
    """Settings with where each value came from."""

    settings: Settings
    path: Path | None
    #: dotted key → origin, for every key that is not a default.
    origins: Mapping[str, Origin] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


def find_config(explicit: str | None, environ: Mapping[str, str]) -> Path | None:
    """The one file that is read (CONTRACT §3), or None."""
    if explicit:
        return _must_exist(Path(explicit), "--config")
    if environ.get("LEADCTL_CONFIG"):
        return _must_exist(Path(environ["LEADCTL_CONFIG"]), "LEADCTL_CONFIG")
    base = environ.get("XDG_CONFIG_HOME") or str(Path(environ.get("HOME", "~")).expanduser() / ".config")
    for path in (Path("leadctl.toml"), Path(base) / "leadctl" / "config.toml", Path("/etc/leadctl/config.toml")):
        if path.is_file():
            return path
    return None


def _must_exist(path: Path, source: str) -> Path:
    if not path.is_file():
        raise ConfigError(
            f"config file {path} (from {source}) does not exist", hint=f"create one with: leadctl init --path {path}"
        )
    return path


def load_settings(explicit: str | None = None, environ: Mapping[str, str] | None = None) -> LoadedSettings:
    """Read file and environment. Raises ConfigError with file, key, and what would be right."""
    environ = os.environ if environ is None else environ
    path = find_config(explicit, environ)
    tree = _read_toml(path) if path else {}
    origins: dict[str, Origin] = dict.fromkeys(_flatten(tree), "file")
    warnings = _overlay_environment(tree, origins, environ)
    resolved = _resolve(tree, environ, (), str(path or "environment"))
    try:
        settings = Settings.model_validate(resolved)
    except ValidationError as error:
        raise _explain(error, path, origins) from None
    return LoadedSettings(settings, path, origins, tuple(warnings))


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: not valid TOML: {error}", hint="compare it with config.example.toml") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from None


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> list[str]:
    keys = []
    for key, value in tree.items():
        if isinstance(value, Mapping):
            keys += _flatten(value, f"{prefix}{key}.")
        else:
            keys.append(f"{prefix}{key}")
    return keys


def _overlay_environment(tree: dict[str, Any], origins: dict[str, Origin], environ: Mapping[str, str]) -> list[str]:
    warnings = []
    for name, value in sorted(environ.items()):
        if not name.startswith("LEADCTL_") or name in OPTION_VARIABLES:
            continue
        parts = name.removeprefix("LEADCTL_").lower().split("__")
        if not _is_known(parts):
            warnings.append(f"environment variable {name} is not known and has no effect")
            continue
        node = tree
        for part in parts[:-1]:
            child = node.setdefault(part, {})
            if not isinstance(child, dict):
                raise ConfigError(f"[{part}] must be a table of the config file, to be overlaid by {name}")
            node = child
        node[parts[-1]] = value
        origins[".".join(parts)] = "environment"
    return warnings


def _is_known(parts: list[str]) -> bool:
    if parts == ["timezone"]:
        return True
    section = Settings.model_fields.get(parts[0])
    if section is None or len(parts) < 2:
        return False
    if parts[0] == "limits":
        return parts[1:] == ["scale"] or (len(parts) == 3 and parts[2] in Rate.model_fields)
    model = section.annotation
    return isinstance(model, type) and issubclass(model, BaseModel) and parts[1:] == [parts[1]] and (
        parts[1] in model.model_fields
    )  # fmt: skip


def _resolve(value: Any, environ: Mapping[str, str], key: tuple[str, ...], where: str) -> Any:
    if isinstance(value, dict):
        return {name: _resolve(child, environ, (*key, name), where) for name, child in value.items()}
    if isinstance(value, list):
        return [_resolve(child, environ, key, where) for child in value]
    said = f"{where}: {'.'.join(key)}"
    if isinstance(value, str) and value.startswith("env:"):
        name = value[4:]
        if name not in environ:
            raise ConfigError(f"{said}: environment variable {name} is not set", hint=f"export {name}=…")
        return environ[name]
    if isinstance(value, str) and value.startswith("file:/"):
        try:
            return Path(value[5:]).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(
                f"{said}: {value[5:]} cannot be read: {getattr(error, 'strerror', None) or 'it is not UTF-8'}",
                hint="the value after file: is the path of a text file that holds the value",
            ) from None
    return value


def _explain(error: ValidationError, path: Path | None, origins: Mapping[str, Origin]) -> ConfigError:
    # An unknown key goes first: a misspelt one is missing under its right name as well.
    first = min(error.errors(include_input=False, include_url=False), key=lambda e: e["type"] != "extra_forbidden")
    loc = [str(part) for part in first["loc"] if part not in UNION_TAGS]
    key = ".".join(loc)
    where = str(path) if path and origins.get(key) != "environment" else "environment"
    table = first["type"] == "model_type"
    if first["type"] == "extra_forbidden" or (table and difflib.get_close_matches(loc[-1], ["scale"])):
        known = _siblings(loc[:-1])
        near = difflib.get_close_matches(loc[-1], known, n=1, cutoff=0.5)
        hint = f"known here: {', '.join(known)}" if known else "see config.example.toml"
        if near:
            hint = f"did you mean {'.'.join([*loc[:-1], near[0]])}?"
        return ConfigError(f"{where}: unknown key {key}", hint=hint)
    said = f"must be a table: [{key}]" if table else first["msg"].removeprefix("Value error, ")
    return ConfigError(f"{where}: {key}: {said}", hint="see config.example.toml, or: leadctl doctor")


def _siblings(loc: list[str]) -> list[str]:
    """The keys of the table at that place; none where it takes any."""
    model: Any = Settings
    for part in loc:
        field = model.model_fields.get(part) if isinstance(model, type) and issubclass(model, BaseModel) else None
        model = Rate if model is LimitSettings else _table(field.annotation) if field is not None else None
    return list(model.model_fields) if model is not None else []


def _table(annotation: Any) -> Any:
    """The model among the types of a field, if there is one."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for part in get_args(annotation) if (found := _table(part)) is not None), None)
