"""Pictures that we ask each webui to draw: comparisons of checkpoints, and previews of a training."""

import time
import types
from pathlib import Path

import pytest
from PIL import Image
from tests.jobs.fakes import write_model_headers

from lora_atelier.errors import AdapterError, HostError
from lora_atelier.hosts.base import Drawing
from lora_atelier.jobs.previews import Preview
from lora_atelier.jobs.run_dir import Job, RunDir
from lora_atelier.jobs.view import RunView
from lora_atelier.web.services import services


@pytest.fixture
def chosen(webui):
    """A checkpoint of SD 1.x that the webui draws with."""
    fake, host = webui
    path = write_model_headers(fake.folder / "models" / "base")
    info = types.SimpleNamespace(filename=str(path), path=str(path), title="base")
    for module in (fake.sd_models, fake.modules.get("modules.sd_checkpoint")):
        if module is not None:
            module.checkpoints_list["base"] = info
    fake.model.sd_checkpoint_info = info
    return host.current()


def test_a_picture_is_drawn_by_the_webuis_own_sampler_with_the_prompts_loras(webui, add, chosen):
    fake, host = webui
    add("mine")

    plain = host.picture(Drawing(prompt="a cat", seed=7))
    with_it = host.picture(Drawing(prompt="a cat <lora:mine:0.5>", seed=7, width=64, steps=3, negative_prompt="dog"))
    again = host.picture(Drawing(prompt="a cat", seed=7))

    assert plain.mode == "RGB" and plain.size == (chosen.resolution, chosen.resolution)
    assert with_it.getpixel((0, 0)) != plain.getpixel((0, 0)) == again.getpixel((0, 0))
    asked = fake.asked[1]
    assert (asked.seed, asked.width, asked.steps, asked.negative_prompt, asked.sampler_name) == (
        7,
        64,
        3,
        "dog",
        "Euler",
    )
    assert asked.do_not_save_samples and asked.do_not_save_grid and asked.closed
    assert fake.shared.state.jobs == ["lora-atelier"] * 3 and not fake.shared.state.job and not fake.lock.locked()


def test_a_picture_whose_lora_is_not_there_is_none(webui, add, chosen):
    fake, host = webui

    with pytest.raises(AdapterError, match="no LoRA called “nobody”"):
        host.picture(Drawing(prompt="<lora:nobody:1>"))

    assert not fake.lock.locked() and not fake.shared.state.job


@pytest.mark.parametrize("way", ["nothing", "interrupted", "raises"])
def test_a_webui_that_draws_nothing_is_heard_and_free_afterwards(webui, chosen, way):
    fake, host = webui

    def goes_wrong():
        if way == "raises":
            raise RuntimeError("no memory")
        fake.shared.state.interrupted = way == "interrupted"
        return types.SimpleNamespace(images=[1] if way == "interrupted" else [])

    fake.goes_wrong = goes_wrong
    said = {"nothing": "drew nothing", "interrupted": "was interrupted", "raises": "no memory"}[way]
    with pytest.raises(RuntimeError if way == "raises" else HostError, match=said):
        host.picture(Drawing(prompt="a cat"))

    assert not fake.lock.locked() and not fake.shared.state.job


def test_the_checkpoints_of_a_training_are_compared_by_the_webui_itself(webui, add, chosen, tmp_path):
    """Through services, files and the loader, as the page asks for it."""
    fake, host = webui
    add("step-10"), add("step-20", seed=3)
    offered = services(host)
    run = RunDir(tmp_path / "run")
    run.checkpoints_dir.mkdir(parents=True)
    for name in ("step-10", "step-20"):
        step = int(name[5:])
        source = Path(fake.lora_dir()) / f"{name}.safetensors"
        (run.checkpoints_dir / f"momo-s{step:06d}.safetensors").write_bytes(source.read_bytes())
    said = dict.fromkeys(("id", "name", "goal", "trigger", "whose", "lora_dir", "base_model", "pictures"), "momo")
    view = RunView(run=run, job=Job(**said, created=0.0), status="stopped")

    offered.comparison.start(view, prompt="a cat", weights=[0.5, 1])
    deadline = time.monotonic() + 20
    while (grid := offered.comparison.state(run, "en"))["state"] == "drawing":
        assert time.monotonic() < deadline
        time.sleep(0.02)

    assert grid["state"] == "finished", grid
    drawn = [Image.open(run.path / "compare" / name).getpixel((0, 0)) for name in grid["files"] if name != "grid.png"]
    assert len(drawn) == len(set(drawn)) == 4
    assert not list(Path(fake.lora_dir()).rglob("atelier-compare-*"))


def test_a_training_is_previewed_by_the_webui_where_that_keeps_the_same_model(webui, add, chosen):
    fake, host = webui
    add("mine")
    previews = services(host).previews
    fake.opts.atelier_gpu = "wait"
    assert not previews._is_ready(chosen.path)
    fake.opts.atelier_gpu = "keep"
    assert previews._is_ready(chosen.path) and not previews._is_ready(chosen.path.with_name("another"))

    asked = Preview(prompt="a cat <lora:mine:1>", negative_prompt="", seed=3, width=64, height=96, steps=4,
                    cfg_scale=5.5, sampler="DDIM")  # fmt: skip
    picture = previews._draw(asked)

    assert picture.size == (64, 96) and (fake.asked[0].cfg_scale, fake.asked[0].sampler_name) == (5.5, "DDIM")
