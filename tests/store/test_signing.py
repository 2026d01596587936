"""Hold what enters through `signing.verify`: only whole batches that their agent signed."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from store import codec, events, ids, signing
from store.errors import BadSignature, Malformed
from store.ids import AgentId, BatchId, Epoch, FolderId, Kind, ObjectId
from store.signing import AgentKey, SignedBatch, WireBatch

ANNA = AgentKey.from_seed(b"a" * 32)
BERT = AgentKey.from_seed(b"b" * 32)
FOLDER_KEY = AgentKey.from_seed(b"f" * 32)
FOLDER = FolderId(FOLDER_KEY.agent)
EPOCH = Epoch(b"e" * 16)

hashes = st.binary(min_size=32, max_size=32)
names = st.binary(min_size=1, max_size=255)
nanoseconds = st.integers(-(2**63), 2**63 - 1)
u63 = st.integers(0, 2**63 - 1)
prevs = st.lists(hashes, max_size=4).map(tuple)
contents = st.builds(events.Content, hashes, u63)
targets = st.binary(min_size=1, max_size=300)
bits = st.integers(0, 1)
object_events = st.one_of(
    st.builds(
        events.ObjectCreated,
        hashes,
        st.integers(0, 2),
        st.integers(0, 2**32 - 1),
        names,
        st.one_of(st.none(), contents, targets),
        bits,
        nanoseconds,
        prevs,
    ),
    st.builds(events.ContentChanged, hashes, st.one_of(contents, targets), nanoseconds, prevs),
    st.builds(events.ObjectMoved, hashes, hashes, names, prevs),
    st.builds(events.ObjectDeleted, hashes, prevs, st.none() | hashes, st.none() | hashes),
    st.builds(
        events.AttributesChanged, hashes, st.none() | bits, st.none() | nanoseconds, st.none()
    ),
    st.builds(events.Tagged, hashes, names),
    st.builds(events.Untagged, hashes, names),
)
folder_events = st.one_of(
    st.builds(
        events.FolderShared,
        hashes,
        hashes,
        names,
        st.binary(max_size=255),
        st.binary(min_size=16, max_size=16),
        st.binary(min_size=64, max_size=64),
    ),
    st.builds(
        events.Granted,
        hashes,
        st.integers(1, 3),
        st.booleans(),
        st.none() | u63,
        st.binary(max_size=255),
    ),
    st.builds(
        events.Revoked,
        hashes,
        st.lists(st.builds(events.CutPoint, hashes, u63, hashes), max_size=4).map(tuple),
    ),
    st.builds(events.EpochOpened, hashes, st.none() | hashes),
    st.builds(events.Checkpointed, prevs, st.integers(0, 2**32 - 1), hashes, contents),
    st.builds(events.Attested, hashes, hashes),
)


def sign(encoded: Sequence[bytes], key: AgentKey = ANNA, **changed: object) -> SignedBatch:
    arguments: dict[str, object] = {
        "folder": FOLDER,
        "epoch": EPOCH,
        "seq": 0,
        "prev": None,
        "deps": (),
        "lamport": 1,
        "wall_ms": 1_790_000_000_000,
        "events": encoded,
    }
    return signing.sign_batch(key, **(arguments | changed))  # type: ignore[arg-type]


def resigned(header: object, body: bytes, key: AgentKey = ANNA) -> WireBatch:
    """Sign any header honestly, so that only its content can be what is refused."""
    encoded = msgspec.msgpack.encode(header)
    return WireBatch(encoded, key.sign(b"dizzyd/sign/batch/1" + ids.batch_id(encoded)), body)


def header_items(signed: SignedBatch) -> list[object]:
    return list(msgspec.structs.astuple(signed.header))


CREATED = events.encode(
    events.ObjectCreated(FOLDER, 0, 0, b"a.txt", events.Content(b"h" * 32, 5), 0, 1, ())
)
DELETED = events.encode(events.ObjectDeleted(b"o" * 32, (b"p" * 32,), None, None))
GRANTED = events.encode(events.Granted(BERT.agent, 2, False, None, b"bert"))


@given(st.one_of(object_events, folder_events))
@settings(max_examples=300, print_blob=True)
def test_P1_encoding_is_deterministic_and_decoding_gives_it_back(event: events.Event) -> None:
    encoded = events.encode(event)

    assert events.decode(encoded) == event
    assert events.encode(events.decode(encoded)) == encoded
    assert events.tag_of(encoded) == type(event).__struct_config__.tag


@given(st.one_of(object_events, folder_events), st.data())
@settings(max_examples=300, print_blob=True)
def test_P2_only_exactly_one_event_decodes(event: events.Event, data: st.DataObject) -> None:
    encoded = events.encode(event)
    place = data.draw(st.integers(0, len(encoded) - 1))
    mutated = encoded[:place] + bytes([data.draw(st.integers(0, 255))]) + encoded[place + 1 :]

    for damaged in (encoded[:place], encoded + encoded[:1], encoded + b"\xc0"):
        with pytest.raises(Malformed):
            events.decode(damaged)
    try:
        found = events.decode(mutated)
    except Malformed:
        return
    # What still decodes is a valid event of its own, within all bounds: it survives a round trip.
    assert events.decode(events.encode(found)) == found
    assert found == event or events.encode(found) != encoded


@given(st.lists(object_events.map(events.encode), min_size=1, max_size=5), st.data())
@settings(max_examples=150, print_blob=True)
def test_P3_A7_any_flipped_bit_of_a_batch_is_refused(
    encoded: list[bytes], data: st.DataObject
) -> None:
    wire = sign(encoded).wire
    part = data.draw(st.sampled_from(["header", "signature", "body"]))
    original = getattr(wire, part)
    bit = data.draw(st.integers(0, len(original) * 8 - 1))
    flipped = bytearray(original)
    flipped[bit // 8] ^= 1 << bit % 8

    with pytest.raises((Malformed, BadSignature)):
        signing.verify(msgspec.structs.replace(wire, **{part: bytes(flipped)}))


def test_P3_every_bit_of_one_small_batch_counts() -> None:
    wire = sign([DELETED]).wire

    for part in ("header", "signature", "body"):
        original = getattr(wire, part)
        for bit in range(len(original) * 8):
            flipped = bytearray(original)
            flipped[bit // 8] ^= 1 << bit % 8
            with pytest.raises((Malformed, BadSignature)):
                signing.verify(msgspec.structs.replace(wire, **{part: bytes(flipped)}))


@given(
    hashes,
    hashes,
    st.sampled_from(Kind),
    st.integers(0, 2**32 - 2),
    names,
)
@settings(print_blob=True)
def test_P27_object_ids_recompute_and_cannot_be_chosen(
    folder: bytes, parent: bytes, kind: Kind, generation: int, name: bytes
) -> None:
    identity = ids.object_id(FolderId(folder), ObjectId(parent), kind, generation, name)

    assert identity == ids.object_id(FolderId(folder), ObjectId(parent), kind, generation, name)
    others = {
        ids.object_id(FolderId(parent + b""), ObjectId(folder), kind, generation, name)
        if parent != folder
        else b"",
        ids.object_id(FolderId(folder), ObjectId(parent), Kind((kind + 1) % 3), generation, name),
        ids.object_id(FolderId(folder), ObjectId(parent), kind, generation + 1, name),
        ids.object_id(FolderId(folder), ObjectId(parent), kind, generation, name + b"x"),
    }
    assert identity not in others
    # An ObjectCreated has no field for its own id: there is nothing to forge.
    assert "object" not in events.ObjectCreated.__struct_fields__


@given(st.lists(object_events.map(events.encode), min_size=1, max_size=40))
@settings(max_examples=50, print_blob=True)
def test_P27_every_id_in_a_verified_batch_recomputes(encoded: list[bytes]) -> None:
    signed = signing.verify(sign(encoded).wire)

    assert signed.events == encoded
    assert signed.id == ids.batch_id(signed.header_bytes)
    assert signed.log == ids.log_id(FOLDER, ANNA.agent, EPOCH)
    assert signed.event_ids == [
        ids.event_id(signed.log, 0, index, event) for index, event in enumerate(encoded)
    ]


def test_signing_the_same_facts_twice_gives_the_same_bytes() -> None:
    assert sign([CREATED]).wire == sign([CREATED]).wire


def test_an_honest_repeat_of_an_event_has_an_id_of_its_own() -> None:
    signed = sign([CREATED, CREATED])

    assert signed.event_ids[0] != signed.event_ids[1]


def test_A9_a_batch_signed_by_bert_under_annas_id_is_refused() -> None:
    honest = sign([CREATED])

    with pytest.raises(BadSignature):
        signing.verify(resigned(honest.header, honest.body, BERT))


def test_A9_a_signature_of_another_purpose_is_refused() -> None:
    honest = sign([CREATED])

    for message in (honest.id, honest.header_bytes, b"dizzyd/sign/folder/1" + honest.id):
        wire = WireBatch(honest.header_bytes, ANNA.sign(message), honest.body)
        with pytest.raises(BadSignature):
            signing.verify(wire)


@pytest.mark.parametrize(
    ("index", "value"),
    [
        (0, 0),
        (0, 2),
        (0, "1"),
        (1, b"short"),
        (1, b"x" * 33),
        (1, "x" * 32),
        (2, None),
        (3, b"x" * 17),
        (4, -1),
        (4, 2**63),
        (4, 1),
        (4, 0.0),
        (4, float("nan")),
        (4, True),
        (4, False),
        (5, b"x" * 32),
        (5, b""),
        (6, None),
        (6, [b"x" * 31]),
        (6, [b"x" * 32]),
        (6, [bytes([n // 256, n % 256]) * 16 for n in range(1025)]),
        (6, {}),
        (7, 0),
        (7, 2),
        (7, 2**63),
        (8, -1),
        (8, 1.5),
        (9, 0),
        (9, 2),
        (9, 4097),
        (10, 0),
        (10, 2**20 + 1),
        (10, 5),
        (11, b"x" * 32),
        (11, b"x" * 31),
        (11, None),
    ],
)
def test_A10_a_well_signed_header_with_a_wrong_field_is_refused(index: int, value: object) -> None:
    honest = sign([CREATED])
    items = header_items(honest)
    items[index] = value

    with pytest.raises(Malformed):
        signing.verify(resigned(items, honest.body))


def test_A10_a_well_signed_header_with_more_or_fewer_items_is_refused() -> None:
    honest = sign([CREATED])
    items = header_items(honest)

    for wrong in ([*items, None], items[:-1], [], {"version": 1}, None, 1):
        with pytest.raises(Malformed):
            signing.verify(resigned(wrong, honest.body))


def test_A10_trailing_bytes_after_a_well_signed_header_are_refused() -> None:
    honest = sign([CREATED])
    header = honest.header_bytes + b"\xc0"
    signature = ANNA.sign(b"dizzyd/sign/batch/1" + ids.batch_id(header))

    with pytest.raises(Malformed):
        signing.verify(WireBatch(header, signature, honest.body))


def test_A10_another_encoding_of_the_same_header_is_another_batch() -> None:
    honest = sign([CREATED])
    longer = honest.header_bytes.replace(b"\x9c\x01", b"\x9c\xcc\x01", 1)

    assert codec.decode_header(longer) == honest.header
    with pytest.raises(BadSignature):
        signing.verify(WireBatch(longer, honest.signature, honest.body))
    signature = ANNA.sign(b"dizzyd/sign/batch/1" + ids.batch_id(longer))
    assert signing.verify(WireBatch(longer, signature, honest.body)).id != honest.id


@pytest.mark.parametrize(
    "deps", [[b"2" * 32, b"1" * 32], [b"1" * 32, b"1" * 32], [b"0" * 32, b"p" * 32]]
)
def test_A10_deps_out_of_order_or_twice_or_with_prev_are_refused(deps: list[bytes]) -> None:
    honest = sign([CREATED], seq=1, prev=BatchId(b"p" * 32), lamport=2)
    items = header_items(honest)
    items[6] = deps

    with pytest.raises(Malformed):
        signing.verify(resigned(items, honest.body))


@pytest.mark.parametrize(
    "encoded",
    [
        b"",
        b"\xc0",
        b"\x90",
        b"\x80",
        b"\x91\xcc",
        b"\x91\xcd\x00\x01",
        b"\xdc\x00\x01\x01",
        b"\x91\xff",
        b"\x91\xc0",
        b"\x01",
    ],
)
def test_A10_an_event_without_a_plain_tag_is_refused(encoded: bytes) -> None:
    body = len(encoded).to_bytes(2, "big") + encoded
    event_ids = ids.event_ids(ids.log_id(FOLDER, ANNA.agent, EPOCH), 0, [encoded])
    items = header_items(sign([CREATED]))
    items[9:] = [1, len(body), codec.merkle_root(event_ids)]

    with pytest.raises(Malformed):
        signing.verify(resigned(items, body))


@pytest.mark.parametrize(
    "body",
    [
        b"\x00\x02\x91\x01\x00\x02\x91",
        b"\x00\x02\x91\x01\x00",
        b"\x00\x02\x91\x01\x00\x03\x91\x01",
        b"\x00\x02\x91\x01\x00\x02\x91\x01\x00",
        b"\x00\x02\x91\x01\x00\x00",
        b"\x00\x00\x00\x02\x91\x01",
        b"\x00\x02\x91\x01\x00\x00\x00\x00",
        b"\x00\x02\x91\x01",
    ],
)
def test_A10_a_body_that_is_not_exactly_its_events_is_refused(body: bytes) -> None:
    items = header_items(sign([CREATED]))
    items[9:11] = [2, len(body)]

    with pytest.raises(Malformed):
        signing.verify(resigned(items, body))
    with pytest.raises(Malformed):
        codec.split_events(body, 2)


def test_A10_unknown_kinds_of_events_are_kept_and_not_judged_here() -> None:
    signed = signing.verify(sign([b"\x91\x7f"]).wire)
    optional = signing.verify(sign([b"\x91\xcc\x80", CREATED]).wire)

    assert signed.is_about_folder
    assert not optional.is_about_folder


@pytest.mark.parametrize(
    "encoded", [[CREATED, GRANTED], [GRANTED, DELETED], [GRANTED, b"\x91\xcc\x80"]]
)
def test_folder_events_stand_in_batches_of_their_own(encoded: list[bytes]) -> None:
    with pytest.raises(Malformed):
        sign(encoded)

    body = codec.join_events(encoded)
    event_ids = ids.event_ids(ids.log_id(FOLDER, ANNA.agent, EPOCH), 0, encoded)
    items = header_items(sign([CREATED]))
    items[9:] = [2, len(body), codec.merkle_root(event_ids)]
    with pytest.raises(Malformed):
        signing.verify(resigned(items, body))


def test_a_newer_header_version_is_told_apart_from_damage() -> None:
    items = header_items(sign([CREATED]))
    items[0] = 2

    with pytest.raises(codec.NewerVersion):
        codec.decode_header(msgspec.msgpack.encode([*items, "a field of the future"]))


@given(st.binary(max_size=400))
@settings(max_examples=300, print_blob=True)
def test_A5_random_bytes_are_refused_as_header(noise: bytes) -> None:
    with pytest.raises(Malformed):
        codec.decode_header(noise)
    with pytest.raises(Malformed):
        codec.decode_header(b"\x9c\x01" + noise)


def test_A14_a_header_that_announces_a_million_deps_is_refused_before_they_are_read() -> None:
    start = b"\x9c\x01" + (b"\xc4\x20" + b"h" * 32) * 2 + b"\xc4\x10" + b"e" * 16 + b"\x00\xc0"

    for announced in (b"\xdc\xff\xff", b"\xdd\xff\xff\xff\xff"):
        with pytest.raises(Malformed, match="1024"):
            codec.decode_header(start + announced)


def test_sizes_are_checked_before_anything_is_decoded() -> None:
    honest = sign([CREATED]).wire

    for wrong in (
        WireBatch(b"\xc1" * (codec.HEADER_LIMIT_BYTES + 1), honest.signature, honest.body),
        WireBatch(honest.header, honest.signature[:-1], honest.body),
        WireBatch(honest.header, honest.signature, b"x" * (codec.BODY_LIMIT_BYTES + 1)),
    ):
        with pytest.raises(Malformed):
            signing.verify(wrong)


def test_a_header_over_64_kib_is_not_even_looked_at() -> None:
    with pytest.raises(Malformed, match="65536"):
        codec.decode_header(b"\x9c" * (codec.HEADER_LIMIT_BYTES + 1))


def test_wire_batch_survives_its_own_encoding_and_is_bounded() -> None:
    wire = sign([CREATED]).wire
    decoder = msgspec.msgpack.Decoder(WireBatch)

    assert decoder.decode(msgspec.msgpack.encode(wire)) == wire
    with pytest.raises(msgspec.ValidationError):
        decoder.decode(msgspec.msgpack.encode([wire.header, b"short", wire.body]))


@pytest.mark.parametrize("count", [0, 4097])
def test_sign_batch_refuses_a_wrong_number_of_events(count: int) -> None:
    with pytest.raises(Malformed):
        sign([b"\x91\x01"] * count)


def test_sign_batch_refuses_what_verify_would_refuse() -> None:
    for wrong in (
        {"seq": 1},
        {"prev": BatchId(b"p" * 32)},
        {"lamport": 2},
        {"lamport": 0},
        {"wall_ms": 2**63},
        {"deps": [BatchId(n.to_bytes(32, "big")) for n in range(1025)], "lamport": 2},
    ):
        with pytest.raises(Malformed):
            sign([CREATED], **wrong)
    with pytest.raises(Malformed):
        sign([b"\x91\x01" + b"x" * 65_534])
    with pytest.raises(Malformed):
        sign([b"\x91\x01" + b"x" * 65_000] * 17)


def test_sign_batch_orders_deps_and_leaves_prev_out() -> None:
    prev, one, two = (BatchId(bytes([n]) * 32) for n in (5, 1, 9))

    signed = sign([CREATED], seq=1, prev=prev, deps=[two, prev, one, two], lamport=7)

    assert signed.header.deps == (one, two)
    assert signing.verify(signed.wire).header == signed.header


def test_P49_a_clock_before_1970_counts_as_1970() -> None:
    assert sign([CREATED], wall_ms=-5).header.wall_ms == 0


def test_a_signed_batch_cannot_be_made_by_hand() -> None:
    signed = sign([CREATED])
    fields = {field.name: getattr(signed, field.name) for field in dataclasses.fields(SignedBatch)}

    with pytest.raises(TypeError):
        SignedBatch(**fields, seal=None)
    with pytest.raises(TypeError):
        dataclasses.replace(signed, id=BatchId(b"x" * 32), seal=None)
    with pytest.raises(dataclasses.FrozenInstanceError):
        signed.id = BatchId(b"x" * 32)  # type: ignore[misc]


def test_agent_key_comes_back_from_its_seed_and_shows_no_secret() -> None:
    key = AgentKey.generate(bytes(range(32)))

    assert AgentKey.from_seed(key.seed).agent == key.agent
    assert key.seed.hex() not in repr(key)
    assert key.seed.hex()[:8] not in repr(key)
    for wrong in (b"", bytes(31), bytes(33)):
        with pytest.raises(Malformed):
            AgentKey.from_seed(wrong)


def test_verify_signature_is_false_for_anything_malformed() -> None:
    signature = ANNA.sign(b"message")

    assert signing.verify_signature(ANNA.agent, b"message", signature)
    assert not signing.verify_signature(BERT.agent, b"message", signature)
    assert not signing.verify_signature(ANNA.agent, b"messagE", signature)
    assert not signing.verify_signature(AgentId(b""), b"message", signature)
    assert not signing.verify_signature(AgentId(bytes(32)), b"message", signature)
    assert not signing.verify_signature(ANNA.agent, b"message", b"")
    assert not signing.verify_signature(ANNA.agent, b"message", signature + b"x")
    assert not signing.verify_signature(ANNA.agent, b"", signature + b"message")


@pytest.mark.parametrize(
    "changed",
    [
        {"folder": ANNA.agent},
        {"owner": BERT.agent},
        {"name": b"photo"},
        {"name": b"photosl", "label": b"aptop"},
        {"label": b"other"},
        {"nonce": b"m" * 16},
        {"signature": b"s" * 64},
    ],
)
def test_folder_shared_is_signed_over_every_field(changed: dict[str, bytes]) -> None:
    shared = signing.sign_folder_shared(
        FOLDER_KEY, owner=ANNA.agent, name=b"photos", label=b"laptop", nonce=b"n" * 16
    )

    assert shared.folder == FOLDER
    assert signing.verify_folder_shared(shared)
    assert not signing.verify_folder_shared(msgspec.structs.replace(shared, **changed))
