"""Guards the requests that this process sends for others (webhooks, the LLM endpoint): they must not reach the network in which it runs.

A name may be pointed anywhere, and elsewhere between a check and its use, so the check is made where it cannot be passed by: the transport
resolves the name itself, looks at the addresses, and connects to one that it has looked at; the name goes on in Host and TLS.
Private ones are refused unless `outgoing.allow` names host, address or network. Redirects are not followed, and proxies of the
environment are not used: they would connect somewhere else.
"""

import asyncio
import ipaddress
import socket
from collections.abc import Sequence
from contextlib import suppress
from urllib.parse import urlsplit

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
COMPATIBLE = ipaddress.IPv6Network("::/96")
SPECIAL = [
    ipaddress.IPv6Network(each)
    for each in (
        "fec0::/10",  # site-local, deprecated (RFC 3879), and still routed in some networks
        "64:ff9b:1::/48",  # NAT64 of a local network (RFC 8215)
        "5f00::/16",  # segment routing (RFC 9602)
        "3fff::/20",  # documentation (RFC 9637)
    )
]
"""The private networks that `is_global` of some Python versions takes for public."""


class Forbidden(Exception):
    """The address is one to which no request may be sent."""


class Guard:
    """The rules for addresses. `allow`: host names, addresses and networks that may be private, and may be used without TLS."""

    def __init__(self, allow: Sequence[str]) -> None:
        self._names: set[str] = set()
        self._networks: list[ipaddress.IPv4Network | ipaddress.IPv6Network] = []
        for each in allow:
            try:
                self._networks.append(ipaddress.ip_network(each, strict=False))
            except ValueError:
                self._names.add(each.lower())

    def check_url(self, url: str) -> None:
        """Checks an address as far as possible without a name look-up. Raises Forbidden."""
        try:
            parts = urlsplit(url)
            host, _ = (parts.hostname or "").rstrip("."), parts.port
        except ValueError as error:
            raise Forbidden("this is no address") from error
        if parts.scheme not in ("http", "https") or not host:
            raise Forbidden("an address begins with http:// or https:// and a host")
        if parts.username is not None or parts.password is not None:
            raise Forbidden("an address with a password in it would be logged with it")
        literal = _address(host)
        if literal is not None:
            self.check_address(literal, host)
        if parts.scheme == "http" and not self._is_named(host) and not (literal and self._is_listed(literal)):
            raise Forbidden("only https, so that it cannot be read on the way (outgoing.allow)")

    def check_address(self, address: Address, host: str) -> None:
        """Checks one address. Raises Forbidden where `host` leads to a private `address`."""
        if self._is_named(host) or self._is_listed(address):
            return
        if not all(_is_public(each) for each in _within(address)):
            raise Forbidden(f"{host} leads to {address}, which is no public address (outgoing.allow)")

    async def resolve(self, host: str, port: int) -> str:
        """Returns the address to connect to; all addresses of the name must be allowed. Raises Forbidden, OSError."""
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        addresses = [str(row[4][0]).partition("%")[0] for row in found]
        for address in addresses:
            self.check_address(ipaddress.ip_address(address), host)
        return addresses[0]

    def _is_named(self, host: str) -> bool:
        return host.lower().rstrip(".") in self._names

    def _is_listed(self, address: Address) -> bool:
        return any(address in network for network in self._networks)


def own_guard(endpoint: str, allow: Sequence[str]) -> Guard:
    """Returns the guard for the operator's own endpoint: an endpoint of localhost or an address is allowed by being named; a name that leads to a private address is not."""
    with suppress(ValueError):
        host = urlsplit(endpoint).hostname or ""
        if host == "localhost" or _address(host) is not None:
            return Guard([*allow, host])
    return Guard(allow)


def _is_public(address: Address) -> bool:
    return address.is_global and not address.is_multicast and not any(address in network for network in SPECIAL)


def _address(host: str) -> Address | None:
    """Returns the address that a host is written as, also as `127.1` or `2130706433`, which the C library reads too."""
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        pass
    try:
        return ipaddress.IPv4Address(socket.inet_aton(host)) if host[:1].isdigit() else None
    except OSError:
        return None


def _within(address: Address) -> list[Address]:
    """Returns the address and the addresses embedded in it: a router may unpack them."""
    found: list[Address] = [address]
    if isinstance(address, ipaddress.IPv6Address):
        teredo = address.teredo or ()
        found += [each for each in (address.ipv4_mapped, address.sixtofour, *teredo) if each is not None]
        if address in NAT64 or address in COMPATIBLE:
            found.append(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
        if address.ipv4_mapped is not None:
            found.remove(address)  # is_global is False for every mapped address
    return found
