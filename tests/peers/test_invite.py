from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peers.address import Address
from peers.invite import Invite, InviteDamaged
from store.ids import AgentId, FolderId

INVITE = Invite(
    inviter=AgentId(bytes(range(32))),
    folder=FolderId(bytes(range(32, 64))),
    folder_name="Ferien ✈".encode(),
    addresses=(Address("192.0.2.7", 7499), Address("2001:db8::1", 7499), Address("nas.lan", 1)),
    secret=b"0123456789abcdef",
    expires_ms=1_795_000_000_000,
    role=2,
)
LINE = INVITE.encode()


def damage_of(text: str) -> str:
    with pytest.raises(InviteDamaged) as damaged:
        Invite.parse(text)
    assert damaged.value.exit_code == 2
    assert damaged.value.hint
    return damaged.value.why


def test_P45_line_says_everything_and_is_one_word() -> None:
    assert Invite.parse(LINE) == INVITE
    assert LINE.startswith("dizzyd1.")
    assert len(LINE.split()) == 1
    assert not set(LINE) - set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.")


@settings(max_examples=100, deadline=None)
@given(
    name=st.binary(min_size=1, max_size=255),
    ports=st.lists(st.integers(0, 65535), max_size=16, unique=True),
    secret=st.binary(min_size=16, max_size=16),
    expires_ms=st.integers(0, 2**63 - 1),
    role=st.integers(1, 3),
)
def test_P45_every_invite_survives_its_line(
    name: bytes, ports: list[int], secret: bytes, expires_ms: int, role: int
) -> None:
    invite = Invite(
        inviter=INVITE.inviter,
        folder=INVITE.folder,
        folder_name=name,
        addresses=tuple(Address("h", port) for port in ports),
        secret=secret,
        expires_ms=expires_ms,
        role=role,
    )

    assert Invite.parse(invite.encode()) == invite


@pytest.mark.parametrize(
    "pasted",
    [
        f"  {LINE}\n",
        "\r\n".join(LINE[start : start + 60] for start in range(0, len(LINE), 60)),
        "\n> ".join(LINE[start : start + 72] for start in range(0, len(LINE), 72)),
        f"“{LINE}”",
        f"`{LINE}`",
        f"\ufeff{LINE[:40]}\u200b{LINE[40:]}\u00a0",
    ],
)
def test_A22_paste_with_breaks_and_quotes_is_read(pasted: str) -> None:
    assert Invite.parse(pasted) == INVITE


def test_A22_line_cut_anywhere_is_refused() -> None:
    for end in range(len(LINE)):
        damage_of(LINE[:end])
    for start in range(1, len(LINE)):
        damage_of(LINE[start:])


def test_A22_line_with_one_letter_changed_is_refused() -> None:
    for place, letter in enumerate(LINE):
        damage_of(LINE[:place] + ("A" if letter != "A" else "B") + LINE[place + 1 :])


def test_A22_line_with_two_letters_swapped_or_one_doubled_is_refused() -> None:
    for place in range(len(LINE) - 1):
        one, two = LINE[place], LINE[place + 1]
        if one != two:
            damage_of(LINE[:place] + two + one + LINE[place + 2 :])
        damage_of(LINE[:place] + one + LINE[place:])


def test_A22_each_sort_of_damage_has_its_own_words() -> None:
    assert "more than once" in damage_of(LINE + LINE)
    assert "more than once" in damage_of(f"{LINE}\n{LINE}")
    assert "cut" in damage_of(LINE[:-3])
    assert "beginning" in damage_of(LINE[3:])
    assert "newer" in damage_of("dizzyd2" + LINE[7:])
    assert "no invite" in damage_of("https://example.org/")
    assert "no invite" in damage_of("")


@given(st.text(max_size=400))
def test_any_text_is_an_invite_or_damaged(text: str) -> None:
    with pytest.raises(InviteDamaged):
        Invite.parse(text)


@given(st.binary(max_size=200))
def test_right_check_over_a_wrong_body_is_still_refused(body: bytes) -> None:
    from peers.invite import _base64, _check  # noqa: PLC0415

    line = "dizzyd1." + _base64(b"\x02" + body)

    with pytest.raises(InviteDamaged):
        Invite.parse(f"{line}.{_check(line)}")


def test_id_and_key_are_bound_to_secret_inviter_and_folder_only() -> None:
    changed = {
        "inviter": AgentId(b"i" * 32),
        "folder": FolderId(b"f" * 32),
        "secret": b"t" * 16,
    }
    fields = {name: getattr(INVITE, name) for name in Invite.__slots__}

    for name, value in changed.items():
        other = Invite(**{**fields, name: value})
        assert other.id != INVITE.id
        assert other.key != INVITE.key
    renamed = Invite(**{**fields, "folder_name": b"x", "role": 1, "addresses": ()})
    assert (renamed.id, renamed.key) == (INVITE.id, INVITE.key)


def test_secret_stays_out_of_repr_id_and_key() -> None:
    assert "0123456789abcdef" not in repr(INVITE)
    assert INVITE.secret not in INVITE.id + INVITE.key
