from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peers.handshake import (
    HELLO_LIMIT_BYTES,
    Caller,
    Door,
    HelloFailed,
    HelloRefused,
    Host,
    InviteExpired,
    InviteUsed,
    Other,
    Refusal,
    Verdict,
    judge,
    pin,
)
from peers.invite import Invite
from peers.link import Purpose
from tests.peers.meeting import GuestList, make_identity, make_invite

if TYPE_CHECKING:
    from peers.identity import Identity

HOST = make_identity(1, label=b"desktop")
CALLER = make_identity(2, label=b"laptop")
STRANGER = make_identity(3)
SEEN = b"C" * 32


def make_caller(
    who: Identity = CALLER,
    *,
    to: Identity = HOST,
    seen: bytes = SEEN,
    purpose: Purpose = Purpose.CONTROL,
    nonce: bytes = b"n" * 32,
    invite: Invite | None = None,
) -> Caller:
    return Caller(
        who,
        expected=to.agent,
        certificate_hash=seen,
        purpose=purpose,
        nonce=nonce,
        invite=invite,
    )


def make_host(who: Identity = HOST, *, nonce: bytes = b"m" * 32) -> Host:
    return Host(who, certificate_hash=SEEN, nonce=nonce)


async def meet(caller: Caller, host: Host, door: Door) -> tuple[Other, Other]:
    """Run one whole hello; give what the caller and the host learned."""
    claim = host.check(caller.prove(host.answer(caller.hello())))
    _, said = await judge(host, claim, door)
    return caller.finish(said), claim.other


async def test_member_and_host_learn_who_the_other_is() -> None:
    door = GuestList(members={CALLER.agent})

    of_host, of_caller = await meet(make_caller(purpose=Purpose.BULK), make_host(), door)

    assert (of_host.agent, of_host.label, of_host.instance) == (
        HOST.agent,
        b"desktop",
        HOST.instance,
    )
    assert (of_caller.agent, of_caller.label) == (CALLER.agent, b"laptop")
    assert of_caller.purpose is of_host.purpose is Purpose.BULK


async def test_A6_unknown_agent_is_refused_without_a_word() -> None:
    with pytest.raises(HelloRefused) as refused:
        await meet(make_caller(STRANGER), make_host(), GuestList(members={CALLER.agent}))

    assert refused.value.refusal is Refusal.STRANGER


async def test_A6_nobody_is_looked_up_before_its_signature_is_right() -> None:
    door = GuestList(members={CALLER.agent})
    caller, host = make_caller(), make_host()
    proof = bytearray(caller.prove(host.answer(caller.hello())))
    proof[-1] ^= 1

    with pytest.raises(HelloRefused) as refused:
        host.check(bytes(proof))

    assert refused.value.refusal is Refusal.SIGNATURE
    assert door.asked == []


def test_P44_recorded_proof_is_refused_on_another_connection() -> None:
    caller, first, second = make_caller(), make_host(), make_host(nonce=b"o" * 32)
    recorded = caller.prove(first.answer(caller.hello()))
    first.check(recorded)

    second.answer(caller.hello())

    with pytest.raises(HelloRefused) as refused:
        second.check(recorded)
    assert refused.value.refusal is Refusal.SIGNATURE


def test_P44_proof_is_refused_when_relayed_to_another_host() -> None:
    middle, target = make_host(STRANGER), make_host(HOST)
    caller = make_caller(to=STRANGER)
    hello = caller.hello()
    middle.answer(hello)

    proof = caller.prove(target.answer(hello))  # the one in the middle passes everything on

    with pytest.raises(HelloRefused) as refused:
        target.check(proof)
    assert refused.value.refusal is Refusal.SIGNATURE


def test_P44_proof_is_refused_when_the_caller_saw_another_certificate() -> None:
    caller, host = make_caller(seen=b"D" * 32), make_host()

    proof = caller.prove(host.answer(caller.hello()))

    with pytest.raises(HelloRefused):
        host.check(proof)


@pytest.mark.parametrize("invited", [False, True])
def test_P44_any_changed_byte_of_the_hello_is_refused(invited: bool) -> None:
    invite = make_invite(HOST.agent) if invited else None
    purpose = Purpose.JOIN if invited else Purpose.CONTROL
    caller = make_caller(purpose=purpose, invite=invite)
    hello = caller.hello()
    proof = caller.prove(make_host().answer(hello))
    accepted = 0

    for place in range(len(hello)):
        host = make_host()
        try:
            host.answer(hello[:place] + bytes((hello[place] ^ 1,)) + hello[place + 1 :])
            host.check(proof)
            accepted += 1
        except HelloRefused:
            pass
    for place in range(len(proof)):
        host = make_host()
        host.answer(hello)
        try:
            host.check(proof[:place] + bytes((proof[place] ^ 1,)) + proof[place + 1 :])
            accepted += 1
        except HelloRefused:
            pass

    assert accepted == 0


@settings(max_examples=300, deadline=None)
@given(hello=st.binary(max_size=HELLO_LIMIT_BYTES + 8), proof=st.binary(max_size=600))
def test_any_bytes_of_a_stranger_are_refused_and_nothing_else(hello: bytes, proof: bytes) -> None:
    host = make_host()

    with suppress(HelloRefused):
        host.answer(hello)
    with pytest.raises(HelloRefused):
        host.check(proof)


@settings(max_examples=300, deadline=None)
@given(answer=st.binary(max_size=100), welcome=st.binary(max_size=400))
def test_any_bytes_of_a_host_end_in_a_plain_failure(answer: bytes, welcome: bytes) -> None:
    caller = make_caller(purpose=Purpose.JOIN, invite=make_invite(HOST.agent))

    try:
        caller.prove(answer)
    except HelloFailed:
        caller.prove(b"\x00\x01" + bytes(32))
    with pytest.raises(HelloFailed):
        caller.finish(welcome)


