"""Where the dispatcher may send: an endpoint's URL as it is stored, and each address it is about to talk to.

Anybody who may register an endpoint chooses where this machine connects to. So an address inside the operator's own
network, such as a cloud's metadata service, is refused unless its network was allowed by name. A URL is checked
when it is stored, for the sake of a clear message; what protects is the second check, of the very address that
is connected to, after the name was looked up.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

from sim.errors import Problem, ScenarioError

DEFAULT_PORTS = ("80", "443", "1024-65535")
"""All but the other ports below 1024, where the services of machines listen rather than web applications."""
LONGEST_URL = 2_000

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_URL = re.compile(
    r"(?P<scheme>https?)://(?:\[(?P<literal>[0-9a-f:.]+)\]|(?P<host>[a-z0-9._-]+))(?::(?P<port>[0-9]{1,5}))?(?:[/?].*)?",
    re.IGNORECASE,
)
"""Of an address of visible ASCII without ``\\``, ``#`` and ``@`` before the path: nothing that two readers could
take apart in two ways.
"""
_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?", re.IGNORECASE)
_NUMERIC = re.compile(r"[0-9]+|0x[0-9a-f]*", re.IGNORECASE)

_V4_SPECIAL = tuple(
    ipaddress.IPv4Network(text)
    for text in (
        "100.64.0.0/10",  # shared by carriers, and some clouds' metadata
        "168.63.129.16/32",  # a cloud's own services at an address that looks public
        "192.0.0.0/24",
        "192.88.99.0/24",  # relays of 6to4
    )
)
"""Beyond what ``is_global`` of every supported Python refuses."""
_V6_GLOBAL = ipaddress.IPv6Network("2000::/3")
"""All that was ever given out for the public; the rest is private, local, reserved or translated."""
_V6_SPECIAL = tuple(
    ipaddress.IPv6Network(text)
    for text in (
        "2001::/23",  # protocols' own, Teredo among them
        "2001:db8::/32",
        "2002::/16",
        "3fff::/20",
    )
)
_V4_INSIDE = tuple(
    ipaddress.IPv6Network(text)
    for text in (
        "::/96",  # compatible
        "::ffff:0:0/96",  # mapped
        "::ffff:0:0:0/96",  # translated
        "64:ff9b::/96",  # NAT64
    )
)
"""IPv6 networks whose last 32 bits are the IPv4 address that is reached."""


class Site(NamedTuple):
    """Whom a URL speaks to."""

    host: str
    """Lower case; an IPv6 literal without its brackets."""
    port: int
    literal: bool
    """Whether ``host`` is an address, which no name server is asked for."""


class Guard:
    """Which addresses may be sent to.

    Args:
        allow_networks: networks such as ``127.0.0.0/8`` that are allowed though they are not public. An IPv6
            address that only wraps an IPv4 one (mapped, 6to4, Teredo, NAT64 …) is judged by what it wraps.
        allow_ports: ports and ranges such as ``8000-8999``.

    Raises:
        ScenarioError: a network or a range of ports that is none.
    """

    def __init__(
        self, allow_networks: Iterable[str] = (), allow_ports: Iterable[str] = DEFAULT_PORTS
    ) -> None:
        self._networks = tuple(_network(text) for text in allow_networks)
        self._ports_told = tuple(allow_ports)
        self._ports = frozenset(port for text in self._ports_told for port in _ports(text))
        self.allows = lru_cache(maxsize=4096)(self._allows)
        """Whether an address, as text, may be connected to; what is no address may not."""

    def allows_port(self, port: int) -> bool:
        """Whether a port may be connected to."""
        return port in self._ports

    def check_url(self, url: str) -> None:
        """Check the URL of an endpoint before it is stored. A name is not looked up here.

        Raises:
            ScenarioError: one ``Problem`` with path ``url``: the value and the rule it breaks.
        """
        found = site(url)
        if not self.allows_port(found.port):
            raise _refused(
                url, f"its port must be one of {', '.join(self._ports_told)}; the operator sets these"
            )
        if found.literal:
            reachable = self.allows(found.host)
        else:
            local = found.host == "localhost" or found.host.endswith(".localhost")
            reachable = not local or self.allows("127.0.0.1") or self.allows("::1")
        if not reachable:
            raise _refused(url, "must lead to a public address; the operator may allow networks besides")

    def _allows(self, text: str) -> bool:
        try:
            address = ipaddress.ip_address(text.partition("%")[0])
        except ValueError:
            return False
        return self._reachable(address)

    def _reachable(self, address: Address) -> bool:
        if any(address in network for network in self._networks):
            return True
        if isinstance(address, ipaddress.IPv4Address):
            return _public_v4(address)
        inside = list(_embedded(address))
        return all(map(self._reachable, inside)) if inside else _public_v6(address)


@lru_cache(maxsize=65_536)
def site(url: str) -> Site:
    """Whom a URL speaks to, if it can be read in one way only.

    Raises:
        ScenarioError: one ``Problem`` with path ``url``: the value and the rule it breaks.
    """
    if len(url) > LONGEST_URL:
        raise _refused(url, f"must have at most {LONGEST_URL:,} characters")
    if not all("!" <= character <= "~" for character in url):
        raise _refused(
            url, "must be visible ASCII: write a name in its xn-- form and percent-encode the rest"
        )
    if "\\" in url or "#" in url:
        raise _refused(url, "must have no backslash and no fragment (#…)")
    if not url.lower().startswith(("http://", "https://")):
        raise _refused(url, "must begin with http:// or https://")
    if "@" in re.split(r"[/?]", url, maxsplit=3)[2]:
        raise _refused(url, "must hold no user or password; the signature tells the receiver who sends")
    parts = _URL.fullmatch(url)
    if not parts:
        raise _refused(
            url,
            "must be http(s)://HOST[:PORT]/PATH: a name of letters, digits, - and _, or an address, IPv6 in brackets",
        )
    port = int(parts["port"] or {"http": 80, "https": 443}[parts["scheme"].lower()])
    if parts["literal"]:
        return Site(_v6_literal(url, parts["literal"]), port, literal=True)
    host = parts["host"].lower()
    return Site(host, port, literal=_is_v4_literal(url, host))


def _v6_literal(url: str, text: str) -> str:
    try:
        return str(ipaddress.IPv6Address(text))
    except ValueError:
        raise _refused(url, "must hold a true IPv6 address between its brackets") from None


def _is_v4_literal(url: str, host: str) -> bool:
    """Whether a host is an IPv4 address; a name is checked on the way.

    What ends in a number is an address to some resolvers (127.1, 0x7f.1, 2130706433, 0177.0.0.1): only the one
    spelling in which all agree is let through.
    """
    labels = host.split(".")
    if _NUMERIC.fullmatch(labels[-1] or labels[-2:][0]):
        try:
            ipaddress.IPv4Address(host)
        except ValueError:
            raise _refused(
                url, "must write an IPv4 address as four decimal numbers, such as 192.0.2.1"
            ) from None
        return True
    if len(host) > 253 or not all(map(_LABEL.fullmatch, labels)):
        raise _refused(url, "must name a host: labels of letters, digits, - and _, with one dot between them")
    return False


def _refused(url: str, rule: str) -> ScenarioError:
    return ScenarioError([Problem("url", url, rule)])


# --------------------------------------------------------------------------- addresses


def _public_v4(address: ipaddress.IPv4Address) -> bool:
    ordinary = address.is_global and not address.is_multicast and not address.is_reserved
    return ordinary and not any(address in network for network in _V4_SPECIAL)


def _public_v6(address: ipaddress.IPv6Address) -> bool:
    return address in _V6_GLOBAL and not any(address in network for network in _V6_SPECIAL)


def _embedded(address: ipaddress.IPv6Address) -> Iterator[ipaddress.IPv4Address]:
    """The IPv4 addresses that are reached, or passed through, by way of this one."""
    if address.is_unspecified or address.is_loopback:
        return
    if any(address in network for network in _V4_INSIDE):
        yield ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)
    if address.sixtofour is not None:
        yield address.sixtofour
    if address.teredo is not None:
        yield from address.teredo


# --------------------------------------------------------------------------- what the operator allows


def _network(text: str) -> Network:
    try:
        return ipaddress.ip_network(text)
    except ValueError:
        rule = "must be a network such as 10.0.0.0/8 or fd00::/8, with no bits set beyond its length"
        raise ScenarioError([Problem("allow_networks", text, rule)]) from None


def _ports(text: str) -> Sequence[int]:
    parts = re.fullmatch(r"([0-9]{1,5})(?:-([0-9]{1,5}))?", text)
    first, last = (int(parts[1]), int(parts[2] or parts[1])) if parts else (0, 0)
    if not 1 <= first <= last <= 65_535:
        rule = "must be a port from 1 to 65535, or a range such as 8000-8999"
        raise ScenarioError([Problem("allow_ports", text, rule)])
    return range(first, last + 1)
