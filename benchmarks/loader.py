"""How long it takes to put a LoRA on a model, change it and take it off, how much memory that costs, beside peers.

    python benchmarks/loader.py [--quick] [--json FILE] [--webui DIR ...] [--work FOLDER]

The model has Stable Diffusion 1.5's size and random weights, the LoRA rank 32 on every layer that one can be trained
for. Each loader runs in a process of its own: ours keeping copies of the weights ("copy", the default mode) and reading
them again ("reread", the low-memory mode), diffusers with PEFT where it is installed, and a webui's own code for each
``--webui`` that names an AUTOMATIC1111, Forge or reForge folder. Seconds are processor time on one thread where nothing
else is said, so that other work on the machine disturbs them little; memory is private and anonymous.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import importlib.util
import json
import math
import shutil
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import peers_common
import torch
from peers_common import CHANGE, DTYPES, MB, STEPS, cpu_and_wall, hand_over, load_model, measure, median_cpu, medians
from results import Row, report
from torch import Tensor, nn

from lora_atelier import memory
from lora_atelier.adapters import file as adapter_file
from lora_atelier.loader.catalogue import Catalogue
from lora_atelier.loader.fitting import fit
from lora_atelier.loader.originals import StoredWeights
from lora_atelier.loader.patching import OriginalsMode, Patch, WeightPatcher
from lora_atelier.loader.session import LoaderSession, LoaderSettings
from lora_atelier.models import configs
from lora_atelier.models.layers import Layer, aliases, layers, target_layers, te_path, te_prefixes
from lora_atelier.models.load import Model, empty_text_encoder, empty_unet
from lora_atelier.models.stored import StoredModel
from lora_atelier.prompt import NetworkCall

HERE = Path(__file__).resolve().parent
RANK, ALPHA = 32, 16.0
MODES: tuple[OriginalsMode, ...] = ("copy", "reread")
MODE_NAMES = {"copy": "default mode", "reread": "low-memory mode"}
# The most that the change may take, as a share of the peer's.
CHANGE_BUDGETS = {"copy": {"A1111": 1 / 5, "Forge": 1 / 3}, "reread": {"A1111": 1 / 4, "Forge": 1 / 2}}
LIMIT_BUDGET = 1.5
MEMORY_BUDGET_MB = 50.0
# Numbers in float32 blocks that may stay in the processor's cache, and in the array that does not.
BLOCKS, STREAM = (1 << 21, 1 << 19, 1 << 17), 1 << 27
# Free disk and memory, in models of the size, that a measurement needs: files; the model and copies of its weights.
DISK_NEEDED, MEMORY_NEEDED = 1.3, 2.4

_QUICK_UNET = {
    **configs.UNETS["sd1"],
    "block_out_channels": (320, 640),
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
}
# Size -> the configs of its U-Net and its text encoders.
SIZES: Mapping[str, tuple[configs.Config, Sequence[configs.Config]]] = {
    "quick": (_QUICK_UNET, [{**configs.CLIP_L, "num_hidden_layers": 4}]),
    "sd1": (configs.UNETS["sd1"], configs.TEXT_ENCODERS["sd1"]),
    "sdxl": (configs.UNETS["sdxl"], configs.TEXT_ENCODERS["sdxl"]),
}


def beside(name: str, value: float, unit: str, anchor: float | None, budget: float | None = None) -> Row:
    """A value whose ratio to an anchor may be at most ``budget``."""
    ratio = value / anchor if anchor else None
    ok = None if ratio is None or budget is None else ratio <= budget
    return Row(name, value, unit, anchor, ratio, budget, ok)


def at_most(name: str, value: float, unit: str, budget: float | None) -> Row:
    """A value that may be at most ``budget`` itself."""
    return Row(name, value, unit, None, None, budget, None if budget is None else value <= budget)


# --- the model and the LoRAs


def parts(size: str) -> dict[str, tuple[configs.Config, nn.Module]]:
    """A model's parts by folder: their configs and their modules without memory."""
    unet, encoders = SIZES[size]
    found: dict[str, tuple[configs.Config, nn.Module]] = {"unet": (unet, empty_unet(unet))}
    for at, config in enumerate(encoders):
        name = "text_encoder" if at == 0 else f"text_encoder_{at + 1}"
        found[name] = config, empty_text_encoder(config, with_projection=at > 0)
    return found


