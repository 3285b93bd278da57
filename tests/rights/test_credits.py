"""Credits from LoRA headers (acceptance tests G1, G6, G7 for PNGs)."""

import json
from xml.etree import ElementTree

import pytest

from lora_atelier.rights import credits
from lora_atelier.rights.credits import Credit

pytestmark = pytest.mark.torchfree

IPTC = "{http://iptc.org/std/Iptc4xmpExt/2008-02-29/}"


def xmp(listed):
    packet = credits.xmp(listed, model="base", version="1.2")
    return ElementTree.fromstring(packet.split("?>", 1)[1].rsplit("<?", 1)[0])


@pytest.mark.parametrize(
    ("metadata", "names", "licence"),
    [
        ({"atelier_rights": json.dumps({"credits": ["花 Hana", "Ken"]})}, ("花 Hana", "Ken"), ""),
        ({"rights.credits": json.dumps([{"credit_as": "Hana", "name": "x"}, {"name": "Ken"}])}, ("Hana", "Ken"), ""),
        ({"modelspec.author": "Hana", "modelspec.license": "CC-BY-4.0"}, ("Hana",), "CC-BY-4.0"),
        ({"atelier_rights": json.dumps({"licences": {"CC0-1.0": 9}})}, (), "CC0-1.0"),
        ({"atelier_rights": json.dumps({"licences": {"CC0-1.0": 9, "CC-BY-4.0": 1}})}, (), ""),
        ({"rights.credits": "Hana"}, (), ""),
        ({"atelier_rights": "{broken", "rights.credits": "[1, null, {}]"}, (), ""),
        ({"modelspec.author": "  a\nb  "}, ("a b",), ""),
    ],
)
def test_a_header_says_whom_to_name_and_the_licence(metadata, names, licence):
    made = credits.of_header("momo", metadata)

    assert (made.names, made.licence) == (names, licence)


def test_a_lora_without_a_word_on_rights_is_told_from_one_that_names_nobody():
    assert not credits.of_header("momo", {"ss_network_dim": "4"}).says_rights
    assert credits.of_header("momo", {"atelier_rights": '{"whose": "mine"}'}).says_rights


def test_the_line_names_those_who_are_to_be_named_and_leaves_out_silent_loras():
    listed = [Credit("a", ("Hana", "Ken"), "CC-BY-4.0"), Credit("b"), Credit("c", licence="CC0-1.0")]

    assert credits.text(listed) == "a by Hana, Ken (CC-BY-4.0); c (CC0-1.0)"


def test_xmp_says_that_a_model_made_it_and_whom_to_name():
    tree = xmp([Credit("momo", ("花 <Hana> & co",), "CC-BY-4.0")])

    (source,) = tree.iter(f"{IPTC}DigitalSourceType")
    assert source.text == "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
    (credit,) = tree.iter("{http://ns.adobe.com/photoshop/1.0/}Credit")
    assert credit.text == "momo by 花 <Hana> & co (CC-BY-4.0)"
    (system,) = tree.iter(f"{IPTC}AISystemUsed")
    assert system.text == "LoRA Atelier (base; momo)"


@pytest.mark.parametrize("text", ["\x00\x08 a", "]]>", "\ud800", "a" * 100_000, "</rdf:RDF>"])
def test_whatever_a_header_says_the_xmp_can_be_read(text):
    tree = xmp([credits.of_header(text, {"modelspec.author": text, "modelspec.license": text})])

    assert next(tree.iter(f"{IPTC}DigitalSourceType")) is not None


def test_without_loras_the_source_is_said_all_the_same():
    assert next(xmp([]).iter(f"{IPTC}DigitalSourceType")).text.endswith("trainedAlgorithmicMedia")
