"""The one Gradio element of the training tab, the same from Gradio 3.41 to 6."""

from __future__ import annotations

from typing import Any

TITLE = "LoRA Atelier"
_MOUNT = '<div id="atelier_root" class="atelier-mount"><noscript>JavaScript is needed here.</noscript></div>'


def build(gradio: Any) -> Any:
    """Put the tab's element into the Blocks that are being built; ``gradio`` is the host's module."""
    return gradio.HTML(_MOUNT)
