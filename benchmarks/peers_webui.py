"""A webui's own LoRA code on the benchmark's model; ``loader.py --webui DIR`` starts this.

The code is read from DIR and runs unchanged. What it needs of its webui beyond the LoRA itself (options, devices, the
list of models) are stand-ins made here, and the model's modules appear under the paths that it knows.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import peers_common
import torch
from peers_common import Loader, cpu_and_wall, hand_over, load_model, measure
from torch import nn

from lora_atelier.models.load import Model

# The layers whose forward AUTOMATIC1111 replaces, so that each is looked at before it is used.
_PATCHED = (nn.Linear, nn.Conv2d, nn.GroupNorm, nn.LayerNorm, nn.MultiheadAttention)
# Of so many layers one is multiplied in half precision: processors without such instructions need minutes for all.
_HALF_SHARE = 8


def kind(folder: Path) -> str:
    """Whose code is in a webui's folder: "a1111", "forge", "reforge", or "" where it is none of them."""
    if (folder / "backend" / "patcher" / "lora.py").is_file():
        return "forge"
    if (folder / "ldm_patched" / "modules" / "model_patcher.py").is_file():
        return "reforge"
    if (folder / "extensions-builtin" / "Lora" / "network_lora.py").is_file():
        return "a1111"
    return ""


# --- stand-ins


class Anything:
    """Stands for what is imported and never needed."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _anything(name)

    def __call__(self, *_: object, **__: object) -> Anything:
        return self


def _anything(name: str) -> Any:
    # Names in capitals are classes, which may stand in an isinstance.
    return type(name, (), {}) if name[:1].isupper() else Anything()


class StandIns(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Imports these packages, and whatever is below them, as modules that hold anything."""

    def __init__(self, *packages: str) -> None:
        self._packages = packages
        sys.meta_path.insert(0, self)

    def find_spec(self, name: str, path: object = None, target: object = None) -> importlib.machinery.ModuleSpec | None:
        """A module of ours for a name in one of the packages."""
        if any(name == each or name.startswith(each + ".") for each in self._packages):
            return importlib.machinery.ModuleSpec(name, self, is_package=True)
        return None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        """An empty module whose missing names are made when they are asked for."""
        module = ModuleType(spec.name)
        module.__getattr__ = _anything_but_dunder  # type: ignore[method-assign]
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Nothing to run."""


def _anything_but_dunder(name: str) -> Any:
    if name.startswith("__"):
        raise AttributeError(name)
    return _anything(name)


def imported(name: str) -> Any:
    """A module by name, of which nothing is known."""
    return importlib.import_module(name)


@contextmanager
def program_arguments(*words: str) -> Iterator[None]:
    """While a webui's code reads its command line."""
    kept, sys.argv = sys.argv, ["webui", *words]
    try:
        yield
    finally:
        sys.argv = kept


def walk_files(folder: str | None, allowed_extensions: Sequence[str] = ()) -> Iterator[str]:
    """The files of a folder, as the webui lists them."""
    if folder and Path(folder).is_dir():
        yield from (str(path) for path in sorted(Path(folder).iterdir()) if path.suffix in allowed_extensions)


# --- AUTOMATIC1111


