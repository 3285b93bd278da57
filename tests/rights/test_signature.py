import hashlib
import json
import struct

import pytest
from tests.rights.fixtures import picture

from lora_atelier import safetensors_header
from lora_atelier.datasets.items import Item
from lora_atelier.errors import AdapterFormatError, RightsError
from lora_atelier.rights import credentials, ed25519, gate, merkle, scanning, signature
from lora_atelier.rights.store import Store

pytestmark = pytest.mark.torchfree

SAID = {"schema": 2, "whose": "mine", "pictures": 3, "permits": {"train": "yes"}, "root": "0" * 64}


@pytest.fixture
def lora(tmp_path, write_header):
    weights = {"b.lora_up": bytes(range(32)), "a.lora_down": bytes(range(32, 64))}
    shapes = {"b.lora_up": (4, 4), "a.lora_down": (4, 4)}
    metadata = {"ss_steps": "10", "atelier_rights": json.dumps(SAID)}
    return write_header(tmp_path / "momo.safetensors", shapes, metadata, data=weights)


@pytest.fixture
def signed(lora, tmp_path):
    pytest.importorskip("cryptography")
    assert signature.sign(lora, tmp_path / "data").state == "signed"
    return lora


def rewritten(path, *, metadata=None, tensors=None, order=None):
    """The file with other metadata, bytes of tensors, or order of tensors."""
    data = path.read_bytes()
    (size,) = struct.unpack_from("<Q", data)
    header = json.loads(data[8 : 8 + size])
    body = data[8 + size :]
    said = {**header.pop("__metadata__"), **(metadata or {})}
    blocks = {name: body[slice(*entry["data_offsets"])] for name, entry in header.items()} | (tensors or {})
    entries, at = {"__metadata__": {k: v for k, v in said.items() if v is not None}}, 0
    for name in order or blocks:
        entries[name] = {**header[name], "data_offsets": [at, at + len(blocks[name])]}
        at += len(blocks[name])
    text = json.dumps(entries).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(blocks[name] for name in order or blocks))


def test_what_was_signed_verifies_and_other_metadata_may_change(signed):
    assert signature.verify(signed).state == "signed"

    rewritten(signed, metadata={"ss_steps": "11", "modelspec.title": "x"})
    assert signature.verify(signed).state == "signed"
    rewritten(signed, order=["a.lora_down", "b.lora_up"])
    assert signature.verify(signed).state == "signed"


@pytest.mark.parametrize(
    "change",
    [
        {"tensors": {"a.lora_down": bytes(32)}},
        {"tensors": {"a.lora_down": bytes(range(32)), "b.lora_up": bytes(range(32, 64))}},
        {"metadata": {"atelier_rights": json.dumps({**SAID, "pictures": 4})}},
        {"metadata": {"atelier_rights": None}},
        {"metadata": {"atelier_rights_more": "x"}},
        {"metadata": {"atelier_rights_sig": "0" * 128}},
        {"metadata": {"atelier_rights_sig": "no hex"}},
        {"metadata": {"atelier_rights_sig": None}},
        {"metadata": {"atelier_rights_key": "1" * 64}},
    ],
    ids=str,
)
def test_any_change_of_tensors_rights_or_key_is_noticed(signed, change):
    rewritten(signed, **change)

    assert signature.verify(signed).state == "broken"


def test_without_signature_it_is_said_and_nothing_is_claimed(lora):
    verdict = signature.verify(lora)

    assert verdict.state == "unsigned" and "not signed" in str(verdict.said)


def test_signing_leaves_the_tensors_and_their_hash_alone(lora, tmp_path):
    before = safetensors_header.read(lora)
    body = lora.read_bytes()[before.data_offset :]

    signature.sign(lora, tmp_path / "data", {"memorisation": {"tested": 3, "hits": 0}})

    after = safetensors_header.read(lora)
    assert lora.read_bytes()[after.data_offset :] == body
    assert {name: info.shape for name, info in after.tensors.items()} == {
        name: info.shape for name, info in before.tensors.items()
    }
    assert json.loads(after.metadata["atelier_rights"])["memorisation"] == {"tested": 3, "hits": 0}
    assert after.metadata["ss_steps"] == "10" and after.data_offset % 8 == 0


def test_signing_again_after_a_measurement_uses_the_same_key(signed, tmp_path):
    key = signature.verify(signed).key

    again = signature.sign(signed, tmp_path / "data", {"memorisation": {"tested": 3}})

    assert again.key == key == signature.verify(signed).key and signature.verify(signed).state == "signed"
    assert signature.key_path(tmp_path / "data").stat().st_mode & 0o077 == 0


TENSORS = [
    ("b.lora_up", "F16", (4, 4), memoryview(bytes(range(32)))),
    ("a.lora_down", "F16", (4, 4), memoryview(bytes(range(32, 64)))),
]


def test_a_file_that_is_signed_before_it_is_written_verifies(tmp_path, write_header):
    pytest.importorskip("cryptography")
    metadata, unsigned = signature.signed({"atelier_rights": json.dumps(SAID)}, TENSORS, tmp_path / "data")
    assert unsigned is None
    shapes, data = ({each[0]: each[at] for each in TENSORS} for at in (2, 3))

    lora = write_header(tmp_path / "momo.safetensors", shapes, metadata, data=data)

    assert signature.verify(lora).state == "signed"
    assert signature.tensors_digest(lora) == signature.digest_of(TENSORS)


