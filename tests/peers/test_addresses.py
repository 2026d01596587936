from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from peers.addresses import (
    ADDRESSES_LIMIT,
    Address,
    SignedAddresses,
    is_cloned,
    own_addresses,
    sign,
    supersedes,
    verify,
)
from peers.interfaces import interface_addresses
from store.errors import BadSignature, Malformed, UsageError
from store.signing import AgentKey

KEY = AgentKey.from_seed(b"k" * 32)
HOME = (Address("192.0.2.7", 7499), Address("2001:db8::7", 7499))
INTERFACES = ("127.0.0.1", "192.0.2.7", "::1", "fe80::1", "169.254.3.4", "2001:db8::7")


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("nas.lan:7499", "nas.lan:7499"),
        ("NAS.Lan:7499", "nas.lan:7499"),
        ("192.0.2.7:1", "192.0.2.7:1"),
        ("[::]:7499", "[::]:7499"),
        ("[2001:DB8:0:0::1]:65535", "[2001:db8::1]:65535"),
        ("[fe80::1%eth0]:7499", "[fe80::1%eth0]:7499"),
        ("localhost:0", "localhost:0"),
    ],
)
def test_address_is_read_and_written_in_its_usual_form(text: str, written: str) -> None:
    assert str(Address.parse(text)) == written
    assert Address.parse(written) == Address.parse(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "nas",
        "nas:",
        ":7499",
        "nas:65536",
        "nas:-1",
        "nas:1e3",
        "::1:7499",
        "[::1]",
        "[::1:7499",
        "[nas]:7499",
        "1.2.3:7499",
        "1.2.3.256:7499",
        "na s:7499",
        "na/s:7499",
        "nas:٣",
        "...:1",
        "nas..lan:1",
        ".nas:1",
        "nas.lan..:1",
        "x" * 64 + ".lan:1",
        "\x1b[31m:7499",
        "[fe80::1%]:1",
        "[fe80::1%a\nb]:1",
    ],
)
def test_address_that_is_none_is_refused_with_a_hint(text: str) -> None:
    with pytest.raises(UsageError) as refused:
        Address.parse(text)

    assert "HOST:PORT" in refused.value.hint
    assert "\x1b" not in str(refused.value)


@given(st.text(max_size=60))
def test_any_text_is_an_address_or_a_usage_error(text: str) -> None:
    try:
        address = Address.parse(text)
    except UsageError:
        return
    assert Address.parse(str(address)) == address


@given(st.text("ab-._", min_size=1, max_size=80))
def test_system_can_be_asked_for_any_name_that_is_an_address(name: str) -> None:
    try:
        address = Address.parse(f"{name}:1")
    except UsageError:
        return
    address.host.encode("idna")  # as socket.getaddrinfo does, which raises no OSError for it


def test_wildcard_stands_for_the_interfaces_without_loopback_and_link_local() -> None:
    both = own_addresses((Address("::", 7499),), (), INTERFACES)
    only_ipv4 = own_addresses((Address("0.0.0.0", 7499),), (), INTERFACES)

    assert both == HOME
    assert only_ipv4 == HOME[:1]


def test_loopback_as_written_is_told() -> None:
    listen = (Address("127.0.0.1", 7499), Address("::1", 7499))

    assert own_addresses(listen, (), INTERFACES) == listen


def test_announce_replaces_the_listen_addresses() -> None:
    announce = (Address("home.example.org", 443),)

    assert own_addresses((Address("::", 7499),), announce, INTERFACES) == announce


def test_machine_with_nothing_but_loopback_tells_that() -> None:
    told = own_addresses((Address("::", 7499),), (), ("127.0.0.1", "::1", "fe80::1"))

    assert told == (Address("127.0.0.1", 7499), Address("::1", 7499))


def test_no_more_addresses_are_told_than_may_be() -> None:
    many = [f"192.0.2.{number}" for number in range(100)]

    assert len(own_addresses((Address("::", 7499),), (), many)) == ADDRESSES_LIMIT


def test_this_machine_has_loopback() -> None:
    found = interface_addresses()

    assert "127.0.0.1" in found or "::1" in found
    assert len(found) == len(set(found))


def test_signed_addresses_are_proven_and_read() -> None:
    assert verify(sign(KEY, 7, HOME)) == HOME
    assert verify(sign(KEY, 0, ())) == ()


def test_addresses_changed_in_any_field_are_refused() -> None:
    signed = sign(KEY, 7, HOME)
    other = AgentKey.from_seed(b"o" * 32)

    for forged in (
        replace(signed, agent=other.agent),
        replace(signed, counter=8),
        replace(signed, addresses=signed.addresses[:1]),
        replace(signed, addresses=signed.addresses[::-1]),
        replace(signed, signature=bytes(64)),
    ):
        with pytest.raises(BadSignature):
            verify(forged)


@pytest.mark.parametrize(
    "text", [b"nas", b"\xff:1", b"0.0.0.0:7499", b"[::]:7499", b"nas:0", b"a..b:1"]
)
def test_well_signed_addresses_that_reach_nobody_are_refused(text: bytes) -> None:
    from peers.addresses import _SIGN_DOMAIN, _digest  # noqa: PLC0415

    signature = KEY.sign(_SIGN_DOMAIN + _digest(KEY.agent, 1, (text,)))

    with pytest.raises(Malformed):
        verify(SignedAddresses(KEY.agent, 1, (text,), signature))


def test_highest_counter_wins_whatever_the_order() -> None:
    older, newer = sign(KEY, 1, HOME), sign(KEY, 2, ())

    assert supersedes(newer, older)
    assert not supersedes(older, newer)
    assert not supersedes(newer, newer)
    assert supersedes(older, None)


def test_A23_equal_counters_of_a_clone_end_the_same_everywhere() -> None:
    one, two = sign(KEY, 5, HOME[:1]), sign(KEY, 5, HOME[1:])

    assert supersedes(one, two) != supersedes(two, one)


def test_A23_newer_list_under_our_own_key_is_a_clone() -> None:
    assert is_cloned(4, sign(KEY, 5, HOME))
    assert not is_cloned(5, sign(KEY, 5, HOME))
