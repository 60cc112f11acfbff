"""One file a vendor. A module here is a channel: there is no list to edit.

Other packages bring channels as entry points of the group ``leadctl.channels``: name → the Channel class.
"""

import importlib
import pkgutil
from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

from leadctl.domain.errors import ConfigError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

    from leadctl.channelkit.channel import Channel

GROUP = "leadctl.channels"


@cache
def own_names() -> frozenset[str]:
    """The channels of this package, without importing them."""
    return frozenset(module.name for module in pkgutil.iter_modules(__path__))


@cache
def _plugins() -> "Mapping[str, EntryPoint]":
    """What other packages bring; none of them replaces a channel of ours."""
    from importlib.metadata import entry_points

    return {point.name: point for point in entry_points(group=GROUP) if point.name not in own_names()}


@cache
def channel_names() -> tuple[str, ...]:
    """The supported channels, without importing them."""
    return tuple(sorted({*own_names(), *_plugins()}))


def is_channel(name: str) -> bool:
    """Whether a channel has exactly that name. Other packages are only asked about where it is none of ours."""
    return name in own_names() or name in _plugins()


@cache
def channel_class(name: str) -> "type[Channel[Any, Any]]":
    """The channel of that exact name. Raises KeyError; ConfigError where another package's cannot be loaded."""
    from leadctl.channelkit.channel import Channel

    if name not in own_names():
        return _loaded(_plugins()[name])
    module = importlib.import_module(f"{__name__}.{name}")
    for value in vars(module).values():
        if isinstance(value, type) and issubclass(value, Channel) and value.__module__ == module.__name__:
            return value
    raise KeyError(name)


def _loaded(point: "EntryPoint") -> "type[Channel[Any, Any]]":
    from leadctl.channelkit.channel import Channel

    package = point.dist.name if point.dist else point.value
    hint = f"mend or uninstall the package {package}"
    try:
        value = point.load()
    except Exception as error:  # whatever a package of somebody else does when it is imported
        raise ConfigError(
            f"the channel {point.name} of the package {package} cannot be loaded: {type(error).__name__}", hint=hint
        ) from error
    if isinstance(value, type) and issubclass(value, Channel) and value.spec.name == point.name:
        return value
    raise ConfigError(f"{point.value} of the package {package} is no channel named {point.name}", hint=hint)
