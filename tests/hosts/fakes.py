"""A small fake of what webuis are to an extension, written from what is known of them: one variant for each.

Every variant keeps the order of calls that its webui has: a prompt is parsed through ``modules.extra_networks``, every
registered network is activated with what was found, those that were not mentioned with nothing, and then the model
draws: here, it adds up its weights.
"""

import re
import sys
import threading
import types
from collections import defaultdict
from pathlib import Path

import torch
from PIL import Image
from torch import nn

from .fake_parts import (
    WIDTH,
    Embedding,
    EmbeddingDatabase,
    ExtraNetwork,
    ForgeEmbeddingDatabase,
    NextState,
    Params,
    Processing,
    State,
    TextEncoder,
    Tokenizer,
    Txt2Img,
    ldm_unet,
    text_model,
    tree,
)


class FakeWebui:
    """One webui: its modules are importable as long as ``installed``."""

    kind = ""
    git_names = ()

    def __init__(self, folder):
        self.folder = Path(folder)
        (self.folder / "models" / "Lora").mkdir(parents=True)
        self.cached_c, self.cached_uc = [None, None], [None, None]
        self.modules = {}
        self.builtin = BuiltinLora(self)
        self.model = None
        self._make()
        self.load("first")

    # --- the modules that extensions import

    def add(self, name, **values):
        """A module; a package if others are below it."""
        module = types.ModuleType(name)
        module.__dict__.update(values)
        module.__path__ = []
        module.__spec__ = types.SimpleNamespace(name=name, submodule_search_locations=[])
        parent, _, last = name.rpartition(".")
        if parent:
            setattr(self.modules[parent], last, module)
        self.modules[name] = module
        return module

    def _make(self):
        self.add("modules")
        self.add("modules.paths", script_path=str(self.folder), data_path=self.data_path(), models_path="models")
        self.opts = types.SimpleNamespace(sd_model_checkpoint="first", localization="None")
        flags = {"lora_dir": self.lora_dir(), "listen": False, "share": False, "server_name": None}
        self.cmd_opts = types.SimpleNamespace(**flags)
        state = NextState() if self.kind == "sdnext" else State()
        self.shared = self.add("modules.shared", opts=self.opts, cmd_opts=self.cmd_opts, state=state)
        self.extra_networks = self.add(
            "modules.extra_networks",
            ExtraNetwork=ExtraNetwork,
            ExtraNetworkParams=Params,
            extra_network_registry={},
            parse_prompts=parse_prompts,
        )
        self.extra_networks.register_extra_network = self.register
        self.extensions = self.add("modules.extensions", extensions=[])
        self.model_data = types.SimpleNamespace(sd_model=None)
        self.sd_models = self.add("modules.sd_models", model_data=self.model_data, checkpoints_list={})
        self.asked, self.lock, self.goes_wrong = [], threading.Lock(), None
        self.add("modules.call_queue", queue_lock=self.lock)
        self.add("modules.processing", StableDiffusionProcessingTxt2Img=Txt2Img, process_images=self.process_images)

    def process_images(self, p):
        """A picture whose colour is what the weights add up to."""
        assert self.lock.locked() and self.shared.state.job and p.sd_model is self.shared.sd_model
        self.asked.append(p)
        weights, _ = self.draw(p.prompt)
        if self.goes_wrong is not None:
            return self.goes_wrong()
        total = sum(float(each.double().abs().sum()) * (at + 1) for at, each in enumerate(weights))
        number = int(total * 1e6)
        colour = tuple(number >> shift & 255 for shift in (16, 8, 0))
        return types.SimpleNamespace(images=[Image.new("RGBA", (p.width, p.height), (*colour, 255))])

    def data_path(self):
        return str(self.folder)

    def lora_dir(self):
        return str(self.folder / "models" / "Lora")

    def register(self, network):
        self.extra_networks.extra_network_registry[network.name] = network

    # --- a model

    def make_model(self):
        raise NotImplementedError

    def load(self, title):
        """Another model in place of the last one."""
        torch.manual_seed(len(title))
        self.model = self.make_model()
        self.model_data.sd_model = self.shared.sd_model = self.model

    def weights(self):
        """What the model would draw with."""
        raise NotImplementedError

    # --- words that stand for vectors

    def add_embeddings(self):
        """The database that A1111 and its nearer relatives have."""
        self.add("modules.textual_inversion")
        self.add("modules.textual_inversion.textual_inversion", Embedding=Embedding)
        self.embeddings = EmbeddingDatabase()
        if "modules.sd_hijack" not in self.modules:
            self.add("modules.sd_hijack")
        self.modules["modules.sd_hijack"].model_hijack = types.SimpleNamespace(embedding_db=self.embeddings)

    def words(self):
        """What prompts can name now: words -> vectors."""
        return self.embeddings.words()

    def own_word(self, name):
        """The person has a file of this name in the folder of embeddings."""
        self.embeddings.register_embedding_by_name(Embedding(torch.zeros(1, WIDTH), name), self.model, name)

    # --- a generation

    def draw(self, prompt):
        """Return the weights that a picture of this prompt is made with, and the generation."""
        p = Processing(prompt, self)
        self.before_batch(p)
        p.prompts, p.extra_network_data = self.extra_networks.parse_prompts(p.prompts)
        self.activate(p, p.extra_network_data)
        self.after_activate(p)
        return self.weights(), p

    def before_batch(self, p):
        pass

    def after_activate(self, p):
        pass

    def activate(self, p, data):
        registry, done = self.extra_networks.extra_network_registry, []
        found = {}
        for name, params in list(data.items()):
            network = registry.get(name) or (registry.get("lora") if name == "lyco" else None)
            if network is not None:
                found.setdefault(network, []).extend(params)
        for network, params in found.items():
            network.activate(p, params)
            done.append(network)
        for network in list(registry.values()):
            if network not in done:
                network.activate(p, [])