def test_caller_tells_which_versions_do_not_meet() -> None:
    with pytest.raises(HelloFailed, match="version 7"):
        make_caller().prove(b"\x00\x07" + bytes(32))


def test_host_goes_on_only_with_a_caller_that_speaks_its_version() -> None:
    host = make_host()
    host.answer(b"\x00\x02\x00\x03" + bytes(32))
    caller = make_caller()

    with pytest.raises(HelloRefused):
        host.check(caller.prove(b"\x00\x01" + b"m" * 32))


def test_later_fields_of_a_hello_are_passed_over_but_signed() -> None:
    caller, host = make_caller(), make_host()
    longer = caller.hello() + b"a later version says more here"

    host.answer(longer)

    with pytest.raises(HelloRefused):  # the caller did not say this
        host.check(caller.prove(b"\x00\x01" + b"m" * 32))


async def test_A22_invite_admits_its_first_joiner() -> None:
    invite, door = make_invite(HOST.agent), GuestList()
    door.expect(invite)

    of_host, of_caller = await meet(
        make_caller(purpose=Purpose.JOIN, invite=invite), make_host(), door
    )

    assert of_host.agent == HOST.agent
    assert of_caller.purpose is Purpose.JOIN
    assert door.members == {CALLER.agent}


async def test_A22_raced_invite_admits_exactly_one_and_tells_the_other() -> None:
    invite, door = make_invite(HOST.agent), GuestList()
    door.expect(invite)
    racers = [make_identity(number) for number in range(10, 18)]

    ends = await asyncio.gather(
        *(
            meet(make_caller(racer, purpose=Purpose.JOIN, invite=invite), make_host(), door)
            for racer in racers
        ),
        return_exceptions=True,
    )

    assert len(door.members) == 1
    assert sum(isinstance(end, tuple) for end in ends) == 1
    assert sum(isinstance(end, InviteUsed) for end in ends) == len(racers) - 1


async def test_A22_same_agent_may_join_again_with_its_invite() -> None:
    invite, door = make_invite(HOST.agent), GuestList()
    door.expect(invite)

    for _ in range(2):
        await meet(make_caller(purpose=Purpose.JOIN, invite=invite), make_host(), door)

    assert door.members == {CALLER.agent}


async def test_A22_expired_invite_is_told_to_who_knows_its_secret() -> None:
    invite, door = make_invite(HOST.agent), GuestList()
    door.expect(invite)
    door.expired.add(invite.id)

    with pytest.raises(InviteExpired):
        await meet(make_caller(purpose=Purpose.JOIN, invite=invite), make_host(), door)

    assert door.members == set()


async def test_A22_who_knows_the_id_but_not_the_secret_hears_nothing() -> None:
    invite, door = make_invite(HOST.agent), GuestList()
    door.keys[invite.id] = make_invite(HOST.agent, secret=b"t" * 16).key
    door.expired.add(invite.id)

    with pytest.raises(HelloRefused) as refused:
        await meet(make_caller(purpose=Purpose.JOIN, invite=invite), make_host(), door)

    assert refused.value.refusal is Refusal.NO_INVITE


async def test_P45_invite_to_another_folder_is_unknown() -> None:
    door = GuestList()
    invite = make_invite(HOST.agent)
    door.expect(invite)
    forged = Invite(
        inviter=invite.inviter,
        folder=type(invite.folder)(b"G" * 32),
        folder_name=b"secrets",
        addresses=(),
        secret=invite.secret,
        expires_ms=invite.expires_ms,
        role=1,
    )

    with pytest.raises(HelloRefused) as refused:
        await meet(make_caller(purpose=Purpose.JOIN, invite=forged), make_host(), door)

    assert refused.value.refusal is Refusal.NO_INVITE
    assert door.used_by == {}


async def test_joiner_believes_no_verdict_from_a_host_without_the_secret() -> None:
    invite, door = make_invite(HOST.agent), GuestList()
    door.expect(invite)
    caller, host = make_caller(purpose=Purpose.JOIN, invite=invite), make_host()
    claim = host.check(caller.prove(host.answer(caller.hello())))

    for verdict in Verdict:
        with pytest.raises(HelloFailed, match="secret"):
            caller.finish(host.welcome(claim, verdict, None))


async def test_joiner_believes_no_verdict_that_was_changed() -> None:
    invite = make_invite(HOST.agent)
    caller, host = make_caller(purpose=Purpose.JOIN, invite=invite), make_host()
    claim = host.check(caller.prove(host.answer(caller.hello())))
    used = host.welcome(claim, Verdict.INVITE_USED, invite.key)

    with pytest.raises(HelloFailed):
        caller.finish(bytes((Verdict.WELCOME,)) + used[1:])


def test_A23_caller_with_the_hosts_own_key_is_refused() -> None:
    caller, host = make_caller(HOST), make_host()

    with pytest.raises(HelloRefused) as refused:
        host.check(caller.prove(host.answer(caller.hello())))

    assert refused.value.refusal is Refusal.OURSELVES


def test_A23_dialler_says_so_when_it_reaches_itself() -> None:
    with pytest.raises(HelloFailed, match="this node itself"):
        pin(CALLER.agent, HOST.agent, CALLER.agent)


def test_control_hello_cannot_carry_an_invite() -> None:
    with pytest.raises(ValueError, match="invite"):
        make_caller(invite=make_invite(HOST.agent))
