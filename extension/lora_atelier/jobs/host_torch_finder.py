"""Lets a Python import the PyTorch of another environment, and nothing else of it.

``host_torch`` copies this file into the trainer's environment, where a ``.pth`` line calls ``install`` before any
program runs. It therefore imports nothing of ours. A plain path in a ``.pth`` file would show the trainer all of the
webui's packages, in versions that the webui chose; this shows the named ones alone. It writes no bytecode beside them.
"""

from __future__ import annotations

import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from typing import Any


class _ReadOnlyLoader(SourceFileLoader):
    """Loads sources without leaving compiled copies beside them."""

    def set_data(self, path: str, data: Any, *, _mode: int = 0o666) -> None:
        """Keep nothing."""


class HostTorchFinder(MetaPathFinder):
    """Finds the packages ``names``, and everything inside them, in ``folder``."""

    def __init__(self, folder: str, names: tuple[str, ...]) -> None:
        self.folder, self.names = folder, frozenset(names)

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """The module's spec if it is one of theirs, else None."""
        if fullname.partition(".")[0] not in self.names:
            return None
        spec = PathFinder.find_spec(fullname, [self.folder] if path is None else path)
        if spec is not None and type(spec.loader) is SourceFileLoader:
            spec.loader = _ReadOnlyLoader(spec.loader.name, spec.loader.path)
        return spec


def install(folder: str, names: tuple[str, ...]) -> None:
    """Find ``names`` in ``folder`` from now on, in this process."""
    if not any(isinstance(finder, HostTorchFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, HostTorchFinder(folder, names))
