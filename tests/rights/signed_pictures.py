"""Pictures with signed content credentials, made here with the package c2pa-python and certificates of our own.

The certificates are a root and a leaf as the C2PA specification (2.1, 14.5) asks of signers; nobody trusts them but
who is told to.
"""

import datetime
import io
import json
from dataclasses import dataclass

# What a person would be called who signs as a creator.
CREATOR = "Momo Tanaka (test)"
_MIME = {"PNG": "image/png", "JPEG": "image/jpeg", "WEBP": "image/webp", "TIFF": "image/tiff", "AVIF": "image/avif"}


@dataclass(frozen=True)
class Authority:
    """A root's certificate, and chains with their keys for a device and for a creator, all PEM."""

    root: str
    chain: str
    key: str


def authority(name):
    """A root and a leaf for ``name`` that it vouches for."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    now = datetime.datetime.now(datetime.timezone.utc)

    def called(common):
        return x509.Name(
            [
                x509.NameAttribute(NameOID.ORGANIZATION_NAME, "LoRA Atelier tests"),
                x509.NameAttribute(NameOID.COMMON_NAME, common),
            ]
        )

    def certificate(subject, key, issuer, issuer_key, *, is_root):
        usage = x509.KeyUsage(not is_root, False, False, False, False, is_root, is_root, False, False)
        made = (
            x509.CertificateBuilder()
            .subject_name(called(subject))
            .issuer_name(called(issuer))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=30))
            .add_extension(x509.BasicConstraints(ca=is_root, path_length=None), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
        )
        if not is_root:
            made = made.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION]), critical=False)
        return made.sign(issuer_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()

    root_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    above = f"Root of {name}"
    root = certificate(above, root_key, above, root_key, is_root=True)
    leaf = certificate(name, key, above, root_key, is_root=False)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()
    return Authority(root, leaf + root, private)


def _local(authority, **more):
    return {"local": {"alg": "es256", "sign_cert": authority.chain, "private_key": authority.key, **more}}


def sign(data, kind, signer, statements=(), *, creator=None):
    """The picture ``data`` of format ``kind`` with a manifest by ``signer``; statements are (label, entries).

    ``creator`` is an authority that signs CAWG's identity assertion over them.
    """
    import c2pa

    assertions = [
        {"label": "c2pa.actions", "data": {"actions": [{"action": "c2pa.created", "digitalSourceType": _DRAWN}]}},
        *({"label": label, "data": {"entries": entries}} for label, entries in statements),
    ]
    manifest = {"claim_generator_info": [{"name": "tests", "version": "1"}], "assertions": assertions}
    settings = {
        "builder": {"thumbnail": {"enabled": False}},
        "verify": {"verify_after_sign": False},
        "signer": _local(signer),
    }
    if creator is not None:
        settings["cawg_x509_signer"] = _local(creator, referenced_assertions=[label for label, _ in statements])
    made = io.BytesIO()
    with c2pa.Context.from_dict(settings) as context, c2pa.Builder(json.dumps(manifest), context=context) as builder:
        # The settings' own signer is the one that makes identity assertions; the package has no call for it yet.
        builder._has_context_signer = True
        builder.sign(_MIME[kind], io.BytesIO(data), made)
    return made.getvalue()


_DRAWN = "http://cv.iptc.org/newscodes/digitalsourcetype/digitalCreation"
