"""What a page, its headers and its site's files say about training, from text that somebody captured. No network.

Sources: DeviantArt's noai (X-Robots-Tag, meta robots); TDM Reservation Protocol (W3C CG, 10 May 2024); Spawning's
ai.txt; RFC 9309 (robots.txt); Really Simple Licensing 1.0; IETF draft-ietf-aipref-vocab-08 and -attach-05 (drafts).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from html.parser import HTMLParser
from typing import Any
from urllib.parse import unquote, urlsplit
from xml.parsers import expat

from .signals_base import Signal, Use, signal

MAX_TEXT = 8_000_000
# Crawlers that collect for training; what is disallowed to one of them is not meant to be trained on.
AI_AGENTS = frozenset(
    """
    ai2bot amazonbot anthropic-ai applebot-extended bytespider ccbot claude-web claudebot cohere-ai
    cohere-training-data-crawler diffbot facebookbot google-extended gptbot img2dataset laion meta-externalagent omgili
    omgilibot pangubot perplexitybot spawning-ai timpibot webzio-extended
    """.split()
)
_NOAI = {"noai", "noimageai"}
# AIPREF's categories that training belongs to, by their names in the drafts so far.
_PREFERENCES = {"train-ai", "train-genai", "ai", "genai", "tdm", "bots", "foundation-model-production"}
_RSL_USES = {"all", "ai-all", "ai-train", "train-ai", "train-genai", "genai", "tdm", "ai"}


def headers(said: Mapping[str, str], where: str = "http header") -> Iterator[Signal]:
    """Signals of captured response headers, by name in any case."""
    for name, value in said.items():
        low = name.strip().lower()
        if low == "x-robots-tag":
            for word in sorted(_NOAI & set(re.split(r"[\s,:;]+", value.lower()))):
                yield signal("noai", where, f"X-Robots-Tag: {word}", "not_allowed")
        elif low == "tdm-reservation":
            yield _tdm(value, said.get("tdm-policy", ""), where)
        elif low == "content-usage":
            yield from preferences(value, where)
        elif low == "link" and "license" in value.lower() and "rsl" in value.lower():
            yield signal("rsl", where, value, "unspecified")


def _tdm(value: str, policy: str, where: str) -> Signal:
    raw = f"tdm-reservation: {value.strip()}" + (f" ({policy})" if policy else "")
    uses: dict[str, Use] = {"1": "not_allowed", "0": "unspecified"}
    return signal("tdmrep", where, raw, uses.get(value.strip(), "unspecified"))


def preferences(value: str, where: str) -> Iterator[Signal]:
    """Signals of an AIPREF ``Content-Usage`` value, for example ``train-ai=n, search=y``."""
    for piece in re.split(r"[,;\s]+", value.lower()):
        name, _, preference = piece.partition("=")
        if name in _PREFERENCES and preference in ("n", "y"):
            yield signal(
                "aipref",
                where,
                f"Content-Usage: {name}={preference}",
                "not_allowed" if preference == "n" else "allowed",
            )


class _Metas(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, str]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in ("meta", "link") and len(self.found) < 1000:
            said = {name: value or "" for name, value in attrs}
            name = said.get("name") or said.get("http-equiv") or said.get("rel", "")
            self.found.append((name.lower(), said.get("content", "") or said.get("href", "")))


def page(html: str, where: str = "page") -> Iterator[Signal]:
    """Signals of a saved page's ``meta`` elements."""
    parser = _Metas()
    try:
        parser.feed(html[:MAX_TEXT])
    except (ValueError, AssertionError):
        yield signal("page", where, "a page that can't be read", "unread")
    for name, content in parser.found:
        if name in ("robots", "googlebot", "ai") or name in AI_AGENTS:
            for word in sorted(_NOAI & set(re.split(r"[\s,]+", content.lower()))):
                yield signal("noai", where, f"meta {name}: {word}", "not_allowed")
        elif name == "tdm-reservation":
            yield _tdm(content, "", where)
        elif name == "content-usage":
            yield from preferences(content, where)
        elif name == "license":
            yield signal("licence", where, content, "unspecified")


