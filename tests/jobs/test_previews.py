import json
import os
import time

import pytest
from PIL import Image

from lora_atelier.errors import HostError
from lora_atelier.jobs.previews import FOLDER, READY, Previews
from lora_atelier.jobs.run_dir import RunDir
from lora_atelier.jobs.view import RunView
from lora_atelier.locking import FileLock

pytestmark = pytest.mark.torchfree


class Host:
    """Notes what it is to draw, and with which adapters in its folder."""

    def __init__(self, jobs):
        self.jobs, self.drawn, self.refreshed, self.models, self.fails = jobs, [], 0, [], None
        self.ready = True

    def draw(self, preview):
        names = sorted(path.stem for path in self.jobs.lora_dir.rglob("atelier-preview-*.safetensors"))
        self.drawn.append((preview, names))
        if self.fails is not None:
            raise self.fails
        return Image.new("RGB", (8, 8), "red")

    def is_ready(self, model):
        self.models.append(model)
        return self.ready

    def refresh(self):
        self.refreshed += 1


@pytest.fixture
def host(jobs):
    return Host(jobs)


@pytest.fixture
def previews(jobs, host):
    return Previews(jobs, draw=host.draw, is_ready=host.is_ready, refresh=host.refresh)


@pytest.fixture
def run(jobs, form):
    """A run whose trainer is at work, as far as its lock tells."""
    run = jobs.create(form)
    run.mark_started()
    lock = FileLock(run.lock_path)
    assert lock.acquire()
    yield run
    lock.release()


def ask(run, step=10, count=2, **changes):
    """What a trainer leaves in the run's folder."""
    folder = run.path / FOLDER
    folder.mkdir(exist_ok=True)
    (folder / f"step-{step:06d}.safetensors").write_bytes(b"adapter")
    plain = {"negative_prompt": "", "width": 64, "height": 96, "seed": 7, "steps": 4, "cfg_scale": 5.5, "sampler": ""}
    pictures = [
        {**plain, "file": f"step-{step:06d}-{at:02d}.png", "prompt": f"momo {at}"} for at in range(1, count + 1)
    ]
    path = folder / f"step-{step:06d}.json"
    path.write_text(json.dumps({"schema": 1, "step": step, "pictures": pictures, **changes}))
    return path


def until(condition):
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_the_host_draws_what_the_trainer_asks_for_with_the_adapter_beside_it(previews, host, run, jobs, form):
    asked = ask(run)

    previews.tick()
    until(lambda: not asked.exists())

    assert sorted(path.name for path in run.samples_dir.iterdir()) == ["step-000010-01.png", "step-000010-02.png"]
    (first, names), (second, _) = host.drawn
    assert first.prompt == f"momo 1 <lora:{names[0]}:1>" and second.prompt.startswith("momo 2 <lora:")
    assert (first.width, first.height, first.seed, first.steps, first.cfg_scale) == (64, 96, 7, 4, 5.5)
    assert host.models == [form.base_model]
    # Nothing is left: neither a name that prompts could call nor what was asked for.
    assert not list(jobs.lora_dir.rglob("atelier-preview-*")) and host.refreshed == 2
    assert [path.name for path in (run.path / FOLDER).iterdir()] == [READY]


def test_a_host_that_can_not_draw_now_says_nothing_and_takes_nothing(previews, host, run):
    host.ready = False
    asked = ask(run)

    previews.tick()

    assert asked.exists() and not (run.path / FOLDER / READY).exists() and host.drawn == []


def test_readiness_is_said_again_and_again_for_runs_that_go_on_alone(previews, run, jobs, form):
    other = jobs.create(form)
    previews.tick()
    ready = run.path / FOLDER / READY
    os.utime(ready, (1, 1))

    previews.tick()

    assert ready.stat().st_mtime > time.time() - 60
    assert not (other.path / FOLDER).exists()


@pytest.mark.parametrize("error", [HostError("LoRA “x” was not applied."), RuntimeError("out of memory"), KeyError()])
def test_what_could_not_be_drawn_is_said_to_the_trainer(previews, host, run, error):
    host.fails = error

    previews.draw_step(run, ask(run, count=1))

    said = (run.path / FOLDER / "step-000010-01.png.failed").read_text(encoding="utf-8")
    assert (str(error) or type(error).__name__) in said
    assert not (run.path / FOLDER / "step-000010.json").exists()


@pytest.mark.parametrize("changes", [{"schema": 2}, {"pictures": [{}]}, {"pictures": 3}])
def test_what_makes_no_sense_is_put_away(previews, host, run, changes):
    asked = ask(run, **changes)

    previews.draw_step(run, asked)

    assert host.drawn == [] and not asked.exists()


def test_a_file_can_not_name_a_place_outside_of_the_samples(previews, run):
    asked = ask(run, count=1)
    said = json.loads(asked.read_text())
    said["pictures"][0]["file"] = "../../escaped.png"
    asked.write_text(json.dumps(said))

    previews.draw_step(run, asked)

    assert (run.samples_dir / "escaped.png").is_file() and not (run.path.parent / "escaped.png").exists()


def test_its_thread_goes_on_after_an_error_and_ends_when_told(previews, run, monkeypatch):
    monkeypatch.setattr("lora_atelier.jobs.previews._POLL_S", 0.02)
    monkeypatch.setattr(previews._jobs, "list", lambda: 1 / 0)
    previews.start()
    time.sleep(0.1)
    view = RunView(run=RunDir(run.path), job=run.job(), status="running")
    monkeypatch.setattr(previews._jobs, "list", lambda: [view])

    until(lambda: (run.path / FOLDER / READY).exists())
    previews.end()