@functools.cache
def size_bytes(size: str) -> int:
    """A model's weights in half precision."""
    return sum(2 * p.numel() for _, module in parts(size).values() for p in module.parameters())


def make_data(size: str, work: Path) -> None:
    """Write ``model/``, a diffusers folder of this size, and ``loras/`` with a and b, all of random numbers."""
    made = parts(size)
    for name, (config, module) in made.items():
        folder = work / "model" / name
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(json.dumps(dict(config)), encoding="utf-8")
        stem = "diffusion_pytorch_model" if name == "unet" else "model"
        names = {key if name == "unet" else te_path(key): p for key, p in module.named_parameters()}
        write_random(folder / f"{stem}.safetensors", names)
    (work / "model" / "vae").mkdir()
    # No LoRA touches it and nothing here loads it, but a folder without one is no model.
    write_random(work / "model" / "vae" / "model.safetensors", {"empty.bias": torch.empty(1, device="meta")})
    (work / "model" / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}', encoding="utf-8")
    (work / "loras").mkdir()
    encoders = [module for name, (_, module) in made.items() if name != "unet"]
    targets = target_layers(made["unet"][1], conv=True)
    for prefix, encoder in zip(te_prefixes(len(encoders)), encoders, strict=True):
        targets |= target_layers(encoder, prefix=prefix)
    for seed, name in enumerate("ab"):
        adapter_file.write(work / "loras" / f"{name}.safetensors", lora_tensors(targets, seed), {})


def write_random(path: Path, parameters: Mapping[str, Tensor]) -> None:
    """Write float16 weights of these names and shapes, one by one: the file is never in memory."""
    # Cut from one row of numbers at other places each time: drawing a billion of them would take longer than the rest.
    bank = (torch.randn(1 << 24, generator=torch.Generator().manual_seed(0)) * 0.02).half()
    header, at = {}, 0
    for key, parameter in parameters.items():
        end = at + 2 * parameter.numel()
        header[key] = {"dtype": "F16", "shape": list(parameter.shape), "data_offsets": [at, end]}
        at = end
    text = json.dumps(header).encode("utf-8")
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for number, (key, parameter) in enumerate(parameters.items()):
            rest, start = parameter.numel(), number * 7919 % 100_000
            if parameter.ndim == 1 and key.endswith("weight"):
                # A norm's: it keeps the numbers of a forward pass in their usual range.
                file.write(torch.ones(rest, dtype=torch.float16).numpy().data)
                continue
            while rest:
                part = bank[start : start + rest]
                file.write(part.numpy().data)
                rest, start = rest - part.numel(), 0


def lora_tensors(targets: Mapping[str, nn.Module], seed: int) -> dict[str, Tensor]:
    """A LoRA for these layers as kohya writes it, float16."""
    generator = torch.Generator().manual_seed(seed)
    tensors: dict[str, Tensor] = {}
    for name, module in targets.items():
        out_features, *in_shape = module.weight.shape  # type: ignore[union-attr, misc]
        ones = [1] * (len(in_shape) - 1)
        tensors[f"{name}.lora_down.weight"] = (torch.randn(RANK, *in_shape, generator=generator) * 0.02).half()
        tensors[f"{name}.lora_up.weight"] = (torch.randn(out_features, RANK, *ones, generator=generator) * 0.02).half()
        tensors[f"{name}.alpha"] = torch.tensor(ALPHA, dtype=torch.float16)
    return tensors


# --- our loader, in a process of its own


