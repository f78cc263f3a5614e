"""The socket that a server listens on, and the number of connections that the system allows."""

from __future__ import annotations

import errno
import ipaddress
import socket

from seresnet.errors import ConfigError
from seresnet.serving.settings import ServeSettings

BACKLOG = 2048
SPARE_FILES = 128  # besides connections


def bind(settings: ServeSettings) -> socket.socket:
    """Return a socket with the address, not yet listening. Raises ConfigError where that is not possible."""
    host, port = settings.host, settings.port
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (socket.gaierror, UnicodeError):
        raise ConfigError(f"--host {host} is no address: give 127.0.0.1, 0.0.0.0, or a name of this machine") from None
    family, kind, protocol, _, address = found[0]
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
    except OSError as error:
        sock.close()
        raise _cannot_listen(error, host, port) from None
    return sock


def listen(sock: socket.socket, settings: ServeSettings) -> str:
    """Accept connections from now on, and return the URL of the server."""
    try:
        sock.listen(BACKLOG)
    except OSError as error:
        raise _cannot_listen(error, settings.host, settings.port) from None
    host, port = sock.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def _cannot_listen(error: OSError, host: str, port: int) -> ConfigError:
    if error.errno == errno.EADDRINUSE:
        return ConfigError(f"port {port} of {host} is in use: stop the program that has it, or give another --port")
    if error.errno == errno.EACCES:
        return ConfigError(f"port {port} is not open to this user: give a --port of 1024 or more")
    if error.errno == errno.EADDRNOTAVAIL:
        return ConfigError(f"--host {host} is no address of this machine: give 127.0.0.1, or 0.0.0.0 for all")
    return ConfigError(f"cannot listen on {host} port {port}: {(error.strerror or str(error)).lower()}")


def allow_connections(settings: ServeSettings) -> None:
    """Raise this process' limit of open files to what the connections need. Raises ConfigError where that is more."""
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return
    needed = settings.max_connections + SPARE_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < needed:
        if hard != resource.RLIM_INFINITY and hard < needed:
            most = hard - SPARE_FILES
            raise ConfigError(f"--max-connections {settings.max_connections}: this system allows {most}; see ulimit -n")
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


def is_local(host: str) -> bool:
    """Return whether only programs of this machine reach an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
