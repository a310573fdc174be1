"""Ports for processes that a test starts, which listen on them a moment later."""

import contextlib
import random
import socket


def free_port() -> int:
    """Below those that the kernel gives to outgoing connections, one of which could take it before it is listened on."""
    return free_ports(1)[0]


def free_ports(count: int) -> list[int]:
    """All held at once, so that no two are the same."""
    with contextlib.ExitStack() as held:
        ports: list[int] = []
        while len(ports) < count:
            probe = held.enter_context(socket.socket())
            with contextlib.suppress(OSError):
                probe.bind(("127.0.0.1", random.SystemRandom().randrange(20_000, 32_000)))
                ports.append(int(probe.getsockname()[1]))
        return ports
