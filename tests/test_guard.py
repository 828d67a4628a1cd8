"""Which URLs and addresses the dispatcher may send to."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from loadtest.dispatcher.guard import Guard, site
from sim.errors import ScenarioError

PUBLIC = (
    "8.8.8.8",
    "1.1.1.1",
    "2606:4700::1111",
    "2a00:1450:4001:81b::200e",
    "64:ff9b::808:808",
    "::ffff:8.8.8.8",
)
PRIVATE = (
    "0.0.0.0",
    "0.1.2.3",
    "10.0.0.1",
    "100.64.0.1",
    "100.100.100.200",  # metadata of a cloud
    "127.0.0.1",
    "127.255.255.254",
    "168.63.129.16",  # a cloud's own services
    "169.254.169.254",  # metadata of most clouds
    "172.16.0.1",
    "172.31.255.255",
    "192.0.0.192",  # metadata of a cloud
    "192.0.2.1",
    "192.88.99.1",
    "192.168.1.1",
    "198.18.0.1",
    "198.51.100.1",
    "203.0.113.9",
    "224.0.0.1",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "fe80::1",
    "fe80::1%eth0",
    "fec0::1",
    "fc00::1",
    "fd00:ec2::254",  # metadata of a cloud
    "ff02::1",
    "100::1",
    "2001:db8::1",
    "3fff::1",
    "5f00::1",
    "4000::1",  # given out to nobody
)
WRAPPED = (
    "::ffff:{}",  # mapped
    "::{}",  # compatible
    "::ffff:0:{}",  # translated
    "64:ff9b::{}",  # NAT64
)


def sixtofour(v4: ipaddress.IPv4Address) -> str:
    """The 6to4 address of an IPv4 one."""
    return str(ipaddress.IPv6Address(0x2002 << 112 | int(v4) << 80 | 1))


def teredo(server: ipaddress.IPv4Address, client: ipaddress.IPv4Address) -> str:
    """The Teredo address of a client behind a server."""
    return str(ipaddress.IPv6Address(0x20010000 << 96 | int(server) << 64 | int(client) ^ 0xFFFFFFFF))


def refusal(guard: Guard, url: str) -> str:
    """The rule that a URL breaks; it is told of the field ``url``, once and on one line."""
    with pytest.raises(ScenarioError) as caught:
        guard.check_url(url)
    (problem,) = caught.value.problems
    assert (problem.path, problem.value) == ("url", url)
    assert "\n" not in str(problem)
    return problem.rule


@pytest.mark.parametrize("ip", PUBLIC)
def test_public_addresses_are_allowed(ip: str) -> None:
    """What anybody on the internet may reach, the dispatcher may reach, also through a wrapping of IPv6."""
    assert Guard().allows(ip)


@pytest.mark.parametrize("ip", PRIVATE)
def test_addresses_that_are_not_public_are_refused(ip: str) -> None:
    """Private, local, shared, reserved and documentation addresses are refused, and those of metadata services."""
    assert not Guard().allows(ip)


@pytest.mark.parametrize("form", WRAPPED)
@pytest.mark.parametrize("ip", [ip for ip in PRIVATE if "." in ip])
def test_an_ipv4_address_is_judged_inside_every_wrapping(ip: str, form: str) -> None:
    """No form of IPv6 that leads to a forbidden IPv4 address gets past the guard."""
    assert not Guard().allows(form.format(ip))


@given(v4=st.ip_addresses(v=4), server=st.ip_addresses(v=4))
@example(v4=ipaddress.IPv4Address("127.0.0.1"), server=ipaddress.IPv4Address("8.8.8.8"))
@example(v4=ipaddress.IPv4Address("8.8.8.8"), server=ipaddress.IPv4Address("10.0.0.1"))
def test_a_wrapped_address_is_allowed_just_where_its_ipv4_is(
    v4: ipaddress.IPv4Address, server: ipaddress.IPv4Address
) -> None:
    """Mapped, NAT64 and 6to4 follow the IPv4 address they carry; Teredo carries two and needs both."""
    guard = Guard()
    allowed = guard.allows(str(v4))
    assert (
        guard.allows(f"::ffff:{v4}")
        == guard.allows(f"64:ff9b::{v4}")
        == guard.allows(sixtofour(v4))
        == allowed
    )
    assert guard.allows(teredo(server, v4)) == (allowed and guard.allows(str(server)))


@given(ip=st.ip_addresses())
def test_nothing_special_by_the_registry_is_allowed(
    ip: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> None:
    """What the standard library calls private, local, reserved or multicast is never allowed by itself."""
    special = ip.is_private or ip.is_loopback or ip.is_link_local or ip.is_multicast or ip.is_unspecified
    wraps = isinstance(ip, ipaddress.IPv6Address) and (ip.ipv4_mapped or ip.sixtofour or int(ip) >> 32 == 0)
    if not wraps:
        assert not (special and Guard().allows(str(ip)))


def test_a_network_is_allowed_by_name_and_nothing_beside_it() -> None:
    """A network that the operator names is open, also by way of IPv6 forms that only wrap it."""
    guard = Guard(["127.0.0.0/8", "fd00:1::/32"])
    assert guard.allows("127.9.9.9")
    assert guard.allows("::ffff:127.0.0.1")
    assert guard.allows("fd00:1::5")
    assert not guard.allows("::1")
    assert not guard.allows("fd00:2::5")
    assert not guard.allows("10.0.0.1")


def test_allowing_low_ipv4_addresses_opens_no_loopback_of_ipv6() -> None:
    """``::1`` is the loopback and no wrapping of 0.0.0.1."""
    assert not Guard(["0.0.0.0/8"]).allows("::1")


@pytest.mark.parametrize(
    "text", ["", "localhost", "127.1", "0x7f000001", "2130706433", "8.8.8.8.", "8.8.8.8:80", "[::1]"]
)
def test_what_is_no_address_is_not_allowed(text: str) -> None:
    """The check at connect time takes addresses only, in the one spelling that everybody reads alike."""
    assert not Guard(["0.0.0.0/0", "::/0"]).allows(text)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://example.com", ("example.com", 80, False)),
        ("https://Example.COM/Hooks?a=b@c", ("example.com", 443, False)),
        ("HTTPS://xn--bcher-kva.example:8443/", ("xn--bcher-kva.example", 8443, False)),
        ("http://my_host.example?x", ("my_host.example", 80, False)),
        ("http://8.8.8.8:8080/x", ("8.8.8.8", 8080, True)),
        ("http://[2606:4700:0::1111]/", ("2606:4700::1111", 80, True)),
        ("http://1e100.example/", ("1e100.example", 80, False)),  # digits in a name are fine
    ],
)
def test_ordinary_urls_are_allowed(url: str, expected: tuple[str, int, bool]) -> None:
    """A URL is taken apart into host, port and whether the host is an address."""
    Guard().check_url(url)
    assert tuple(site(url)) == expected


@pytest.mark.parametrize(
    ("url", "rule"),
    [
        ("http://2130706433/", "four decimal numbers"),  # 127.0.0.1 as one number
        ("http://0177.0.0.1/", "four decimal numbers"),  # octal
        ("http://0x7f.1/", "four decimal numbers"),
        ("http://0x7f000001/", "four decimal numbers"),
        ("http://127.1/", "four decimal numbers"),
        ("http://127.0.0.1./", "four decimal numbers"),
        ("http://127.0.0.0x1/", "four decimal numbers"),
        ("http://1.2.3.4.5/", "four decimal numbers"),
        ("http://256.1.1.1/", "four decimal numbers"),
        ("http://example.com./", "must name a host"),
        ("http://a..example/", "must name a host"),
        ("http://-a.example/", "must name a host"),
        (f"http://{'a' * 64}.example/", "must name a host"),
        (f"http://{'a.' * 127}example/", "must name a host"),
        ("http://%31%32%37.0.0.1/", "must be http(s)://HOST"),
        ("http://[fe80::1%25eth0]/", "must be http(s)://HOST"),
        ("http://[::1/", "must be http(s)://HOST"),
        ("http://[1.2.3.4]/", "true IPv6 address"),
        ("http://[:::1]/", "true IPv6 address"),
        ("http://::1/", "must be http(s)://HOST"),
        ("http://a.example:/", "must be http(s)://HOST"),
        ("http://a.example:+80/", "must be http(s)://HOST"),
        ("http:///path", "must be http(s)://HOST"),
        ("http://", "must be http(s)://HOST"),
        ("http://user@a.example/", "no user"),
        ("http://user:word@a.example/", "no user"),
        ("http://a.example:80@127.0.0.1/", "no user"),
        ("http://@a.example/", "no user"),
        ("http://a.example\\@127.0.0.1/", "backslash"),
        ("http:\\\\a.example/", "backslash"),
        ("http://a.example#@127.0.0.1/", "fragment"),
        ("http://a.example/#x", "fragment"),
        ("http://１２７.0.0.1/", "visible ASCII"),  # full-width digits
        ("http://127。0。0。1/", "visible ASCII"),  # ideographic full stops
        ("http://bücher.example/", "visible ASCII"),
        ("http://a.example /", "visible ASCII"),
        (" http://a.example/", "visible ASCII"),
        ("http://a.example/\r\nX: y", "visible ASCII"),
        ("http://a.example/\x00", "visible ASCII"),
        ("http://a.exa\tmple/", "visible ASCII"),
        ("ftp://a.example/", "begin with http"),
        ("file:///etc/passwd", "begin with http"),
        ("gopher://127.0.0.1:6379/_x", "begin with http"),
        ("//a.example/", "begin with http"),
        ("http:/a.example/", "begin with http"),
        ("", "begin with http"),
        ("http://a.example/" + "x" * 2_000, "at most 2,000"),
        ("http://a.example:22/", "its port"),
        ("http://a.example:0/", "its port"),
        ("http://a.example:65536/", "its port"),
        ("http://127.0.0.1/", "public address"),
        ("http://169.254.169.254/latest/meta-data/", "public address"),
        ("http://[::1]/", "public address"),
        ("http://[::ffff:127.0.0.1]/", "public address"),
        ("http://[64:ff9b::a9fe:a9fe]/", "public address"),
        ("http://localhost/", "public address"),
        ("http://LOCALHOST:8080/", "public address"),
        ("http://a.localhost/", "public address"),
    ],
)
def test_urls_that_mislead_or_lead_inside_are_refused(url: str, rule: str) -> None:
    """Each odd spelling breaks a rule of its own, and the message names it."""
    assert rule in refusal(Guard(), url)


def test_local_urls_are_allowed_with_their_network() -> None:
    """With the loopback allowed, its addresses and its name can be stored."""
    guard = Guard(["127.0.0.0/8"])
    guard.check_url("http://127.0.0.1:8080/")
    guard.check_url("http://localhost:8080/")
    assert "public" in refusal(guard, "http://[::1]:8080/")


@given(host=st.text(alphabet="0123456789abcdefx.-_:[]%@\\/?#１٠。", min_size=1, max_size=24))
@example(host="0x7f.0x1")
@example(host="١٢٧.0.0.1")
def test_no_spelling_of_a_host_is_read_in_two_ways(host: str) -> None:
    """Whatever passes is a literal address in canonical form, or a name that no resolver takes for one."""
    try:
        found = site(f"http://{host}/")
    except ScenarioError:
        return
    if found.literal:
        assert str(ipaddress.ip_address(found.host)) == found.host
    else:
        assert found.host.isascii()
        assert not found.host.endswith(".")
        last = found.host.rpartition(".")[2]
        assert not last.isdigit()
        assert not last.startswith("0x") or set(last[2:]) - set("0123456789abcdef")


def test_ports_are_a_list_of_numbers_and_ranges() -> None:
    """Only the listed ports are open; the message lists them."""
    guard = Guard(allow_ports=["80", "8000-8002"])
    assert [port for port in range(65_537) if guard.allows_port(port)] == [80, 8000, 8001, 8002]
    assert "80, 8000-8002" in refusal(guard, "https://a.example/")


@pytest.mark.parametrize("ports", ["", "0", "65536", "9-8", "1-", "-5", "80,443", "http", "８０"])
def test_ports_that_are_none_are_told(ports: str) -> None:
    """A mistake of the operator's names the field, the value and the rule."""
    with pytest.raises(ScenarioError, match=r"allow_ports.*must be a port"):
        Guard(allow_ports=[ports])


@pytest.mark.parametrize("network", ["", "127.0.0.1/8", "localhost", "10.0.0.0/33", "any"])
def test_networks_that_are_none_are_told(network: str) -> None:
    """A mistake of the operator's names the field, the value and the rule."""
    with pytest.raises(ScenarioError, match=r"allow_networks.*must be a network"):
        Guard([network])