class A1111Loader:
    """AUTOMATIC1111's extensions-builtin/Lora: ``load_networks``, then ``network_apply_weights`` for every layer.

    It multiplies in ``devices.dtype``: float32 under --no-half and --precision full, else float16.
    """

    def __init__(self, folder: Path, model: Model, loras: Path, product: torch.dtype) -> None:
        import safetensors
        import safetensors.torch

        StandIns("modules")
        text = peers_common.text_tree(model.text_encoders[0], "transformer")
        unet = peers_common.ldm_unet(model.unet)
        self._layers = [module for root in (text, unet) for module in root.modules() if isinstance(module, _PATCHED)]

        def metadata(path: str) -> dict[str, str]:
            with safetensors.safe_open(path, "pt") as file:
                return dict(file.metadata() or {})

        _set(
            "shared",
            opts=SimpleNamespace(lora_preferred_name="Filename", lora_in_memory_limit=0, lora_functional=False),
            cmd_opts=SimpleNamespace(lora_dir=str(loras), lyco_dir_backcompat=None),
            walk_files=walk_files,
            sd_model=SimpleNamespace(
                is_sdxl=False,
                is_sd2=False,
                is_sd3=False,
                cond_stage_model=SimpleNamespace(wrapped=text),
                model=unet,
            ),
        )
        cpu = torch.device("cpu")
        _set("devices", cpu=cpu, device=cpu, dtype=product, torch_gc=lambda: None)
        _set("sd_models", read_state_dict=safetensors.torch.load_file, read_metadata_from_safetensors=metadata)
        _set("cache", cached_data_for_file=lambda _title, _name, _path, read: read())
        _set("hashes", sha256_from_cache=lambda *_, **__: None, sha256=lambda *_, **__: None)
        embeddings = SimpleNamespace(word_embeddings={}, expected_shape=-1, skipped_embeddings={})
        _set("sd_hijack", model_hijack=SimpleNamespace(embedding_db=embeddings, comments=[]))
        try:
            imported("gradio")
        except ImportError:
            StandIns("gradio")
        sys.path.insert(0, str(folder / "extensions-builtin" / "Lora"))
        self.networks: Any = imported("networks")
        self.networks.extra_network_lora = SimpleNamespace(errors={})
        shared: Any = sys.modules["modules.shared"]
        self.networks.assign_network_names_to_compvis_modules(shared.sd_model)

    def open(self, name: str) -> None:
        """Its modules of a file."""
        self.networks.load_networks([name], [1.0], [1.0], [None])

    def use(self, *calls: tuple[str, float]) -> None:
        """What happens before a picture and during its first step."""
        weights = [weight for _, weight in calls]
        self.networks.load_networks([name for name, _ in calls], weights, weights, [None] * len(calls))
        self.apply(self._layers)

    def apply(self, layers: Sequence[nn.Module]) -> None:
        """Bring these layers to what is loaded."""
        with torch.no_grad():
            for layer in layers:
                self.networks.network_apply_weights(layer)
        if self.networks.extra_network_lora.errors:
            raise RuntimeError(f"not every layer could be changed: {self.networks.extra_network_lora.errors}")

    def touched(self) -> list[nn.Module]:
        """The layers that the loaded LoRAs change."""
        names = {name for network in self.networks.loaded_networks for name in network.modules}
        return [layer for layer in self._layers if getattr(layer, "network_layer_name", None) in names]


def _set(name: str, **values: object) -> None:
    module = imported(f"modules.{name}")
    for key, value in values.items():
        setattr(module, key, value)
    setattr(sys.modules["modules"], name, module)


def half_product(loader: A1111Loader) -> float:
    """CPU seconds of the change with products in half precision: a share of the layers, scaled by their weights."""
    torch.set_num_threads(1)
    loader.open("a")
    touched = loader.touched()
    sample = touched[::_HALF_SHARE]
    (network,) = loader.networks.loaded_networks

    def change(multiplier: float) -> None:
        network.te_multiplier = network.unet_multiplier = multiplier
        loader.apply(sample)

    change(0.8)
    seconds, _ = cpu_and_wall(lambda: change(0.5))
    return seconds * _weights(touched) / _weights(sample)


def _weights(layers: Sequence[Any]) -> int:
    return sum(layer.weight.numel() for layer in layers)


# --- Forge and reForge