def test_without_the_package_a_file_is_unsigned_and_it_is_said(lora, tmp_path, monkeypatch):
    monkeypatch.setattr(signature, "can_sign", lambda: False)

    metadata, said = signature.signed({"a": "b"}, TENSORS, tmp_path / "data")

    assert metadata == {"a": "b"} and "not signed" in str(said)
    assert signature.sign(lora, tmp_path / "data").state == "unsigned"
    assert signature.verify(lora).state == "unsigned"


def test_a_broken_key_or_file_ends_nothing(signed, tmp_path):
    signature.key_path(tmp_path / "data").write_bytes(b"junk")
    metadata, said = signature.signed({"a": "b"}, TENSORS, tmp_path / "data")
    assert metadata == {"a": "b"} and "not signed" in str(said)
    assert signature.verify(signed).state == "signed"  # the file stays as it was

    signed.write_bytes(signed.read_bytes()[:-1])
    with pytest.raises(AdapterFormatError):
        signature.verify(signed)


# RFC 8032 7.1, tests 1 to 3.
VECTORS = [
    (
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e06522490155"
        "5fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b",
    ),
    (
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
        "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
    ),
    (
        "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
        "af82",
        "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac"
        "18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a",
    ),
]


@pytest.mark.parametrize(("key", "message", "made"), VECTORS)
def test_plain_python_verifies_as_the_rfc_says(key, message, made):
    key, message, made = map(bytes.fromhex, (key, message, made))

    assert ed25519.verify(key, message, made)
    assert not ed25519.verify(key, message + b"x", made)
    assert not ed25519.verify(key, message, bytes([made[0] ^ 1]) + made[1:])
    assert not ed25519.verify(key[:-1], message, made)
    for junk in (bytes(32), b"\xff" * 32):
        ed25519.verify(junk, message, made)


# ------------------------------------------------------------------------------------------------ is it in there?


@pytest.fixture
def trained(tmp_path, write_header):
    """(LoRA, folder of its pictures, data folder): a run's record and a file that names its root."""
    folder, data_dir = tmp_path / "pictures", tmp_path / "data"
    run_dir = data_dir / "runs" / "20300101-momo"
    run_dir.mkdir(parents=True)
    folder.mkdir()
    for number in range(5):
        (folder / f"{number}.png").write_bytes(picture("PNG", color=(number * 40, 9, 9)))
    names = sorted(path.name for path in folder.iterdir())
    scanning.keep(scanning.scan(folder, names, store=Store(data_dir)), folder, Store(data_dir))
    admitted = gate.admit([Item(folder / name, "", 32, 32) for name in names], run_dir, whose="mine")
    lora = write_header(tmp_path / "l.safetensors", {"a": (2,)}, {"atelier_rights": json.dumps(admitted.summary())})
    return lora, folder, data_dir


def test_a_picture_is_found_in_the_lora_that_learned_from_it(trained, tmp_path):
    lora, folder, data_dir = trained
    resaved = tmp_path / "resaved.png"
    resaved.write_bytes(picture("PNG", color=(40, 9, 9), compress_level=0))
    other = tmp_path / "other.png"
    other.write_bytes(picture("PNG", color="white"))

    assert credentials.contains(lora, folder / "1.png", data_dir).how == "file"
    assert credentials.contains(lora, resaved, data_dir).how == "pixels"
    assert credentials.contains(lora, other, data_dir).answer == "not contained"
    assert credentials.contains(lora, other, tmp_path / "elsewhere").answer == "cannot tell"


def test_a_proof_convinces_whoever_has_the_file_alone(trained, tmp_path):
    lora, folder, data_dir = trained

    proof = merkle.Proof.from_json(
        json.loads(json.dumps(credentials.prove(lora, folder / "1.png", data_dir).to_json()))
    )

    assert credentials.proof_holds(lora, proof, folder / "1.png")
    assert not credentials.proof_holds(lora, proof, folder / "2.png")
    other = "f" * 64
    assert not credentials.proof_holds(lora, merkle.Proof(proof.root, other, proof.salt, proof.path))
    text = json.dumps(proof.to_json())
    assert not any(hashlib.sha256((folder / f"{n}.png").read_bytes()).hexdigest() in text for n in (0, 2, 3, 4))
    with pytest.raises(RightsError, match="no proof"):
        credentials.prove(lora, tmp_path / "l.safetensors", data_dir)


def test_a_file_that_says_nothing_is_not_blamed(tmp_path, write_header):
    for metadata in ({}, {"atelier_rights": "{"}, {"atelier_rights": "[]"}, {"atelier_rights": "[" * 100_000}):
        path = write_header(tmp_path / "x.safetensors", {"a": (2,)}, metadata)
        assert credentials.read(path) is None
    assert "says nothing" in str(credentials.sentences(None)[0])


def test_odd_values_in_foreign_files_are_survived():
    said = {"pictures": "many", "basis": [], "permits": 3, "credits": 5, "memorisation": [], "sharing": 0}

    assert credentials.sentences(said) and credentials.sentences({**said, "credits": ["A", 3]})


@pytest.mark.parametrize("lang", ["en", "ja"])
def test_no_sentence_promises_what_nobody_knows(trained, lang):
    from lora_atelier import locales

    lora, _, _ = trained
    said = [*credentials.sentences(credentials.read(lora)), signature.Verdict("signed", "a" * 64).said]

    text = " ".join(locales.sentence(one, lang) for one in said).lower()

    assert not any(
        word in text for word in ("safe ", "clean", "legal", "compliant", "安全", "合法", "適法", "クリーン")
    )
