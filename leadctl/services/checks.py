"""What must hold before anything is sent, beyond the plan itself."""

from functools import partial
from typing import TYPE_CHECKING

from leadctl.channelkit.network import host_and_port
from leadctl.domain.errors import ConfigError
from leadctl.services.accounts import check_channel
from leadctl.services.loops import in_own_loop
from leadctl.services.routing import OpenRoute, Router

if TYPE_CHECKING:
    from leadctl.services.bootstrap import App


def check_limits(app: "App", router: Router) -> None:
    """``[limits]`` may be raised to the vendor's documented limit, and ``scale`` above 1 is for test servers.

    Raises ConfigError naming the key.
    """
    limits = app.settings.limits
    for name in limits.rates:
        check_channel(name.split(":", 1)[0], f"[limits.{name}]")
    for route in router.opened():
        _check_rate(app, route)
        if limits.scale > 1:
            _check_scale(app, route)


def _check_rate(app: "App", route: OpenRoute) -> None:
    account = route.account
    rate = app.settings.limits.rate_for(account.channel, account.credential_id)
    limit = next((b.limit for b in route.channel.buckets() if b.limit.documented is not None), None)
    if rate is None or limit is None or limit.documented is None:
        return
    if rate.rate / rate.per > limit.documented / limit.per + 1e-9:
        raise ConfigError(
            f"[limits.{account.channel}]: {rate.rate:g} per {rate.per:g} s is above the documented limit of "
            f"{limit.documented:g} per {limit.per:g} s",
            hint=f"set rate to at most {limit.documented:g} with per = {limit.per:g}",
        )


def _check_scale(app: "App", route: OpenRoute) -> None:
    for url in route.channel.endpoints():
        host, port = host_and_port(url)
        if not in_own_loop(partial(app.guard.inside, host, port)):
            raise ConfigError(
                f"[limits] scale is above 1, and credential {route.account.credential_id} ({route.account.channel}) "
                f"leads to {host}, which is not inside [network] allow_private",
                hint="scale is for test servers: set it to 1, or leave that credential out",
            )