def robots(text: str, path: str = "", where: str = "robots.txt") -> Iterator[Signal]:
    """Signals of a robots.txt: what is disallowed to collectors for training, AIPREF's lines, a licence's address.

    ``path`` is the picture's on that site; where it is not known, any disallowed path counts.
    """
    agents: list[str] = []
    collecting = True
    rules: list[tuple[str, str, str]] = []
    for line in text[:MAX_TEXT].splitlines()[:100_000]:
        name, found, value = line.partition("#")[0].partition(":")
        name, value = name.strip().lower(), value.strip()
        if not found:
            continue
        if name == "user-agent":
            agents = [*agents, value.lower()] if collecting else [value.lower()]
            collecting = True
            continue
        collecting = False
        if name in ("allow", "disallow") and value:
            rules += [(agent, name, value) for agent in agents if agent in AI_AGENTS]
        elif name == "content-usage":
            scope = value.split()
            if not (scope and scope[0].startswith("/") and path and not _matches(scope[0], path)):
                yield from preferences(value, where)
        elif name == "license":
            yield signal("rsl", where, f"License: {value}", "unspecified")
    for agent in dict.fromkeys(agent for agent, _, _ in rules):
        forbidden = _forbids([(name, value) for who, name, value in rules if who == agent], path)
        if forbidden:
            yield signal("robots.txt", where, f"User-agent: {agent} Disallow: {forbidden}", "not_allowed")


def _forbids(rules: list[tuple[str, str]], path: str) -> str:
    """The rule that forbids ``path``, or "". The longest match decides, then Allow (RFC 9309 2.2.2)."""
    if not path:
        return next((value for name, value in rules if name == "disallow"), "")
    fitting = [(len(value), name == "allow", value) for name, value in rules if _matches(value, path)]
    if not fitting:
        return ""
    _, allowed, value = max(fitting)
    return "" if allowed else value


def _matches(pattern: str, path: str) -> bool:
    end = "$" if pattern.endswith("$") else ""
    pieces = [re.escape(piece) for piece in unquote(pattern.rstrip("$")).split("*")]
    if len(pieces) > 20:
        return True  # nobody writes this; taken for the whole site
    # No piece can match in two ways that matter: the first place is as good as any.
    return re.match(".*?".join(pieces) + end, unquote(path)) is not None


def ai_txt(text: str, path: str = "", where: str = "ai.txt") -> Iterator[Signal]:
    """Signals of a Spawning ai.txt: like robots.txt, for everyone; ``*.jpg`` forbids that kind of file."""
    rules = []
    for line in text[:MAX_TEXT].splitlines()[:100_000]:
        name, _, value = line.partition("#")[0].partition(":")
        name, value = name.strip().lower(), value.strip()
        if name in ("allow", "disallow") and value:
            rules.append((name, f"/*{value.lstrip('*')}" if value.startswith("*") else value))
    forbidden = _forbids(rules, path)
    if forbidden:
        yield signal("ai.txt", where, f"Disallow: {forbidden.removeprefix('/')}", "not_allowed")


def tdmrep(text: str, path: str = "", where: str = "tdmrep.json") -> Iterator[Signal]:
    """Signals of a site's ``/.well-known/tdmrep.json``; where the picture's path is not known, any rule counts."""
    try:
        rules = json.loads(text[:MAX_TEXT])
        listed = rules if isinstance(rules, list) else [rules]
        for rule in listed:
            location, reservation = str(rule.get("location", "/")), str(rule.get("tdm-reservation", ""))
            if not path or _matches(location, path):
                yield _tdm(reservation, str(rule.get("tdm-policy", "")), where)
    except (ValueError, AttributeError, RecursionError):
        yield signal("tdmrep", where, "a tdmrep.json that can't be read", "unread")


