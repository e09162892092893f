"""No test reaches another machine: this process refuses to, and so does every Python that it starts.

Python imports a module of this name by itself at its start, where it finds one; ``conftest.py`` puts this folder on the
path of those that tests start. An audit hook sees what is asked of sockets whoever asks, and cannot be taken back.
What libraries do in C by themselves is not seen.
"""

import ipaddress
import sys


class NetworkUsedError(RuntimeError):
    """A test has tried to reach another machine. No OSError: those are what programs without a network expect."""


def is_here(host: object) -> bool:
    """Whether a host is this machine, by its address or one of the names that are looked up in no network."""
    import socket

    if host is None or host in ("", b"", "localhost", b"localhost", socket.gethostname()):
        return True
    try:
        return ipaddress.ip_address(host.decode() if isinstance(host, bytes) else str(host)).is_loopback
    except ValueError:
        return False


def refuse(event: str, arguments: tuple) -> None:
    """Raise NetworkUsedError where an event of :func:`sys.audit` is about another machine."""
    if not event.startswith("socket."):
        return
    import socket

    if event in ("socket.connect", "socket.sendto", "socket.sendmsg"):
        ours, address = arguments[0], arguments[-1]
        if ours.family not in (socket.AF_INET, socket.AF_INET6) or address is None:
            return
        if event == "socket.connect" and ours.type == socket.SOCK_DGRAM:
            return  # nothing is sent: that is how programs find out their own address
        host = address[0]
    elif event in ("socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr"):
        host = arguments[0]
    else:
        return
    if not is_here(host):
        raise NetworkUsedError(f"{event}: {host!r} is another machine; no test needs the network")


sys.addaudithook(refuse)
