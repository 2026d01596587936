from __future__ import annotations

import datetime as dt
import ssl

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st

from peers import certificate
from store.errors import Malformed
from store.signing import AgentKey

KEY = AgentKey.from_seed(bytes(range(32)))
ISSUED = certificate.issue(KEY)


def test_agent_is_read_out_of_its_certificate() -> None:
    assert certificate.agent_of(ISSUED.der) == KEY.agent


def test_same_key_always_gives_the_same_certificate() -> None:
    assert certificate.issue(KEY).der == ISSUED.der
    assert (
        certificate.certificate_hash(ISSUED.der).hex()
        == "0adb3f2207276cf655507705a70f7ef188480212edb3a68c6f6f981d9300df87"
    )


def test_H1_certificate_is_valid_from_1970_to_9999() -> None:
    read = x509.load_der_x509_certificate(ISSUED.der)

    assert read.not_valid_before_utc == dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
    assert read.not_valid_after_utc == dt.datetime(9999, 12, 31, 23, 59, 59, tzinfo=dt.UTC)


def test_certificate_is_signed_by_its_own_key() -> None:
    read = x509.load_der_x509_certificate(ISSUED.der)

    read.verify_directly_issued_by(read)
    assert read.serial_number == 1
    assert read.version is x509.Version.v3


def test_certificate_names_nobody_and_hides_its_secret() -> None:
    read = x509.load_der_x509_certificate(ISSUED.der)

    assert not list(read.subject)
    assert not list(read.issuer)
    assert "PRIVATE" not in repr(ISSUED)


def test_certificate_with_another_kind_of_key_is_refused() -> None:
    secret = ec.generate_private_key(ec.SECP256R1())
    other = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))
        .issuer_name(x509.Name([]))
        .public_key(secret.public_key())
        .serial_number(1)
        .not_valid_before(dt.datetime(1990, 1, 1, tzinfo=dt.UTC))
        .not_valid_after(dt.datetime(2090, 1, 2, tzinfo=dt.UTC))
        .sign(secret, SHA256())
    )

    with pytest.raises(Malformed):
        certificate.agent_of(other.public_bytes(Encoding.DER))


@given(st.binary(max_size=300))
def test_any_bytes_are_no_certificate(der: bytes) -> None:
    with pytest.raises(Malformed):
        certificate.agent_of(der)


def test_certificate_with_a_flipped_bit_is_refused_or_another_agents() -> None:
    for place in range(len(ISSUED.der) - 64):
        der = bytearray(ISSUED.der)
        der[place] ^= 1
        try:
            assert certificate.agent_of(bytes(der)) != KEY.agent
        except Malformed:
            continue
        assert 70 <= place < 102


def test_tls_is_1_3_only_and_resumes_nothing() -> None:
    server, client = certificate.server_context(ISSUED), certificate.client_context()

    for context in (server, client):
        assert context.minimum_version is context.maximum_version is ssl.TLSVersion.TLSv1_3
    assert server.num_tickets == 0