def unet_config(unet: Any) -> dict[str, Any]:
    """A diffusers U-Net's size in ldm's words, from which both make their table of names.

    "transformer_depth" of each resnet on the way down, "transformer_depth_output" on the way up, the last one first.
    """
    sizes = unet.config.block_out_channels
    per_block = int(unet.config.layers_per_block)
    down = [int("Attn" in name) for name in unet.config.down_block_types for _ in range(per_block)]
    up = [int("Attn" in name) for name in reversed(unet.config.up_block_types) for _ in range(per_block + 1)]
    return {
        "num_res_blocks": [per_block] * len(sizes),
        "channel_mult": [size // sizes[0] for size in sizes],
        "transformer_depth": down,
        "transformer_depth_output": up,
        "transformer_depth_middle": 1,
    }


class ReForgeLoader:
    """reForge's copy of ComfyUI's patching: a patcher's clone takes the patches and writes them when it is loaded."""

    def __init__(self, folder: Path, model: Model, loras: Path) -> None:
        StandIns("modules", "modules_forge", "ldm_patched.modules.model_base", "ldm_patched.contrib")
        sys.path.insert(0, str(folder))
        options: Any = imported("ldm_patched.modules.options")
        options.enable_args_parsing()
        with program_arguments("--always-cpu"):
            imported("ldm_patched.modules.args_parser")
        patcher: Any = imported("ldm_patched.modules.model_patcher")
        self._lora: Any = imported("ldm_patched.modules.lora")
        self._convert: Any = imported("ldm_patched.modules.lora_convert")
        self._utils: Any = imported("ldm_patched.modules.utils")
        self._loras = loras
        self._unet, self._text = (
            peers_common.ldm_unet(model.unet),
            peers_common.text_tree(model.text_encoders[0], "clip_l.transformer"),
        )
        self._unet.model_config = SimpleNamespace(unet_config=unet_config(model.unet))  # type: ignore[assignment]
        cpu = torch.device("cpu")
        self._cpu = cpu
        self._originals = [patcher.ModelPatcher(part, cpu, cpu) for part in (self._unet, self._text)]
        self._loaded: list[Any] = []
        # The webui keeps the files that it read last.
        self._files: dict[str, Any] = {}

    def open(self, name: str) -> None:
        """Its patches of a file."""
        self._patches(name)

    def _patches(self, name: str) -> Any:
        if name not in self._files:
            self._files[name] = self._utils.load_torch_file(str(self._loras / f"{name}.safetensors"), safe_load=True)
        keys = self._lora.model_lora_keys_unet(self._unet, {})
        keys = self._lora.model_lora_keys_clip(self._text, keys)
        return self._lora.load_lora(self._convert.convert_lora(self._files[name]), keys)

    def use(self, *calls: tuple[str, float]) -> None:
        """Clones with the patches; those that are loaded leave, and the new ones come."""
        wanted = self._originals
        for name, weight in calls:
            patches = self._patches(name)
            wanted = [each.clone() for each in wanted]
            added = sum(len(each.add_patches(patches, weight)) for each in wanted)
            if added != len(patches):
                raise RuntimeError(f"{added} of {len(patches)} layers were found")
        with torch.inference_mode():
            for each in self._loaded:
                each.unpatch_model(self._cpu)
            for each in wanted if calls else ():
                each.patch_model(self._cpu)
        self._loaded = wanted if calls else []


class ForgeLoader:
    """Forge's LoraLoader: weights are put back, then merged anew when its list of LoRAs is another one."""

    def __init__(self, folder: Path, model: Model, loras: Path) -> None:
        StandIns("modules", "modules_forge", "gguf", "backend.operations", "backend.operations_gguf")
        sys.path.insert(0, str(folder))
        with program_arguments("--always-cpu"):
            self._lora: Any = imported("backend.patcher.lora")
            self._utils: Any = imported("backend.utils")
            base: Any = imported("backend.patcher.base")
        imported("backend.operations").bnb_avaliable = False
        self._loras = loras
        self._unet = peers_common.ldm_unet(model.unet)
        self._text = peers_common.text_tree(model.text_encoders[0], "clip_l.transformer")
        self._unet.config = SimpleNamespace(huggingface_repo="")  # type: ignore[assignment]
        self._unet._modules["diffusion_model"].config = unet_config(model.unet)  # type: ignore[union-attr, assignment]
        cpu = torch.device("cpu")
        self._originals = [base.ModelPatcher(part, cpu, cpu) for part in (self._unet, self._text)]
        self._files: dict[str, Any] = {}

    def open(self, name: str) -> None:
        """Its patches of a file."""
        self._patches(name)

    def _patches(self, name: str) -> list[Any]:
        if name not in self._files:
            self._files[name] = self._utils.load_torch_file(str(self._loras / f"{name}.safetensors"), safe_load=True)
        of_unet, rest = self._lora.load_lora(self._files[name], self._lora.model_lora_keys_unet(self._unet, {}))
        of_text, rest = self._lora.load_lora(rest, self._lora.model_lora_keys_clip(self._text, {}))
        if rest:
            raise RuntimeError(f"{len(rest)} keys were not found")
        return [of_unet, of_text]

    def use(self, *calls: tuple[str, float]) -> None:
        """Clones with the patches, and their merging."""
        wanted = self._originals
        for name, weight in calls:
            patches = self._patches(name)
            wanted = [each.clone() for each in wanted]
            for each, of_part in zip(wanted, patches, strict=True):
                each.add_patches(filename=name, patches=of_part, strength_patch=weight)
        for each in wanted:
            each.refresh_loras()


def main() -> int:
    told = peers_common.arguments(__doc__)
    found, loras = kind(told.webui), told.work / "loras"
    model = load_model(told.work, told.dtype)
    if told.job == "half product":
        hand_over({"cpu": {"half product": half_product(A1111Loader(told.webui, model, loras, torch.float16))}})
        return 0
    loader: Loader
    if found == "a1111":
        loader = A1111Loader(told.webui, model, loras, torch.float32)
    elif found == "reforge":
        loader = ReForgeLoader(told.webui, model, loras)
    else:
        loader = ForgeLoader(told.webui, model, loras)
    hand_over(measure(loader, told.repeats))
    return 0


if __name__ == "__main__":
    sys.exit(main())