def parse_prompts(prompts):
    data = defaultdict(list)

    def found(match):
        data[match[1]].append(Params(match[2].split(":")))
        return ""

    return [re.sub(r"<(\w+):([^>]+)>", found, prompt) for prompt in prompts], data


class BuiltinLora(ExtraNetwork):
    """The webui's own loader: it only notes what it was told."""

    def __init__(self, host):
        super().__init__("lora")
        self.told = []
        self.loaded = []
        self.found = []  # the weights as they were when it was told: what it would copy to restore them
        self.host = host

    def activate(self, p, params, *args, **kwargs):
        self.told.append([list(param.items) for param in params])
        self.loaded = list(params)
        self.found = self.host.weights()


class A1111(FakeWebui):
    """ldm's modules; the builtin's ``networks`` changes a layer when that is called, and keeps what it found there."""

    kind = "a1111"

    def _make(self):
        super()._make()
        self.add("modules.sd_hijack")
        networks = types.ModuleType("networks")
        networks.__file__ = str(self.folder / "extensions-builtin" / "Lora" / "networks.py")
        networks.loaded_networks = []
        networks.listed = 0
        networks.load_networks = lambda names: networks.loaded_networks.clear()
        networks.network_apply_weights = self.give_back
        networks.list_available_networks = lambda: setattr(networks, "listed", networks.listed + 1)
        self.networks = self.modules["networks"] = networks
        self.add_embeddings()

    @staticmethod
    def give_back(module):
        with torch.no_grad():
            module.weight.copy_(module.network_weights_backup)
        module.network_current_names = ()

    def make_model(self):
        model = tree({"model.diffusion_model": ldm_unet(), "cond_stage_model.wrapped.transformer": text_model()})
        model.is_sdxl = model.is_sd2 = False
        return model

    def weights(self):
        parts = (self.model.model.diffusion_model, self.model.cond_stage_model.wrapped.transformer)
        return [parameter.detach().clone() for part in parts for parameter in part.parameters()]


class _Patcher:
    """A model patcher: clones share the model, patches are worked into it before it draws."""

    def __init__(self, host, model, patches=()):
        self.host, self.model, self.patches = host, model, list(patches)

    def clone(self):
        return type(self)(self.host, self.model, self.patches)

    def add_patches(self, *args, **kwargs):
        names = {name for name, _ in self.model.named_parameters()}
        for key, value in self.host.read_patches(self, *args, **kwargs).items():
            assert key in names, key
            self.patches.append((key, value))

    def numbers(self):
        merged = {name: parameter.detach().clone() for name, parameter in self.model.named_parameters()}
        for key, value in self.patches:
            merged[key] = self.host.calculate(merged[key].float(), value, key).to(merged[key].dtype)
        return list(merged.values())


