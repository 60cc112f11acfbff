"""One file a vendor. A module here is a channel: there is no list to edit."""

import importlib
import pkgutil
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from leadctl.channelkit.channel import Channel


@cache
def channel_names() -> tuple[str, ...]:
    """The supported channels, without importing them."""
    return tuple(sorted(module.name for module in pkgutil.iter_modules(__path__)))


@cache
def channel_class(name: str) -> "type[Channel[Any, Any]]":
    """The channel of that exact name. Raises KeyError."""
    from leadctl.channelkit.channel import Channel

    if name not in channel_names():
        raise KeyError(name)
    module = importlib.import_module(f"{__name__}.{name}")
    for value in vars(module).values():
        if isinstance(value, type) and issubclass(value, Channel) and value.__module__ == module.__name__:
            return value
    raise KeyError(name)
