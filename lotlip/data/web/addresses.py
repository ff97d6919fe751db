"""Which IP addresses a download may connect to: those that everyone can reach."""

import ipaddress
import socket
from typing import Any

NOT_PUBLIC = "address is not public"
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
# Not for everyone, or meant for addresses inside others, and yet `is_global` to some versions of Python.
_REFUSED = tuple(
    ipaddress.ip_network(network)
    for network in ("64:ff9b:1::/48", "fec0::/10", "::/96", "::ffff:0:0:0/96", "192.88.99.0/24")
)


def public_socket(address_info: Any) -> socket.socket:
    """A socket for one resolved address, as aiohttp's connector asks for it just before it connects.

    Raises:
        PermissionError: the address is not public.
    """
    family, kind, protocol, _, address = address_info
    if not is_public(str(address[0])):
        raise PermissionError(NOT_PUBLIC)
    return socket.socket(family, kind, protocol)


def is_public(address: str) -> bool:
    """Whether an IP address is reachable from everywhere: not loopback, private, link-local, reserved or
    multicast, also where an IPv6 address wraps an IPv4 one.
    """
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        embedded = [ip.ipv4_mapped, ip.sixtofour, *(ip.teredo or ())]
        if ip in _NAT64:
            embedded.append(ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF))
        if any(inner is not None and not is_public(str(inner)) for inner in embedded):
            return False
        ip = ip.ipv4_mapped or ip
    if any(ip in network for network in _REFUSED if network.version == ip.version):
        return False
    return ip.is_global and not ip.is_multicast