class _Clip:
    def __init__(self, patcher):
        self.patcher, self.cond_stage_model = patcher, patcher.model

    def clone(self):
        return _Clip(self.patcher.clone())

    def add_patches(self, *args, **kwargs):
        self.patcher.add_patches(*args, **kwargs)


class _Objects:
    def __init__(self, unet, clip):
        self.unet, self.clip = unet, clip

    def shallow_copy(self):
        return _Objects(self.unet, self.clip)


class Forge(FakeWebui):
    """``forge_objects``: what a batch draws with is a copy of what was there after the LoRAs were applied."""

    kind = "forge"

    def _make(self):
        super()._make()
        self.calculators = {}
        self.add_backend()

    def add_backend(self):
        self.add("backend")
        self.add("backend.args", dynamic_args={})
        self.add("backend.patcher")
        self.add("backend.patcher.lora", extra_weight_calculators=self.calculators)
        self.add("backend.text_processing")
        self.add("backend.text_processing.textual_inversion", Embedding=Embedding)

    def words(self):
        return self.model.text_processing_engine.embeddings.words()

    def own_word(self, name):
        database = self.model.text_processing_engine.embeddings
        database.register_embedding_by_name(Embedding(torch.zeros(1, WIDTH), name), name)

    def read_patches(self, patcher, *, filename, patches, strength_patch=1.0, online_mode=False):
        patcher.online, patcher.filename = online_mode, filename
        return patches

    def calculate(self, weight, value, key):
        kind, content = value
        return self.calculators[kind](weight, 1.0, content)

    def make_model(self):
        unet = nn.Module()
        unet.add_module("diffusion_model", ldm_unet())
        text = tree({"clip_l.transformer": text_model()})
        objects = _Objects(_Patcher(self, unet), _Clip(_Patcher(self, text)))
        names = ("forge_objects", "forge_objects_original", "forge_objects_after_applying_lora")
        copies = {name: objects.shallow_copy() for name in names}
        engine = types.SimpleNamespace(embeddings=ForgeEmbeddingDatabase())
        return types.SimpleNamespace(**copies, is_sdxl=False, is_sd2=False, text_processing_engine=engine)

    def before_batch(self, p):
        self.model.forge_objects = self.model.forge_objects_original.shallow_copy()

    def after_activate(self, p):
        self.model.forge_objects = self.model.forge_objects_after_applying_lora.shallow_copy()

    def builtin_was_busy(self):
        """Its own loader puts parts of its own there whenever its list changes."""
        self.model.forge_objects_after_applying_lora = self.model.forge_objects_original.shallow_copy()

    def weights(self):
        objects = self.model.forge_objects
        return objects.unet.numbers() + objects.clip.patcher.numbers()


class Classic(Forge):
    """Patches are given by position; the table of kinds is elsewhere."""

    kind = "forge-classic"

    def add_backend(self):
        self.add("ldm_patched")
        self.add("ldm_patched.modules")
        self.add("ldm_patched.modules.model_patcher", extra_weight_calculators=self.calculators)
        self.add_embeddings()

    def words(self):
        return self.embeddings.words()

    def own_word(self, name):
        FakeWebui.own_word(self, name)

    def read_patches(self, patcher, patches, strength):
        return patches


class ReForge(Classic):
    """A patch is an object that gives the changed weight."""

    kind = "reforge"

    def add_backend(self):
        super().add_backend()
        self.add("ldm_patched.modules.weight_adapter")
        self.add("ldm_patched.modules.weight_adapter.base", WeightAdapterBase=type("WeightAdapterBase", (), {}))

    def calculate(self, weight, value, key):
        base = self.modules["ldm_patched.modules.weight_adapter.base"].WeightAdapterBase
        assert isinstance(value, base)
        return value.calculate_weight(weight, key, 1.0, 1.0, None, None, torch.float32, None)


@torch.no_grad()
def load_textual_inversion(vectors, token, tokenizer, text_encoder):
    """As diffusers' pipelines do it: a word for each vector, a row for each word."""
    for at, vector in enumerate(vectors):
        name = token if at == 0 else f"{token}_{at}"
        number = len(text_encoder.table.weight)
        tokenizer._added_tokens_encoder[name], tokenizer._added_tokens_decoder[number] = number, name
        text_encoder.table.weight = nn.Parameter(torch.cat([text_encoder.table.weight, vector[None]]))
        text_encoder.table.num_embeddings = text_encoder.config.vocab_size = number + 1