class BenchmarkHost:
    """What our loader must know of a host, around one model."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._layers, self._aliases = layers(model), aliases(model)
        self._stored = StoredModel(model)

    def layers(self) -> Mapping[str, Layer]:
        return self._layers

    def aliases(self) -> Mapping[str, str]:
        return self._aliases

    def family(self) -> str:
        return self._model.info.family

    def stored_weights(self) -> StoredWeights:
        return self._stored

    def use_embeddings(self, embeddings: object) -> list[Any]:
        return []


class OurLoader:
    """A LoaderSession behind the steps that all loaders are taken through."""

    def __init__(self, host: BenchmarkHost, loras: Path, mode: OriginalsMode) -> None:
        self._session = LoaderSession(host, Catalogue([loras]), LoaderSettings(originals=mode))

    def open(self, name: str) -> None:
        """A multiplier of 0 reads and fits the file and changes nothing."""
        self.use((name, 0.0))

    def use(self, *calls: tuple[str, float]) -> None:
        """What a prompt with these tags does."""
        notes = self._session.use([NetworkCall(name, weight, weight) for name, weight in calls])
        if notes:
            raise RuntimeError(f"a LoRA was not applied as it is: {notes}")


def ours(work: Path, dtype: str, mode: OriginalsMode, repeats: int) -> dict[str, Any]:
    """Our loader's steps, whether the weights came back, and the machine's limit for the change."""
    model = load_model(work, dtype)
    host = BenchmarkHost(model)
    loader = OurLoader(host, work / "loras", mode)
    before = fingerprint(model)
    result = measure(loader, repeats)
    touched = fit("a", work / "loras" / "a.safetensors", host).adapters
    numbers = sum(math.prod(adapter.shape) for adapter in touched.values())
    result["touched"] = {"layers": len(touched), "numbers": numbers, "MB": numbers * DTYPES[dtype].itemsize / MB}
    result["returned"] = fingerprint(model) == before
    torch.set_num_threads(1)
    stored = next((work / "model" / "unet").glob("*.safetensors")) if mode == "reread" else None
    loader.use(("a", 0.8))
    result["limit"] = against_limit(loader, numbers, DTYPES[dtype], stored, repeats)
    return result


def fingerprint(model: Model) -> list[int]:
    """A sum of each weight's bits, which other bits hardly share."""
    kinds = {2: torch.int16, 4: torch.int32}
    tensors = [p for part in model.parts() for p in part.parameters()]
    return [int(t.detach().view(kinds[t.element_size()]).sum(dtype=torch.int64)) for t in tensors]


# --- the machine's limit


def against_limit(
    loader: OurLoader, numbers: int, dtype: torch.dtype, stored: Path | None, repeats: int
) -> dict[str, float]:
    """CPU seconds of the change, and of the least that it must do, both measured in turn.

    The least: the products at the best rate that products of this rank reach while their result stays in the cache, and
    one way of all weights through it, from memory (or ``stored``, the file) and back, changing precision as they do, in
    blocks of the size that suits the machine best.
    """
    rounds = []
    source, target = torch.zeros(STREAM, dtype=dtype), torch.zeros(STREAM, dtype=dtype)
    for number in range(repeats):
        multiplier = 0.8 if number % 2 else 0.5
        change = cpu_and_wall(lambda at=multiplier: loader.use(("a", at)))[0]  # type: ignore[misc]
        flop_s = max(product_rate(rows, columns) for rows, columns in ((1280, 1280), (320, 1280), (100, 1280)))
        moved_s = max(streaming_rate(source, target, block, stored) for block in BLOCKS)
        products, moving = 2 * RANK * numbers / flop_s, numbers / moved_s
        rounds.append({"change": change, "limit": products + moving, "products": products, "moving": moving})
    return medians(rounds)


def product_rate(rows: int, columns: int) -> float:
    """Floating-point operations in a CPU second of ``total += up @ down``, float32, at the LoRA's rank."""
    up, down = torch.randn(rows, RANK), torch.randn(RANK, columns)
    total = torch.zeros(rows, columns)
    times = 20

    def multiply() -> None:
        for _ in range(times):
            total.addmm_(up, down)

    multiply()
    return times * 2 * RANK * rows * columns / median_cpu(multiply, 3)


