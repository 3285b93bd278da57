import json

import pytest
from tests.rights.fixtures import picture, xmp

from lora_atelier.rights import signals, signals_page

pytestmark = pytest.mark.torchfree


@pytest.fixture
def beside(tmp_path):
    """A function that puts files beside one picture, and says how the picture is read then."""
    (tmp_path / "a.png").write_bytes(picture("PNG"))

    def put(**files):
        for name, content in files.items():
            path = tmp_path / name.replace("__", ".")
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return signals.read(tmp_path / "a.png")

    return put


@pytest.mark.parametrize("name", ["a.xmp", "a.png.xmp", "A.XMP"])
def test_a_sidecar_speaks_for_its_picture(tmp_path, beside, name):
    assert beside(**{name: xmp("DMI-PROHIBITED")}).prohibited
    (tmp_path / "b.png").write_bytes(picture("PNG"))
    assert signals.read(tmp_path / "b.png").data_mining == "none_found"


def test_a_sidecar_that_is_no_xmp_or_huge_is_no_permission(beside):
    assert beside(**{"a.xmp": b"DMI-ALLOWED"}).data_mining == "none_found"
    assert beside(**{"a.xmp": b" " * 9_000_000 + xmp("DMI-ALLOWED")}).unread


@pytest.mark.parametrize(
    ("headers", "verdict"),
    [
        ("X-Robots-Tag: noai, noimageai", "prohibited"),
        ("x-robots-tag: otherbot: noimageai", "prohibited"),
        ("TDM-Reservation: 1\r\nTDM-Policy: https://example.org/p", "prohibited"),
        ("tdm-reservation: 0", "none_found"),
        ("Content-Usage: train-ai=n", "prohibited"),
        ("Content-Usage: train-ai=y, search=n", "allowed"),
        ("X-Robots-Tag: noindex", "none_found"),
    ],
)
def test_captured_headers_are_read(beside, headers, verdict):
    assert beside(**{"a.png.headers": f"HTTP/2 200\r\n{headers}\r\nServer: noai\r\n"}).data_mining == verdict


@pytest.mark.parametrize(
    ("meta", "verdict"),
    [
        ('<meta name="robots" content="index, noai">', "prohibited"),
        ("<META CONTENT=noimageai NAME=robots>", "prohibited"),
        ('<meta name="tdm-reservation" content="1">', "prohibited"),
        ("<p>noai</p>", "none_found"),
        ("<meta name=robots content='noai", "none_found"),
    ],
)
def test_a_saved_page_is_read(beside, meta, verdict):
    assert beside(**{"a.html": f"<!doctype html><html><head>{meta}</head>"}).data_mining == verdict


def test_a_downloaders_json_gives_address_headers_author_and_licence(beside):
    said = beside(
        **{
            "a.json": json.dumps(
                {
                    "url": "https://example.org/art/a.png",
                    "author": "Ada",
                    "license": "CC BY 4.0",
                    "headers": {"X-Robots-Tag": "noai"},
                    "robots_txt": "User-agent: GPTBot\nDisallow: /art/",
                }
            )
        }
    )

    assert said.prohibited and {one.kind for one in said.found} == {"noai", "robots.txt"}
    assert (said.rights.source_url, said.rights.creators, said.rights.licence) == (
        "https://example.org/art/a.png",
        ("Ada",),
        "CC BY 4.0",
    )


@pytest.mark.parametrize(
    "junk", [b"{", b"\xff\xfe\x00", b"[" * 100_000, b"[1]", b'{"headers": 5, "html": [], "url": 3}']
)
def test_json_of_any_other_kind_is_survived_and_no_permission(beside, junk):
    assert beside(**{"a.json": junk, "a.xmp": xmp("DMI-ALLOWED")}).data_mining in ("none_found", "allowed")
    assert beside(**{"a.json": junk, "a.xmp": xmp()}).data_mining == "none_found"


@pytest.mark.parametrize(
    ("name", "content", "verdict"),
    [
        ("robots.txt", "User-agent: CCBot\nUser-agent: GPTBot\nDisallow: /", "prohibited"),
        ("robots.txt", "User-agent: Googlebot\nDisallow: /", "none_found"),
        ("robots.txt", "User-agent: GPTBot\nDisallow: /secret/\nAllow: /", "none_found"),
        ("robots.txt", "User-Agent: *\nContent-Usage: train-ai=n", "prohibited"),
        ("ai.txt", "User-Agent: *\nDisallow: *.png\nAllow: /", "prohibited"),
        ("ai.txt", "User-Agent: *\nDisallow: *.mp3", "none_found"),
        ("tdmrep.json", '[{"location": "/art/*", "tdm-reservation": 1}]', "prohibited"),
        ("tdmrep.json", '[{"location": "/other/", "tdm-reservation": 1}]', "none_found"),
        ("tdmrep.json", "{", "none_found"),
        ("rsl.xml", "<rsl><content><license><prohibits type='usage'>ai-train</prohibits></license></content></rsl>",
         "prohibited"),
        ("rsl.xml", "<rsl><license><permits type='usage'>all</permits><payment type='purchase'/></license></rsl>",
         "prohibited"),
        ("rsl.xml", "<rsl><license><permits type='usage'>ai-train</permits></license></rsl>", "allowed"),
        ("rsl.xml", "<rsl><license><payment type='crawl'/><permits type='usage'>all</permits></license></rsl>",
         "prohibited"),
        ("rsl.xml", "<!DOCTYPE x [<!ENTITY a 'b'>]><rsl><permits>all</permits></rsl>", "none_found"),
    ],
)  # fmt: skip
def test_what_was_captured_of_a_site_is_read(beside, name, content, verdict):
    said = beside(**{name: content, "a.json": json.dumps({"url": "https://example.org/art/a.png"})})

    assert said.data_mining == verdict


def test_without_an_address_any_disallowed_path_counts(beside):
    assert beside(**{"robots.txt": "User-agent: GPTBot\nDisallow: /secret/"}).prohibited


def test_a_picture_called_robots_has_a_caption_of_that_name(tmp_path):
    (tmp_path / "robots.png").write_bytes(picture("PNG"))
    (tmp_path / "robots.txt").write_text("User-agent: GPTBot\nDisallow: /", encoding="utf-8")

    assert not signals.read(tmp_path / "robots.png").prohibited


def test_a_browsers_capture_is_read(beside):
    def answer(url, headers=(), text=""):
        listed = [{"name": name, "value": value} for name, value in headers]
        return {"request": {"url": url}, "response": {"headers": listed, "content": {"text": text}}}

    har = {
        "log": {
            "entries": [
                answer("https://example.org/art/a.png", [("TDM-Reservation", "1")]),
                answer("https://example.org/art/b.png", [("X-Robots-Tag", "noai")]),
                {"request": "broken"},
            ]
        }
    }

    said = beside(**{"page.har": json.dumps(har)})

    assert [one.kind for one in said.found] == ["tdmrep"] and said.rights.source_url.endswith("/art/a.png")


def test_a_pattern_with_many_stars_takes_no_long_time():
    rules = "User-agent: GPTBot\nDisallow: /" + "*a" * 15 + "$"

    assert list(signals_page.robots(rules, "/" + "a" * 200)) != []
