"""Pictures with everything that people write into them, made here: no file of anybody's is needed."""

import io
import json
import struct

from PIL import Image, PngImagePlugin, TiffImagePlugin

PLUS = "http://ns.useplus.org/ldf/xmp/1.0/"
VOCABULARY = "http://ns.useplus.org/ldf/vocab/"


def xmp(term="", *, inside="", as_element=False):
    """A packet that says a term of PLUS' DataMining, and ``inside`` as further properties."""
    value = f"{VOCABULARY}{term}"
    inside += f"<plus:DataMining>{value}</plus:DataMining>" if as_element else ""
    attribute = f' plus:DataMining="{value}"' if term and not as_element else ""
    return (
        '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/">'
        '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        f'<rdf:Description rdf:about="" xmlns:plus="{PLUS}" xmlns:dc="http://purl.org/dc/elements/1.1/"'
        ' xmlns:xmpRights="http://ns.adobe.com/xap/1.0/rights/" xmlns:cc="http://creativecommons.org/ns#"'
        ' xmlns:photoshop="http://ns.adobe.com/photoshop/1.0/" xmlns:aux="http://ns.adobe.com/exif/1.0/aux/"'
        ' xmlns:exif="http://ns.adobe.com/exif/1.0/" xmlns:dcterms="http://purl.org/dc/terms/"'
        f' xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"{attribute}>{inside}</rdf:Description>'
        '</rdf:RDF></x:xmpmeta><?xpacket end="w"?>'
    ).encode()


def bag(name, *values, kind="Bag"):
    listed = "".join(f"<rdf:li>{value}</rdf:li>" for value in values)
    return f"<{name}><rdf:{kind}>{listed}</rdf:{kind}></{name}>"


def picture(kind="PNG", xmp=None, *, exif=None, color="red", size=(32, 32), manifest=None, iim=None, **save):
    """The bytes of a picture of one format, with what is given written as that format holds it."""
    file = io.BytesIO()
    options = dict(save)
    if xmp is not None and kind == "PNG":
        info = PngImagePlugin.PngInfo()
        info.add_itxt("XML:com.adobe.xmp", xmp.decode("utf-8", "replace"), zip=True)
        options["pnginfo"] = info
    elif kind == "TIFF" and (xmp is not None or manifest is not None):
        tags = TiffImagePlugin.ImageFileDirectory_v2()
        for number, value in ((700, xmp), (52545, manifest)):
            if value is not None:
                tags[number], tags.tagtype[number] = value, 1
        options["tiffinfo"] = tags
    elif xmp is not None:
        options["xmp"] = xmp
    if exif is not None:
        options["exif"] = exif
    image = color if isinstance(color, Image.Image) else Image.new("RGB", size, color)
    image.save(file, kind, **options)
    data = file.getvalue()
    if iim is not None:
        data = with_segment(data, 0xED, photoshop(iim))
    return data if manifest is None or kind == "TIFF" else with_manifest(kind, data, manifest)


def with_segment(data, marker, content):
    """A JPEG with one more segment at its start."""
    return data[:2] + struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content + data[2:]


def photoshop(datasets):
    """Photoshop's resource 0x0404 with IIM datasets ``{(record, dataset): bytes}``."""
    iim = b"".join(b"\x1c" + bytes(key) + struct.pack(">H", len(value)) + value for key, value in datasets.items())
    iim += b"\0" * (len(iim) % 2)
    return b"Photoshop 3.0\0" + b"8BIM\x04\x04\0\0" + struct.pack(">I", len(iim)) + iim


def box(kind, content):
    return struct.pack(">I4s", len(content) + 8, kind) + content


def superbox(label, *inside):
    described = b"\0" * 16 + b"\x03" + label.encode() + b"\0"
    return box(b"jumb", box(b"jumd", described) + b"".join(inside))


def mining(entries, *, label="cawg.training-mining", as_json=False):
    """A manifest store with one training-mining assertion: ``{"cawg.ai_training": "notAllowed"}``."""
    said = {"entries": {key: {"use": use} for key, use in entries.items()}}
    content = box(b"json", json.dumps(said).encode()) if as_json else box(b"cbor", cbor(said))
    assertions = superbox("c2pa.assertions", superbox(label, content))
    return superbox("c2pa", superbox("urn:c2pa:made-for-a-test", assertions))


def cbor(value):
    if isinstance(value, dict):
        return _head(5, len(value)) + b"".join(cbor(key) + cbor(item) for key, item in value.items())
    return _head(3, len(value.encode())) + value.encode()


def _head(major, size):
    return bytes([major << 5 | size]) if size < 24 else bytes([major << 5 | 24, size])


def with_manifest(kind, data, manifest):
    """A picture with a C2PA manifest store where its format holds it."""
    if kind == "JPEG":
        pieces = [manifest[at : at + 60] for at in range(8, len(manifest), 60)]
        for number, piece in reversed(list(enumerate(pieces, 1))):
            data = with_segment(data, 0xEB, b"JP" + struct.pack(">HI", 1, number) + manifest[:8] + piece)
        return data
    if kind == "PNG":
        chunk = struct.pack(">I", len(manifest)) + b"caBX" + manifest + b"\0\0\0\0"
        return data[:33] + chunk + data[33:]
    assert kind == "WEBP"
    whole = data[12:] + b"C2PA" + struct.pack("<I", len(manifest)) + manifest + b"\0" * (len(manifest) % 2)
    return b"RIFF" + struct.pack("<I", len(whole) + 4) + b"WEBP" + whole
