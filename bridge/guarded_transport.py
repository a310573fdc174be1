"""The transport of requests that outgoing.py guards. A module of its own, so that what sends none need not import httpx (90 ms)."""

from typing import Any

import httpx

from dihedral.bridge.outgoing import Guard


class GuardedTransport(httpx.AsyncBaseTransport):
    """Connects to an address that `guard` has checked. Raises Forbidden; httpx.ConnectError where the name is unknown."""

    def __init__(self, guard: Guard, **options: Any) -> None:
        self._guard = guard
        self._inner = httpx.AsyncHTTPTransport(**options)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        host = request.url.raw_host.decode("ascii")
        if request.url.scheme not in ("http", "https") or not host:
            raise httpx.UnsupportedProtocol("an address begins with http:// or https:// and a host", request=request)
        try:
            address = await self._guard.resolve(host, request.url.port or 0)
        except (OSError, UnicodeError) as error:  # a label of more than 63 characters
            raise httpx.ConnectError(f"{host} is not known: {error}", request=request) from error
        request.extensions = {**request.extensions, "sni_hostname": host}  # the certificate must name this host
        request.url = request.url.copy_with(host=address)  # the Host header was made from the name before
        return await self._inner.handle_async_request(request)

    async def aclose(self) -> None:
        await self._inner.aclose()
