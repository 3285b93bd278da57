"""What only some webuis have: A1111's checkpoints and builtin, Forge's quantised weights, SD.Next's offloading."""

import sys
import types
from pathlib import Path

import pytest
import torch

from lora_atelier.adapters import file
from lora_atelier.hosts import detection

from .layer_names import TEXT, Q, changes


def test_a1111_takes_the_builtins_changes_back_before_ours_are_made(make_webui):
    """Both were on for a moment: the builtin puts its own back when a layer is next called, and ours would be lost."""
    fake, _ = make_webui("a1111")
    layer = fake.model.model.diffusion_model.get_submodule("input_blocks.1.1.transformer_blocks.0.attn1.to_q")
    base = layer.weight.detach().clone()
    layer.network_weights_backup, layer.network_bias_backup, layer.network_current_names = base.clone(), None, (1,)
    with torch.no_grad():
        layer.weight += 1
    down, up = torch.randn(2, 8), torch.randn(8, 2)
    tensors = {f"{Q}.lora_down.weight": down, f"{Q}.lora_up.weight": up}
    file.write(Path(fake.lora_dir()) / "mine.safetensors", tensors, {})

    fake.draw("<lora:mine:1>")
    assert torch.allclose(layer.weight, base + up @ down, atol=1e-5)
    assert layer.network_weights_backup is None

    fake.draw("a cat")
    assert torch.equal(layer.weight, base)


class OnDisk:
    """A1111 with a checkpoint's file that its model was read from, and a LoRA."""

    def __init__(self, make_webui, *, mode="reread", suffix=".safetensors", dtype=torch.float32):
        self.fake, self.host = make_webui("a1111")
        self.model = self.fake.model.to(dtype)
        self.path = self.fake.folder / f"base{suffix}"
        self.stored = {key.replace(".wrapped", ""): each.clone() for key, each in self.model.state_dict().items()}
        self.write(self.stored)
        self.model.sd_checkpoint_info = types.SimpleNamespace(filename=str(self.path))
        self.fake.opts.atelier_originals = mode
        self.reloads = 0
        self.fake.sd_models.reload_model_weights = self.reload
        shapes = {Q: 8, TEXT: 8}
        tensors = {f"{layer}.lora_{end}.weight": torch.randn((2, size) if end == "down" else (size, 2))
                   for layer, size in shapes.items() for end in ("down", "up")}  # fmt: skip
        file.write(Path(self.fake.lora_dir()) / "mine.safetensors", tensors, {})

    def write(self, tensors):
        file.write(self.path, {key: each.float() for key, each in tensors.items()}, {})

    @torch.no_grad()
    def reload(self, forced_reload=False):
        """As the webui does it: into the same model, then its callbacks."""
        assert forced_reload
        self.reloads += 1
        stored = file.read(self.path).tensors
        for key, parameter in self.model.state_dict().items():
            parameter.copy_(stored[key.replace(".wrapped", "")])
        self.host.model_changed()

    @property
    def patcher(self):
        return self.host._patcher


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a1111s_weights_are_read_again_from_the_checkpoint_to_the_bit(make_webui, dtype):
    at = OnDisk(make_webui, dtype=dtype)
    before, _ = at.fake.draw("a cat")

    changed, p = at.fake.draw("<lora:mine:1>")
    assert len(changes(before, changed)) == 2 and p.comments == {}
    assert (at.patcher.changed, at.patcher.copies, at.patcher.rereads) == (2, 0, True)
    other, _ = at.fake.draw("<lora:mine:0.5>")
    again, _ = at.fake.draw("a cat")

    assert changes(changed, other) != [] and changes(before, again) == []


def test_a1111_keeps_copies_where_memory_allows_it_or_that_is_set(make_webui, monkeypatch):
    at = OnDisk(make_webui, mode="copy")
    at.fake.draw("<lora:mine:1>")
    assert at.patcher.copies == 2

    at.fake.opts.atelier_originals = "auto"
    at.fake.draw("<lora:mine:1>")
    assert at.patcher.copies == 2

    monkeypatch.setattr("lora_atelier.memory.available_bytes", lambda device=None: 100)
    at.fake.draw("a cat")
    at.fake.draw("<lora:mine:1>")
    assert at.patcher.copies == 0


@pytest.mark.parametrize(
    ("suffix", "gone", "said"),
    [
        (".ckpt", False, "the checkpoint is no .safetensors file"),
        (".safetensors", True, "the checkpoint's file is gone"),
    ],
)
def test_a1111_says_why_a_checkpoint_can_not_be_read_again_and_keeps_copies(make_webui, suffix, gone, said):
    at = OnDisk(make_webui, suffix=suffix)
    if gone:
        at.path.unlink()
    before, _ = at.fake.draw("a cat")

    _, p = at.fake.draw("<lora:mine:1>")

    assert said in " ".join(p.comments) and at.patcher.copies == 2
    assert changes(before, at.fake.draw("a cat")[0]) == []