def rsl(text: str, where: str = "rsl") -> Iterator[Signal]:
    """Signals of a Really Simple Licensing document: which uses it prohibits or permits, and whether on terms."""
    stack: list[str] = []
    words: list[tuple[str, str]] = []
    paid: list[str] = []
    found: list[Signal] = []
    content: list[str] = []

    def start(name: str, attributes: dict[str, str]) -> None:
        if len(stack) > 100:
            raise ValueError("nested too deeply")
        stack.append(name.rpartition(" ")[2].lower())
        content.clear()
        if stack[-1] == "payment" and attributes.get("type", "") not in ("free", ""):
            paid.append(attributes["type"])

    def end(name: str) -> None:
        ended = stack.pop()
        if ended in ("permits", "prohibits"):
            words.append((ended, "".join(content)))
        if ended == "license" or not stack:
            # A licence's payment may stand before or behind what it permits.
            found.extend(_licensed(words, paid, where))
            words.clear()
            paid.clear()
        content.clear()

    def refuse(*_: object) -> None:
        raise ValueError("a document type")

    parser = expat.ParserCreate(namespace_separator=" ")
    parser.StartElementHandler, parser.EndElementHandler = start, end
    parser.CharacterDataHandler = content.append
    parser.StartDoctypeDeclHandler = parser.EntityDeclHandler = refuse
    try:
        parser.Parse(text[:MAX_TEXT].encode("utf-8", "replace"), True)
    except (expat.ExpatError, ValueError, LookupError):
        yield signal("rsl", where, "an RSL document that can't be read", "unread")
        return
    yield from found


def _licensed(words: Iterable[tuple[str, str]], paid: Iterable[str], where: str) -> Iterator[Signal]:
    on_terms = ", ".join(paid)
    for name, value in words:
        uses = sorted(_RSL_USES & set(re.split(r"[\s,]+", value.lower())))
        if uses and name == "prohibits":
            yield signal("rsl", where, f"prohibits {' '.join(uses)}", "not_allowed")
        elif uses:
            raw = f"permits {' '.join(uses)}" + (f" for {on_terms}" if on_terms else "")
            yield signal("rsl", where, raw, "constrained" if on_terms else "allowed")


def snapshot(said: Mapping[str, Any], where: str) -> Iterator[Signal]:
    """Signals of a source snapshot: what was captured when a picture was downloaded, as one JSON object.

    Read are ``headers`` (``http_headers``, ``response_headers``), ``html``, ``robots_txt``, ``ai_txt``, ``tdmrep``,
    ``rsl``, with the path of ``url``.
    """
    path = path_of(source_url(said))
    for name in ("headers", "response_headers", "http_headers"):
        if isinstance(said.get(name), Mapping):
            yield from headers({str(key): _joined(value) for key, value in said[name].items()}, where)
    readers = (("html", page), ("rsl", rsl))
    for name, read in readers:
        if isinstance(said.get(name), str):
            yield from read(said[name], where)
    sites = (("robots_txt", robots), ("ai_txt", ai_txt), ("tdmrep", tdmrep))
    for name, read_site in sites:
        value = said.get(name)
        if isinstance(value, list | dict):
            value = json.dumps(value)
        if isinstance(value, str):
            yield from read_site(value, path, where)


def source_url(said: Mapping[str, Any]) -> str:
    """The address that a downloader's JSON names, or ""."""
    for name in ("source_url", "webpage_url", "page_url", "post_url", "url", "file_url"):
        value = said.get(name)
        if isinstance(value, str) and value.startswith(("http://", "https://")):
            return value
    return ""


def path_of(url: str) -> str:
    """The path and query of an address, or ""."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return ""
    return (parts.path or "/") + (f"?{parts.query}" if parts.query else "") if parts.netloc else ""


def _joined(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, Iterable) and not isinstance(value, str) else str(value)