class SdNext(FakeWebui):
    """diffusers' modules in a pipeline; other signatures; paths are relative to its folder."""

    kind = "sdnext"

    def _make(self):
        super()._make()
        self.add("installer")
        self.add("modules.sd_offload")
        self.add("modules.sd_checkpoint", checkpoints_list={})
        self.opts.diffusers_offload_mode = "none"
        self.extra_networks.parse_prompts = lambda prompts, extra_data=None: (
            (prompts, extra_data) if extra_data else parse_prompts(prompts)
        )

    def data_path(self):
        return ""

    def lora_dir(self):
        return "models/Lora"

    def make_model(self):
        block = "down_blocks.0.attentions.0.transformer_blocks.0.attn1"
        unet = tree(
            {f"{block}.to_q": nn.Linear(WIDTH, WIDTH, bias=False), f"{block}.to_out.0": nn.Linear(WIDTH, WIDTH)}
        )
        blocks = ("CrossAttnUpBlock2D",)
        unet.config = types.SimpleNamespace(layers_per_block=2, up_block_types=blocks, addition_embed_type=None)
        return types.SimpleNamespace(
            unet=unet, text_encoder=TextEncoder(), tokenizer=Tokenizer(), load_textual_inversion=load_textual_inversion
        )

    def words(self):
        encoder, tokenizer = self.model.text_encoder, self.model.tokenizer
        rows = encoder.table.weight
        assert len(rows) == encoder.table.num_embeddings == 1 + len(tokenizer._added_tokens_encoder)
        assert encoder.config.vocab_size == len(rows)
        names = [name for name in tokenizer._added_tokens_encoder if not re.search(r"_\d+$", name)]
        parts = {name: [name, *(f"{name}_{at}" for at in range(1, 9))] for name in names}
        number = tokenizer._added_tokens_encoder
        return {name: [rows[number[each]].tolist() for each in all_ if each in number] for name, all_ in parts.items()}

    def own_word(self, name):
        self.model.load_textual_inversion(torch.zeros(1, WIDTH), name, self.model.tokenizer, self.model.text_encoder)

    def load(self, title):
        super().load(title)
        self.shared.sd_loaded, self.shared.sd_model, self.shared.sd_model_type = True, self.model, "sd"

    def new_pipeline(self):
        """Each kind of task has a pipeline of its own around the same parts."""
        self.shared.sd_model = types.SimpleNamespace(**vars(self.model))

    def draw(self, prompt):
        p = Processing(prompt, self)
        p.prompts, p.network_data = self.extra_networks.parse_prompts(p.prompts)
        p.prompts, p.network_data = self.extra_networks.parse_prompts(p.prompts, p.network_data)
        self.activate(p, p.network_data)
        weights = self.weights()
        for network in self.extra_networks.extra_network_registry.values():
            if network is not self.builtin:
                network.deactivate(p, force=False)
        return weights, p

    def activate(self, p, data):
        registry = self.extra_networks.extra_network_registry
        exclude = [] if getattr(self.opts, "lora_apply_te", False) else ["text_encoder", "text_encoder_2"]
        for name, params in data.items():
            if name in registry:
                registry[name].activate(p, params, step=0, include=[], exclude=exclude)
        for name, network in registry.items():
            if name not in data:
                network.activate(p, [], include=[], exclude=exclude)

    def weights(self):
        """Hooks beside the layers count as well: what comes out for ones is looked at."""
        found = []
        for part in (self.model.unet, self.model.text_encoder):
            for module in part.modules():
                if isinstance(module, nn.Linear):
                    found.append(module(torch.eye(WIDTH)).detach().clone())
        return found


VARIANTS = (A1111, Forge, ReForge, Classic, SdNext)


def install(host, monkeypatch):
    """Make a fake's modules the importable ones."""
    for name in [name for name in sys.modules if name.split(".")[0] in
                 ("modules", "backend", "ldm_patched", "installer", "networks")]:  # fmt: skip
        monkeypatch.delitem(sys.modules, name)
    for name, module in host.modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    host.register(host.builtin)
