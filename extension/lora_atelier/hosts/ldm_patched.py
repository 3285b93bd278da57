"""reForge and forge-classic: Forge's first backend, ComfyUI's model patcher under the name ``ldm_patched``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from ..loader.merging import Change
from .forge import ForgeFamilyHost
from .patcher import KIND, calculator, merged


class LdmPatchedHost(ForgeFamilyHost):
    """What both have in common."""

    def release_gpu(self) -> None:
        """Empty the graphics card; the model stays in memory and is moved back before the next picture."""
        management = self.module("ldm_patched.modules.model_management")
        management.unload_all_models()
        management.soft_empty_cache(True)


class ReForgeHost(LdmPatchedHost):
    """reForge f1.0."""

    id = "reforge"

    def patched(self, patcher: Any, clone: Any, patches: Mapping[str, Sequence[Change]], name: str) -> Any:
        """Its patcher asks an object for the changed weight."""
        base = self.module("ldm_patched.modules.weight_adapter.base").WeightAdapterBase
        clone.add_patches({key: _adapter(base, changes) for key, changes in patches.items()}, 1.0)
        return clone


class ClassicHost(LdmPatchedHost):
    """forge-classic."""

    id = "forge-classic"

    def patched(self, patcher: Any, clone: Any, patches: Mapping[str, Sequence[Change]], name: str) -> Any:
        """Its patcher looks a patch's kind up in a table."""
        table = self.module("ldm_patched.modules.model_patcher").extra_weight_calculators
        table.setdefault(KIND, calculator())
        clone.add_patches({key: (KIND, (changes,)) for key, changes in patches.items()}, 1.0)
        return clone


def _adapter(base: type, changes: Sequence[Change]) -> Any:
    def calculate_weight(self: Any, weight: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return merged(weight, changes)

    return type("AtelierChange", (base,), {"name": KIND, "calculate_weight": calculate_weight})()