def test_a1111_copies_what_is_not_as_the_file_has_it_and_says_so_once(make_webui):
    """Merged in memory, or changed by another extension: the file would give back other weights."""
    at = OnDisk(make_webui)
    with torch.no_grad():
        at.model.get_submodule("cond_stage_model.wrapped.transformer.text_model.encoder.layers.0.self_attn.q_proj"
                               ).weight.add_(1)  # fmt: skip
    before, _ = at.fake.draw("a cat")

    _, p = at.fake.draw("<lora:mine:1>")
    _, q = at.fake.draw("<lora:mine:0.5>")

    assert "Of 2 changed weights 1 are not what the checkpoint's file holds" in " ".join(p.comments)
    assert q.comments == {} and at.patcher.copies == 1
    assert changes(before, at.fake.draw("a cat")[0]) == []


def test_a1111_loads_a_checkpoint_again_that_was_replaced_while_a_lora_was_on(make_webui):
    at = OnDisk(make_webui)
    at.fake.draw("<lora:mine:1>")
    at.write({key: each + 1 for key, each in at.stored.items()})

    _, p = at.fake.draw("a cat")

    assert at.reloads == 1 and "it was loaded again" in " ".join(p.comments)
    after = at.fake.weights()
    assert all(torch.equal(each, stored + 1) for each, stored in zip(after, at.stored.values(), strict=True))
    assert changes(after, at.fake.draw("<lora:mine:1>")[0]) != []


def test_a1111s_list_is_refreshed_when_a_lora_was_written(make_webui):
    fake, host = make_webui("a1111")

    host.refresh_adapters()

    assert fake.networks.listed == 1


@pytest.mark.parametrize("kind", ["forge", "reforge", "forge-classic"])
def test_forges_builtin_may_replace_the_parts_at_any_time(make_webui, kind):
    fake, _ = make_webui(kind)
    tensors = {f"{Q}.lora_down.weight": torch.ones(2, 8), f"{Q}.lora_up.weight": torch.ones(8, 2)}
    file.write(Path(fake.lora_dir()) / "mine.safetensors", tensors, {})
    before, _ = fake.draw("a cat")
    after, _ = fake.draw("<lora:mine:1>")

    fake.builtin_was_busy()

    assert changes(after, fake.draw("<lora:mine:1>")[0]) == []
    fake.builtin_was_busy()
    assert changes(before, fake.draw("a cat")[0]) == []
    assert fake.model.forge_objects_original.unet.patches == []


@pytest.mark.parametrize(("dtype", "online"), [(torch.float16, False), ("nf4", True)])
def test_forge_adds_to_quantised_weights_on_every_call_where_the_person_asked_for_it(make_webui, dtype, online):
    fake, _ = make_webui("forge")
    fake.modules["backend.args"].dynamic_args["online_lora"] = True
    fake.model.forge_objects.unet.model.storage_dtype = dtype
    tensors = {f"{Q}.lora_down.weight": torch.ones(2, 8), f"{Q}.lora_up.weight": torch.ones(8, 2)}
    file.write(Path(fake.lora_dir()) / "mine.safetensors", tensors, {})

    fake.draw("<lora:mine:1>")
    first = fake.model.forge_objects.unet.filename
    assert fake.model.forge_objects.unet.online is online

    fake.draw("<lora:mine:0.5>")
    assert fake.model.forge_objects.unet.filename != first


def test_sdnexts_pipelines_around_the_same_parts_are_one_model(make_webui):
    fake, host = make_webui("sdnext")
    layers = host.layers()

    fake.new_pipeline()
    host.model_changed()

    assert host.layers() is layers


@pytest.mark.parametrize("mode", ["balanced", "model"])
def test_sdnexts_moving_weights_are_not_written(make_webui, mode):
    fake, host = make_webui("sdnext")
    fake.opts.diffusers_offload_mode = mode
    tensors = {f"{Q}.lora_down.weight": torch.ones(2, 8), f"{Q}.lora_up.weight": torch.ones(8, 2)}
    file.write(Path(fake.lora_dir()) / "mine.safetensors", tensors, {})
    before, weight = fake.draw("a cat")[0], host.layers()[Q].view("weight").clone()

    after, _ = fake.draw("<lora:mine:1>")

    assert changes(before, after) != []
    assert torch.equal(host.layers()[Q].view("weight"), weight)
    assert changes(before, fake.draw("a cat")[0]) == []


def test_sdnexts_sequential_offload_is_refused_in_a_sentence(make_webui):
    fake, _ = make_webui("sdnext")
    fake.opts.diffusers_offload_mode = "sequential"
    tensors = {f"{Q}.lora_down.weight": torch.ones(2, 8), f"{Q}.lora_up.weight": torch.ones(8, 2)}
    file.write(Path(fake.lora_dir()) / "mine.safetensors", tensors, {})

    _, p = fake.draw("<lora:mine:1>")

    assert "“sequential” keeps no weights" in " ".join(p.comments)


def test_where_there_is_no_webui_nothing_is_made(monkeypatch):
    for name in list(sys.modules):
        if name.split(".")[0] in ("modules", "backend", "ldm_patched", "installer"):
            monkeypatch.delitem(sys.modules, name)

    assert detection.make() is None
