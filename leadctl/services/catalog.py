"""What every channel can do, and what its credential holds. Needs no database."""

from collections.abc import Iterator
from typing import Any, get_args

from pydantic import BaseModel, SecretStr

from leadctl.channels import channel_class, channel_names
from leadctl.services.accounts import check_channel


def channel_rows() -> list[dict[str, Any]]:
    """A row for every channel."""
    return [_row(name) for name in channel_names()]


def _row(name: str) -> dict[str, Any]:
    channel = channel_class(name)
    spec = channel.spec
    steps = [
        {"name": s.name, "retransmit": s.retransmit.value, "batch": s.batch, "looks": list(s.looks)} for s in spec.steps
    ]
    return {
        "name": name,
        "title": spec.title,
        "state": "supported",
        "docs": spec.docs,
        "steps": steps,
        "batch": next(step.batch for step in spec.steps if not step.preparatory),
        "limits": spec.limits,
        "repeat": spec.repeat,
        "errors": dict(spec.errors),
        "data_keys": list(_keys(channel.Config)),
        "settings_keys": list(_keys(channel.Settings)),
    }


def _keys(model: type[BaseModel]) -> Iterator[dict[str, Any]]:
    for name, field in model.model_fields.items():
        key = field.validation_alias or field.alias
        yield {
            "key": key if isinstance(key, str) else name,
            "required": field.is_required(),
            "secret": _is_secret(field.annotation),
        }


def _is_secret(annotation: Any) -> bool:
    return annotation is SecretStr or any(map(_is_secret, get_args(annotation)))


def channel_schema(name: str) -> dict[str, Any]:
    """JSON Schema of the credential's ``data`` and ``settings``, with an example. Raises ConfigError."""
    channel = channel_class(check_channel(name))
    return {
        "schema": "leadctl.channel/1",
        "channel": name,
        "data": channel.Config.model_json_schema(),
        "settings": channel.Settings.model_json_schema(),
        "example": {"data": dict(channel.spec.example_data), "settings": dict(channel.spec.example_settings)},
    }
