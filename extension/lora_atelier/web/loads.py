"""Whether a LoRA file would do something in this host: how many of its layers the live model has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..errors import AdapterError, ExtensionError, Message, message


def loads(path: Path, host: Any) -> tuple[Message, bool]:
    """What to say of a file and the host's model, and whether all of it fits; loads the model.

    ``host`` is what ``loader.fitting`` asks of one.
    """
    # torch is imported by the first who asks, not by the routes.
    from ..adapters import families, file
    from ..loader import fitting

    try:
        content = file.read(path)
        grouped = families.group(content.tensors)
        sorting = fitting.sort_layers(content, grouped, host)
        fitting.check(path.stem, content, grouped, sorting, host)
    except AdapterError as error:
        return error.why or error.what, False
    except ExtensionError as error:
        return error.what, False
    lost = {*sorting.absent, *(layer for layer, _, _ in sorting.odd), *(layer for layer, _ in sorting.unread)}
    total = len(grouped.layers)
    matching = total - len(lost) - sorting.text_layers
    said = message("It loads here: {matching} of {total} layers.", matching=matching, total=total)
    return said, matching == total
