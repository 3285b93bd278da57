"""Who applies a prompt's LoRAs: the webui's own loader or ours. The decision is made where a prompt is parsed.

All webuis call ``modules.extra_networks.parse_prompts`` through its module and then activate every extra network with
what it found. Here that function is wrapped: where the prompt is ours, what stands under ``lora`` (and its old name
``lyco``) moves to our own network. The key ``lora`` stays, empty, and ours comes last: the builtin is then told first
that it has nothing to do, and takes its own changes back before we make ours. Its place in the webui's registry is
never taken, so that extensions which drive it go on working.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Protocol

NETWORK = "atelier"
_TAKEN = ("lora", "lyco")
_MARK = "_lora_atelier_original"
# Names one version of a file: the webuis keep a prompt's text conditioning for as long as prompt and networks are the
# same, and know nothing of a file's content.
FINGERPRINT = "fp"


class Rules(Protocol):
    """What the router asks for every prompt."""

    def takes_prompts(self) -> bool:
        """Whether our loader applies the LoRAs of prompts now."""
        ...

    def give_back(self) -> None:
        """Take our changes back: the builtin is about to make its own, and may do so at once."""
        ...

    def fingerprint(self, name: str) -> str:
        """A short text that changes with the content of the file that a prompt calls ``name``; may be empty."""
        ...


def install(extra_networks: Any, rules: Rules) -> None:
    """Wrap the webui's ``parse_prompts``; an older wrapping of ours is replaced."""
    remove(extra_networks)
    original: Callable[..., Any] = extra_networks.parse_prompts

    @functools.wraps(original)
    def parse_prompts(prompts: Any, *args: Any, **kwargs: Any) -> Any:
        text, data = original(prompts, *args, **kwargs)
        return text, route(data, rules)

    setattr(parse_prompts, _MARK, original)
    extra_networks.parse_prompts = parse_prompts


def remove(extra_networks: Any) -> None:
    """Put the webui's own function back, unless somebody else has wrapped it since: then ours stays inside theirs."""
    original = getattr(extra_networks.parse_prompts, _MARK, None)
    if original is not None:
        extra_networks.parse_prompts = original


def route(data: Any, rules: Rules) -> Any:
    """Move a prompt's calls to the network that applies them; SD.Next lets its result go through here twice."""
    ours = rules.takes_prompts()
    if not ours:
        # Now and not when we are activated: SD.Next's loader copies what it finds at once, with our changes in it.
        rules.give_back()
    if not data:
        return data
    if ours:
        moved = [param for key in _TAKEN for param in data.get(key) or ()]
        own = [*(data.pop(NETWORK, None) or ()), *(_marked(param, rules) for param in moved)]
        if own:
            for key in _TAKEN:
                if key == "lora" or key in data:
                    data[key] = []
            data[NETWORK] = own
    elif data.get(NETWORK):
        # Two owners would corrupt each other's weights: tags that name our loader go with the others.
        data["lora"] = [*(data.get("lora") or ()), *(_plain(param) for param in data.pop(NETWORK))]
    return data


def _marked(param: Any, rules: Rules) -> Any:
    items = list(param.items)
    fingerprint = rules.fingerprint(items[0].strip()) if items else ""
    return type(param)(items=[*items, f"{FINGERPRINT}={fingerprint}"]) if fingerprint else param


def _plain(param: Any) -> Any:
    return type(param)(items=tag_items(param))


def tag_items(param: Any) -> list[str]:
    """What the person wrote between ``<lora:`` and ``>``, in its parts."""
    return [str(item) for item in param.items if not str(item).startswith(f"{FINGERPRINT}=")]
