"""The network guard: where a credential may lead to.

The check is made on the resolved address, and the connection goes to that very address, so that a name which
answers differently the second time (DNS rebinding) gains nothing. The ranges follow Svix's ``is_allowed`` and
the IANA special-purpose registries; ``ipaddress.is_global`` alone lets some of them through.
"""

import asyncio
import ipaddress
import socket
from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import Any
from urllib.parse import urlsplit

from leadctl.domain.errors import InvalidCredential

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Resolver = Callable[[str, int], Coroutine[Any, Any, Sequence[str]]]

_REFUSED: tuple[Network, ...] = tuple(
    ipaddress.ip_network(cidr)
    for cidr in (
        "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12",
        "192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15",
        "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4",
        "::/96", "::ffff:0:0:0/96", "64:ff9b::/96", "64:ff9b:1::/48", "100::/64", "2001::/23", "2001:db8::/32",
        "2002::/16", "3fff::/20", "5f00::/16", "fc00::/7", "fe80::/10", "fec0::/10", "ff00::/8",
    )
)  # fmt: skip

#: Schemes that carry a lead in clear text: only to addresses inside allow_private.
_CLEAR = frozenset({"http", "smtp"})
_SCHEMES = frozenset({"http", "https", "smtp", "smtps", "smtp+starttls"})


class AddressNotAllowed(Exception):
    """Every address of the host is outside what ``[network]`` allows. Nothing was sent."""


async def resolve(host: str, port: int) -> Sequence[str]:
    """All addresses of a host, by the system's resolver. Raises OSError (socket.gaierror)."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(info[4][0]) for info in found))


class NetworkGuard:
    """What may be connected to. ``allow_private``: CIDRs that are open although they are private."""

    def __init__(self, allow_private: Iterable[str] = (), resolver: Resolver = resolve) -> None:
        self._allowed: tuple[Network, ...] = tuple(ipaddress.ip_network(cidr) for cidr in allow_private)
        self._resolver = resolver

    def opened(self, address: Address) -> bool:
        """Whether the operator opened this address by ``allow_private``."""
        return any(_unmapped(address) in network for network in self._allowed)

    def allows(self, address: Address, *, clear: bool = False) -> bool:
        """Whether a connection may go there; ``clear``: without encryption."""
        if self.opened(address):
            return True
        plain = _unmapped(address)
        return not clear and not any(plain in network for network in _REFUSED)

    def check_url(self, url: str) -> None:
        """What can be said of a URL without resolving. Raises InvalidCredential; never shows the URL."""
        scheme, host = _parse(url)
        literal = _literal(host)
        clear = scheme in _CLEAR
        if literal is not None and not self.allows(literal, clear=clear):
            raise InvalidCredential(
                f"the address {literal} is not allowed{' without TLS' if clear else ''}: "
                "open it with [network] allow_private, if it is meant"
            )

    async def addresses(self, host: str, port: int, *, clear: bool) -> Sequence[str]:
        """The addresses of ``host`` that may be connected to. Raises OSError or AddressNotAllowed."""
        found = await self._resolver(host, port)
        allowed = [text for text in found if self.allows(ipaddress.ip_address(text.split("%")[0]), clear=clear)]
        if not allowed:
            raise AddressNotAllowed(
                f"{host} resolves to {', '.join(found) or 'nothing'}, which is not allowed"
                f"{' without TLS' if clear else ''}; open it with [network] allow_private, if it is meant"
            )
        return allowed

    async def inside(self, host: str, port: int) -> bool:
        """Whether every address of ``host`` lies inside ``allow_private``."""
        try:
            found = await self._resolver(host, port)
        except OSError:
            return False
        return bool(found) and all(self.opened(ipaddress.ip_address(text.split("%")[0])) for text in found)


def host_and_port(url: str) -> tuple[str, int]:
    """Host and port of a URL that passed ``check_url``."""
    parts = urlsplit(url)
    default = {"http": 80, "https": 443, "smtp": 25, "smtps": 465, "smtp+starttls": 587}[parts.scheme]
    return parts.hostname or "", parts.port or default


def _parse(url: str) -> tuple[str, str]:
    if any(ord(char) <= 0x20 or char == "\\" or ord(char) == 0x7F for char in url):
        raise InvalidCredential("the address holds a space, a control character or a backslash")
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        raise InvalidCredential("the address is not a valid URL") from None
    if parts.scheme not in _SCHEMES:
        raise InvalidCredential(f"the address must begin with https://, not {parts.scheme or 'nothing'}")
    if not host:
        raise InvalidCredential("the address has no host")
    return parts.scheme, host


def _literal(host: str) -> Address | None:
    try:
        return ipaddress.ip_address(host.split("%", maxsplit=1)[0])
    except ValueError:
        pass
    try:  # 2130706433, 0x7f.1, 127.1: what the system's resolver takes for an address
        return ipaddress.ip_address(socket.inet_ntoa(socket.inet_aton(host)))
    except (OSError, UnicodeError):
        return None


def _unmapped(address: Address) -> Address:
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address
