import io

import pytest
from PIL import Image, PngImagePlugin, TiffImagePlugin

from lora_atelier.rights import signals

pytestmark = pytest.mark.torchfree

PLUS = "http://ns.useplus.org/ldf/xmp/1.0/"
VOCABULARY = "http://ns.useplus.org/ldf/vocab/"
ALL = {
    "DMI-UNSPECIFIED": "none_found",
    "DMI-ALLOWED": "allowed",
    "DMI-PROHIBITED": "prohibited",
    "DMI-PROHIBITED-AIMLTRAINING": "prohibited",
    "DMI-PROHIBITED-GENAIMLTRAINING": "prohibited",
    "DMI-PROHIBITED-EXCEPTSEARCHENGINEINDEXING": "prohibited",
    "DMI-PROHIBITED-SEECONSTRAINT": "prohibited",
    "DMI-PROHIBITED-SEEEMBEDDEDRIGHTSEXPR": "prohibited",
    "DMI-PROHIBITED-SEELINKEDRIGHTSEXPR": "prohibited",
}


def packet(term, *, as_element=False):
    value = f"{VOCABULARY}{term}"
    inside = f"<plus:DataMining>{value}</plus:DataMining>" if as_element else ""
    attribute = "" if as_element else f' plus:DataMining="{value}"'
    return (
        '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/">'
        '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        f'<rdf:Description rdf:about="" xmlns:plus="{PLUS}"{attribute}>{inside}</rdf:Description>'
        '</rdf:RDF></x:xmpmeta><?xpacket end="w"?>'
    ).encode()


def picture(kind, xmp=None):
    file = io.BytesIO()
    options = {}
    if xmp is not None and kind == "PNG":
        info = PngImagePlugin.PngInfo()
        info.add_itxt("XML:com.adobe.xmp", xmp.decode(), zip=True)
        options["pnginfo"] = info
    elif xmp is not None and kind == "TIFF":
        tags = TiffImagePlugin.ImageFileDirectory_v2()
        tags[700], tags.tagtype[700] = xmp, 1
        options["tiffinfo"] = tags
    elif xmp is not None:
        options["xmp"] = xmp
    Image.new("RGB", (32, 32), "red").save(file, kind, **options)
    return file.getvalue()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("term", ALL)
def test_each_value_of_the_vocabulary_is_read_from_every_format(kind, term):
    said = signals.read_bytes(picture(kind, packet(term)))

    assert said.data_mining == ALL[term]
    assert said.terms == (term,)


def test_an_element_says_the_same_as_an_attribute():
    assert signals.read_bytes(picture("JPEG", packet("DMI-PROHIBITED", as_element=True))).prohibited


def test_silence_is_none_found_never_allowed():
    assert signals.read_bytes(picture("PNG")).data_mining == "none_found"
    assert signals.read_bytes(b"no picture at all").data_mining == "none_found"


def test_the_strictest_of_two_statements_counts():
    both = picture("JPEG", packet("DMI-ALLOWED")) + packet("DMI-PROHIBITED")

    assert signals.read_bytes(both).prohibited


def test_a_damaged_packet_that_forbids_still_forbids():
    broken = packet("DMI-PROHIBITED-AIMLTRAINING").replace(b"</rdf:Description>", b"")

    assert signals.read_bytes(picture("JPEG", broken)).prohibited


def test_a_packet_with_entities_is_never_expanded():
    bomb = b'<!DOCTYPE x [<!ENTITY a "aaaa">]>' + packet("DMI-PROHIBITED")

    assert signals.read_bytes(bomb).prohibited
    assert not signals.read_bytes(b"<!DOCTYPE x [<!ENTITY a 'b'>]>" + packet("DMI-ALLOWED")).prohibited


def test_the_word_in_a_caption_of_another_property_forbids_nothing():
    text = packet("DMI-UNSPECIFIED").replace(b"</rdf:Description>", b"<dc>DMI-PROHIBITED</dc></rdf:Description>")

    assert not signals.read_bytes(text).prohibited


def test_a_refusal_names_the_picture_and_the_term(tmp_path):
    path = tmp_path / "写真.jpg"
    path.write_bytes(picture("JPEG", packet("DMI-PROHIBITED-GENAIMLTRAINING")))

    said = signals.refusal(path)

    assert said is not None and "写真.jpg" in str(said) and "GENAIMLTRAINING" in str(said)
    path.write_bytes(picture("JPEG"))
    assert signals.refusal(path) is None


def test_a_compressed_png_packet_is_unpacked():
    data = picture("PNG", packet("DMI-PROHIBITED"))

    assert b"DMI-PROHIBITED" not in data  # else the decoder's part would go untested
    assert signals.read_bytes(data).prohibited
