"""Which machine an address leads to, asked once: what was checked is what is connected to.

A server's answer may name any address. Whoever follows it says with `private_allowed` whether it may lead into this
machine or the network around it; a name that resolves to such a place is refused like the number itself.
"""

import ipaddress
import socket
from dataclasses import dataclass
from typing import Final

from abaci.hub.reach import REACH_SECONDS, SourceUnavailableError, within

_CARRIER_GRADE_NAT: Final = ipaddress.ip_network("100.64.0.0/10")
_LOOPBACK_NAMES: Final = frozenset({"localhost", "ip6-localhost"})


@dataclass(frozen=True, slots=True)
class CheckedAddress:
    """A number to connect to, of a name that was looked up once."""

    family: socket.AddressFamily
    host: str
    port: int
    is_private: bool


def look_up(host: str, port: int, *, private_allowed: bool) -> tuple[CheckedAddress, ...]:
    """All numbers of a host, in the system's order. Raises SourceUnavailableError where one of them may not be used."""
    try:
        found = within(REACH_SECONDS, lambda: socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise SourceUnavailableError(f"{host} is not known: {reason}") from error
    addresses = tuple(
        CheckedAddress(family, str(address[0]), port, is_private_number(str(address[0])))
        for family, _, _, _, address in found
        if family in (socket.AF_INET, socket.AF_INET6)
    )
    if not addresses:
        raise SourceUnavailableError(f"{host} has no address")
    if not private_allowed and any(address.is_private for address in addresses):
        raise SourceUnavailableError(f"{host} is an address inside this network, where a foreign server may not lead")
    return addresses


def is_private_host(host: str) -> bool:
    """Whether a host is private as it is written; names other than the loopback's count as public until looked up."""
    try:
        ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host.lower().rstrip(".") in _LOOPBACK_NAMES
    return is_private_number(host)


def is_loopback(host: str) -> bool:
    """Whether a host, as it is written, is this machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower().rstrip(".") in _LOOPBACK_NAMES


def is_private_number(number: str) -> bool:
    """Whether an address is anything but a public one: loopback, local, link-local, multicast, reserved."""
    address = ipaddress.ip_address(number.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour or (address.teredo or (None, None))[1]
        if inner is None and address in _NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if inner is not None:
            return is_private_number(str(inner))
    return not address.is_global or address.is_multicast or address in _CARRIER_GRADE_NAT


_NAT64: Final = ipaddress.ip_network("64:ff9b::/96")
