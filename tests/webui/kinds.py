"""What differs between the webuis, in one table: how they are started, asked and given a model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_CPU = ("--skip-prepare-environment", "--skip-version-check", "--skip-torch-cuda-test", "--do-not-download-clip",
        "--disable-console-progressbars", "--api")  # fmt: skip
_SWITCHES = {
    "listen": ("--listen",),
    "login": ("--gradio-auth", "user:word"),
    "subpath": ("--subpath", "below"),
    "no queue": ("--no-gradio-queue",),
    "no page": ("--nowebui",),
    "frozen": ("--freeze-settings",),
    "medvram": ("--medvram",),
    "lowvram": ("--lowvram",),
}
_EULER = {"width": 128, "height": 128, "steps": 3, "cfg_scale": 5, "seed": 7, "sampler_name": "Euler"}
_HIRES = {"enable_hr": True, "hr_scale": 1.5, "hr_upscaler": "Latent", "denoising_strength": 0.6,
          "hr_second_pass_steps": 2}  # fmt: skip
_DDIM = {**_EULER, "steps": 8, "cfg_scale": 3, "sampler_name": "DDIM"}
# What AUTOMATIC1111's loader of 1.8 can't read, and what its descendants can't.
_DOTTED = frozenset({"peft", "processors", "comfyui"})


@dataclass(frozen=True)
class Kind:
    """One webui.

    ``arguments`` start it on the CPU. ``widths``: the U-Net's and the VAE's first channels in a random checkpoint, and
    whether its levels grow from there; None: a folder of diffusers, the embedded base model. ``settings`` are written
    before the first start. ``request`` and ``hires`` are what is asked of its API. ``can_not_load``: the files of
    ``formats`` that its own loader fails at. ``rounding``: how far our pictures may be from its own loader's,
    of 255. ``restarts``: it has no "Reload UI" inside of its process. ``switches``: arguments by what they do.
    """

    id: str
    arguments: tuple[str, ...]
    widths: tuple[int, int, bool] | None
    request: Mapping[str, Any] = field(default_factory=lambda: _EULER)
    hires: Mapping[str, Any] = field(default_factory=lambda: _HIRES)
    settings: Mapping[str, Any] = field(default_factory=dict)
    can_not_load: frozenset[str] = frozenset()
    rounding: int = 3
    reads_config: bool = False
    restarts: bool = False
    switches: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: _SWITCHES)

    def folders(self, data: Path, webui: Path) -> list[str]:
        """The arguments that keep everything below ``data``, for what is installed in ``webui``."""
        named = ["--data-dir", str(data)]
        if self.restarts:
            return [*named, "--models-dir", str(data / "models"), "--extensions-dir", str(data / "extensions")]
        # With its data elsewhere, Forge's page (Gradio 4) may not read its own scripts.
        return [*named, "--gradio-allowed-path", str(webui)]

    def checkpoint(self, name: str) -> str:
        """The setting's value for a checkpoint that ``models`` has written."""
        return f"{name}.safetensors" if self.widths else f"Diffusers/{name}"


_FORGE = {"arguments": (*_CPU, "--always-cpu"), "widths": (320, 128, False)}
A1111 = Kind(
    "a1111", (*_CPU, "--use-cpu", "all", "--no-half"), (64, 32, True), reads_config=True,
    can_not_load=_DOTTED | {"dora"},
)  # fmt: skip
FORGE = Kind(
    "forge",
    **_FORGE,
    hires={**_HIRES, "hr_additional_modules": ["Use same choices"]},
    # Where no checkpoint was chosen yet Forge chooses one when it starts, which it may not with frozen settings.
    settings={"sd_model_checkpoint": "first.safetensors"},
    can_not_load=frozenset({"peft", "oft", "diag-oft", "boft", "ia3"}),
)
# For live previews these fetch a model.
_NO_PREVIEWS = {"live_previews_enable": False, "show_progress_type": "Approx cheap"}
REFORGE = Kind("reforge", **_FORGE, settings=_NO_PREVIEWS, can_not_load=frozenset({"ia3"}))
CLASSIC = Kind(
    "forge-classic",
    tuple(each for each in _FORGE["arguments"] if each != "--do-not-download-clip"),
    _FORGE["widths"],
    settings=_NO_PREVIEWS,
    can_not_load=frozenset({"peft", "oft", "diag-oft", "boft", "ia3", "dora"}),
)
SDNEXT = Kind(
    "sdnext",
    ("--skip-all", "--quick", "--skip-git", "--skip-requirements", "--skip-torch", "--use-cpu", "all", "--debug"),
    None,
    request=_DDIM,
    hires={**_HIRES, "hr_upscaler": "Latent Bilinear"},
    settings={"offline_mode": True, "sd_model_checkpoint": "Diffusers/first", "sdnq_dequantize_compile": False,
              "theme_type": "Standard", "lora_fuse_native": False, "lora_apply_te": True, "samples_format": "png",
              "lora_add_hashes_to_infotext": True,
              # Otherwise it refuses more than sixty pictures a minute (429): a fast machine draws more of these.
              "server_rate_limit": 0},
    restarts=True,
    switches={"listen": ("--listen",), "login": ("--auth", "user:word"), "subpath": ("--subpath", "/below"),
              "no queue": ("--disable-queue",), "frozen": ("--freeze",)},
)  # fmt: skip


def of(folder: Path) -> Kind:
    """The webui that is installed in ``folder``."""
    if (folder / "installer.py").exists():
        return SDNEXT
    if (folder / "backend").is_dir():
        return FORGE
    if (folder / "ldm_patched").is_dir():
        return REFORGE if (folder / "ldm_patched" / "modules" / "weight_adapter").exists() else CLASSIC
    return A1111