def streaming_rate(source: Tensor, target: Tensor, numbers: int, stored: Path | None) -> float:
    """Numbers in a CPU second that go from ``source`` through a float32 block of ``numbers`` to ``target``.

    With a ``stored`` file (float16) they come from there instead, as from a file that the system holds in memory.
    """
    scratch = torch.empty(numbers)
    buffer = torch.empty(numbers, dtype=torch.float16)
    bytes_there = stored.stat().st_size // 2 * 2 if stored else 0
    count = min(source.numel(), bytes_there // 2) if stored else source.numel()
    count -= count % numbers

    def stream() -> None:
        with contextlib.ExitStack() as stack:
            file = stack.enter_context(stored.open("rb", buffering=0)) if stored else None
            for start in range(0, count, numbers):
                block = source[start : start + numbers]
                if file is not None:
                    file.readinto(buffer.numpy().data)
                    block = buffer
                if source.dtype == torch.float32:
                    # Nothing is converted on the way: it is in the target that the product is added.
                    target[start : start + numbers].copy_(block)
                    continue
                scratch.copy_(block)
                target[start : start + numbers].copy_(scratch)

    stream()
    return count / median_cpu(stream, 3)


# --- a forward pass


def forward(work: Path, repeats: int) -> dict[str, float]:
    """CPU seconds of a forward pass: plain, with a LoRA beside the layers, and with it merged."""
    torch.set_num_threads(1)
    model = load_model(work, "fp32")
    host = BenchmarkHost(model)
    fitted = fit("a", work / "loras" / "a.safetensors", host)
    patches = [Patch(*place, adapter, 0.8, fitted.content_hash) for place, adapter in fitted.adapters.items()]
    run = peers_common.forward_pass(model.unet)
    run()
    rounds = []
    for _ in range(repeats):
        seconds = {"plain": cpu_and_wall(run)[0]}
        for name, merged in (("un-merged", False), ("merged", True)):
            patcher = WeightPatcher(host, host.stored_weights(), mode="reread", merge=merged)
            patcher.apply(patches)
            seconds[name] = cpu_and_wall(run)[0]
            patcher.restore()
        rounds.append(seconds)
    return medians(rounds)


# --- all of them, one after another


def start(script: str, job: str, work: Path, *words: str) -> dict[str, Any]:
    """Measure in a process of its own. Raises RuntimeError with what it said if it fails."""
    print(f"  {' '.join((job, *words))} …", file=sys.stderr, flush=True)
    command = [sys.executable, str(HERE / script), job, str(work), *words]
    done = subprocess.run(command, capture_output=True, text=True, cwd=HERE, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr[-3000:]}")
    return dict(json.loads(done.stdout.strip().splitlines()[-1]))


@dataclass(frozen=True)
class Webui:
    """A webui's folder, and what its code is called here; "Forge" stands for all that patch as ComfyUI does."""

    folder: Path
    name: str
    anchor: str


def webuis(folders: Sequence[Path]) -> list[Webui]:
    """The webuis that were named. Raises SystemExit for a folder that is none."""
    import peers_webui

    names = {"a1111": ("A1111", "A1111"), "forge": ("Forge", "Forge"), "reforge": ("reForge", "Forge")}
    found = []
    for folder in folders:
        kind = peers_webui.kind(folder)
        if not kind:
            raise SystemExit(f"{folder} is no AUTOMATIC1111, Forge or reForge folder")
        found.append(Webui(folder.resolve(), *names[kind]))
    return found


def dtype_rows(work: Path, dtype: str, repeats: int, found: Sequence[Webui], *, peft: bool) -> list[Row]:
    """All loaders in one precision."""
    how = ("--dtype", dtype, "--repeats", str(repeats))
    own = {mode: start("loader.py", mode, work, *how) for mode in MODES}
    rows = [row for mode in MODES for row in step_rows(f"{dtype}, ours ({mode})", own[mode])]
    anchors: dict[str, list[float]] = {"A1111": [], "Forge": []}
    for webui in found:
        words = (*how, "--webui", str(webui.folder))
        result = start("peers_webui.py", "steps", work, *words)
        rows += step_rows(f"{dtype}, {webui.name}", result)
        anchors[webui.anchor].append(result["cpu"][CHANGE])
        if webui.name == "A1111" and dtype == "fp16":
            half = start("peers_webui.py", "half product", work, *words)["cpu"]["half product"]
            rows.append(Row(f"{dtype}, A1111, product in half precision: {CHANGE}", half, "s"))
            anchors["A1111"].append(half)
    if peft:
        for job in ("fused", "beside"):
            rows += step_rows(f"{dtype}, diffusers + PEFT ({job})", start("peers_diffusers.py", job, work, *how))
    fastest = {peer: min(seconds, default=None) for peer, seconds in anchors.items()}
    for mode in MODES:
        rows += budget_rows(dtype, mode, own[mode], fastest, (work / "loras" / "a.safetensors").stat().st_size / MB)
    return rows


def step_rows(who: str, result: Mapping[str, Any]) -> list[Row]:
    """What a loader was measured at, without a judgement."""
    every = f"{CHANGE}, all threads"
    rows = [Row(f"{who}: {name}", result["cpu"][name], "s") for name in STEPS]
    rows += [
        Row(f"{who}: {every}, CPU", result["cpu"][every], "s"),
        Row(f"{who}: {every}, wall", result["wall"][every], "s"),
    ]
    return rows + [Row(f"{who}: private memory, {name}", mb, "MB") for name, mb in result["memory"].items()]


def budget_rows(
    dtype: str, mode: OriginalsMode, own: Mapping[str, Any], fastest: Mapping[str, float | None], lora_mb: float
) -> list[Row]:
    """Our loader against the design's budgets, which are set for half precision."""
    who, judged = f"{dtype}, {MODE_NAMES[mode]}", dtype == "fp16"
    rows = [
        beside(
            f"{who}: {CHANGE} beside {peer if peer == 'A1111' else 'ComfyUI and Forge'}",
            own["cpu"][CHANGE],
            "s",
            fastest[peer],
            CHANGE_BUDGETS[mode][peer] if judged else None,
        )
        for peer in fastest
    ]
    limit = own["limit"]
    limit_budget = LIMIT_BUDGET if judged and mode == "copy" else None
    rows.append(
        beside(f"{who}: {CHANGE} beside the machine's limit", limit["change"], "s", limit["limit"], limit_budget)
    )
    rows += [Row(f"{who}: of the limit, {name}", limit[name], "s") for name in ("products", "moving")]
    steady, touched = own["memory"]["steady"], own["touched"]["MB"]
    rows.append(Row(f"{who}: bytes of the {own['touched']['layers']} touched layers", touched, "MB"))
    rows.append(Row(f"{who}: bytes of the LoRA", lora_mb, "MB"))
    memory_budget = MEMORY_BUDGET_MB if judged else None
    if mode == "copy":
        beyond = steady - touched - lora_mb
        rows.append(at_most(f"{who}: private memory beyond both", beyond, "MB", memory_budget))
    else:
        rows.append(at_most(f"{who}: private memory while a LoRA is on, all of it", steady, "MB", memory_budget))
    returned = own["returned"]
    rows.append(Row(f"{who}: weights returned bit for bit", float(returned), "1 = yes", None, None, 1.0, returned))
    return rows


def forward_rows(work: Path, repeats: int) -> list[Row]:
    """What a LoRA beside the layers costs each forward pass, ours and PEFT's."""
    how = ("--dtype", "fp32", "--repeats", str(repeats))
    own = start("loader.py", "forward", work, *how)["forward"]
    peer = start("peers_diffusers.py", "forward", work, *how)["forward"] if has_peft() else None
    rows = [Row(f"forward pass, ours: {name}", seconds, "s") for name, seconds in own.items()]
    if peer is not None:
        rows += [Row(f"forward pass, diffusers + PEFT: {name}", seconds, "s") for name, seconds in peer.items()]
    extra = {
        ours_name: (
            100 * (own[ours_name] / own["plain"] - 1),
            100 * (peer[peer_name] / peer["plain"] - 1) if peer else None,
        )
        for ours_name, peer_name in (("un-merged", "un-fused"), ("merged", "fused"))
    }
    rows += [beside(f"forward pass, {name}: more than plain", *_percent(pair)) for name, pair in extra.items()]
    return rows


def _percent(pair: tuple[float, float | None]) -> tuple[float, str, float | None]:
    return pair[0], "%", pair[1]


def sdxl_rows(work: Path, repeats: int) -> list[Row]:
    """Our loader at SDXL's size, half precision."""
    rows: list[Row] = []
    for mode in MODES:
        result = start("loader.py", mode, work, "--dtype", "fp16", "--repeats", str(repeats))
        rows += step_rows(f"SDXL fp16, ours ({mode})", result)
        limit = result["limit"]
        rows.append(
            beside(
                f"SDXL fp16, {MODE_NAMES[mode]}: {CHANGE} beside the machine's limit",
                limit["change"],
                "s",
                limit["limit"],
            )
        )
        returned = result["returned"]
        name = f"SDXL fp16, {MODE_NAMES[mode]}: weights returned bit for bit"
        rows.append(Row(name, float(returned), "1 = yes", None, None, 1.0, returned))
    return rows


def has_peft() -> bool:
    """Whether that peer is installed."""
    return all(importlib.util.find_spec(name) for name in ("diffusers", "peft"))


@contextlib.contextmanager
def data(size: str, folder: Path | None) -> Iterator[Path]:
    """A folder with the model and the LoRAs, deleted afterwards. Raises SystemExit where the disk has no room."""
    with tempfile.TemporaryDirectory(prefix="lora-atelier-benchmark-", dir=folder) as work:
        free, needed = shutil.disk_usage(work).free, DISK_NEEDED * size_bytes(size)
        if free < needed:
            raise SystemExit(f"{work} has {free / MB:.0f} MB free; {needed / MB:.0f} MB are needed (see --work)")
        print(f"writing {size_bytes(size) / MB:.0f} MB of random weights ({size}) …", file=sys.stderr, flush=True)
        make_data(size, Path(work))
        yield Path(work)


def fits_memory(size: str, itemsize: int) -> bool:
    """Whether a model and copies of its weights find room, as far as the system tells."""
    free = memory.available_bytes()
    return free is None or free > MEMORY_NEEDED * size_bytes(size) * itemsize / 2


def collect(quick: bool, folder: Path | None, found: Sequence[Webui], wanted: Sequence[str]) -> list[Row]:
    """Every measurement that was asked for."""
    size, repeats = ("quick", 2) if quick else ("sd1", 4)
    rows: list[Row] = []
    if {*DTYPES, "forward"} & {*wanted}:
        with data(size, folder) as work:
            for dtype in DTYPES:
                if dtype in wanted:
                    # Only half precision has budgets; what they need no peer for is measured in both.
                    peers = not quick or dtype == "fp16"
                    rows += dtype_rows(work, dtype, repeats, found if peers else [], peft=peers and has_peft())
            if "forward" in wanted:
                rows += forward_rows(work, 1 if quick else repeats)
    if "sdxl" in wanted and not quick:
        if fits_memory("sdxl", 2):
            with data("sdxl", folder) as work:
                rows += sdxl_rows(work, 2)
        else:
            print("SDXL's size was left out: not enough free memory", file=sys.stderr)
    return rows


JOBS: Mapping[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    "copy": lambda told: ours(told.work, told.dtype, "copy", told.repeats),
    "reread": lambda told: ours(told.work, told.dtype, "reread", told.repeats),
    "forward": lambda told: {"forward": forward(told.work, told.repeats)},
}


def main() -> int:
    if sys.argv[1:2] and sys.argv[1] in JOBS:
        told = peers_common.arguments(__doc__)
        hand_over(JOBS[told.job](told))
        return 0
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a model with fewer layers, no SDXL; under 3 minutes")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there")
    parser.add_argument(
        "--webui",
        type=Path,
        action="append",
        default=[],
        metavar="DIR",
        help="an installed AUTOMATIC1111, Forge or reForge; may be given several times",
    )
    parser.add_argument("--work", type=Path, metavar="FOLDER", help="where the temporary model goes (2 GB; SDXL 7 GB)")
    parser.add_argument(
        "--only", action="append", choices=[*DTYPES, "forward", "sdxl"], help="one part; may be given several times"
    )
    told = parser.parse_args()
    rows = collect(told.quick, told.work, webuis(told.webui), told.only or [*DTYPES, "forward", "sdxl"])
    return report(rows, told.json)


if __name__ == "__main__":
    sys.exit(main())
