"""While a training has the graphics card, each webui's pictures and the embedded host's wait, and say so."""

import threading
import time
import types

import pytest

pytest.importorskip("torch")

from lora_atelier.errors import message
from lora_atelier.hosts import lease
from lora_atelier.hosts.embedded import EmbeddedHost, GenerateRequest
from lora_atelier.hosts.webui import GPU_OPTION
from lora_atelier.locking import FileLock

KINDS = ("a1111", "forge", "reforge", "forge-classic", "sdnext")
SAID = message("LoRA training holds the graphics card: step {step} of {steps}.", step=3, steps=9)


@pytest.fixture(autouse=True)
def quickly(monkeypatch):
    monkeypatch.setattr(lease, "_POLL_S", 0.02)


@pytest.fixture(params=KINDS)
def webui(request, make_webui):
    """A webui whose own functions note when its memory is given away and fetched."""
    fake, host = make_webui(request.param)
    fake.moved = moved = []

    def note(what):
        return lambda *args, **options: moved.append(what)

    management = types.SimpleNamespace(unload_all_models=note("away"), soft_empty_cache=note("emptied"))
    fake.sd_models.send_model_to_cpu = note("away")
    fake.sd_models.send_model_to_device = note("back")
    fake.sd_models.unload_model_weights = note("away")
    for name, values in {
        "modules.devices": {"torch_gc": note("emptied")},
        "modules.processing": {"need_global_unload": False},
        "backend.memory_management": vars(management),
        "ldm_patched.modules.model_management": vars(management),
    }.items():
        if name.rpartition(".")[0] in fake.modules:
            if name not in fake.modules:
                fake.add(name, **values)
            else:
                fake.modules[name].__dict__.update(values)
    from tests.hosts.fakes import install

    with pytest.MonkeyPatch.context() as patch:
        install(fake, patch)
        yield fake, host


def shown(fake):
    """What the webui shows of the picture that is made."""
    return getattr(fake.shared.state, "textinfo", None)


def drawing(fake, host):
    """A generation, as far as its scripts are asked before it, in a thread as the webui has one."""

    def draw():
        with fake.modules["modules.call_queue"].queue_lock:
            host.wait_for_gpu()
            fake.moved.append("drawn")

    thread = threading.Thread(target=draw, daemon=True)
    thread.start()
    return thread


def until(what):
    deadline = time.monotonic() + 10
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_generation_waits_visibly_for_a_training_and_has_the_card_afterwards(webui):
    fake, host = webui
    before = shown(fake)
    assert host.lease.lend(True) and fake.moved[0] == "away"
    training = [SAID]
    host.lease.going_on = lambda: training[0] if training else None

    thread = drawing(fake, host)
    until(lambda: shown(fake) == str(SAID))
    assert "drawn" not in fake.moved

    training.clear()
    host.lease.lend(False)
    thread.join(10)
    assert fake.moved[-1] == "drawn" and shown(fake) == before
    if fake.kind == "a1111":  # the others read it again when they draw
        assert fake.moved[-2] == "back"
    assert fake.modules["modules.call_queue"].queue_lock.acquire(blocking=False)


def test_sdnexts_narrow_button_says_how_far_the_training_is_and_its_log_the_whole(make_webui, caplog):
    fake, host = make_webui("sdnext")
    fake.shared.state.job = "Process"

    with caplog.at_level("INFO", "sd"):
        host.say_waiting(SAID)
        host.say_waiting(SAID)
    assert fake.shared.state.job == "LoRA training 3 / 9"
    assert [record.getMessage() for record in caplog.records] == [str(SAID)]

    host.say_waiting(None)
    assert fake.shared.state.job == "Process" and fake.shared.state.textinfo is None


def test_a_generation_that_is_interrupted_waits_no_longer(webui):
    fake, host = webui
    host.lease.lend(True)
    host.lease.going_on = lambda: SAID
    thread = drawing(fake, host)
    until(lambda: shown(fake) == str(SAID))

    fake.shared.state.interrupted = True

    thread.join(10)
    assert not thread.is_alive() and shown(fake) != str(SAID)


def test_what_is_set_says_whether_pictures_wait(webui):
    fake, host = webui
    host.lease.going_on = lambda: SAID

    setattr(fake.opts, GPU_OPTION, "share")
    assert host.lease.lend(True) and "away" in fake.moved
    drawing(fake, host).join(10)
    assert fake.moved[-1] == "drawn"

    fake.moved.clear()
    host.lease.lend(False)
    setattr(fake.opts, GPU_OPTION, "keep")
    assert host.lease.lend(True) and "away" not in fake.moved
    setattr(fake.opts, GPU_OPTION, "a word of an older version")
    assert host.lease.state()["mode"] == "wait"


def test_while_a_picture_is_drawn_nothing_is_taken_away(webui):
    fake, host = webui
    with fake.modules["modules.call_queue"].queue_lock:
        assert host.lease.lend(True) is False

    assert fake.moved == []


# --- the embedded host


@pytest.fixture
def embedded(tiny_model_folder, tmp_path):
    return EmbeddedHost(tiny_model_folder, tmp_path, device="cpu", gpu_mode="wait")


def ask():
    return GenerateRequest(prompt="a cat", steps=1, width=64, height=64, seed=1)


def test_the_embedded_hosts_pictures_wait_and_its_model_is_gone_meanwhile(embedded):
    embedded.model()
    training, said, made = [SAID], [], []
    embedded.lease.going_on = lambda: training[0] if training else None
    assert embedded.lease.lend(True) and embedded._model is None

    thread = threading.Thread(target=lambda: made.append(embedded.generate(ask(), on_wait=said.append)), daemon=True)
    thread.start()
    until(lambda: said)
    assert made == [] and embedded._model is None
    training.clear()

    thread.join(60)
    assert len(made[0].images) == 1 and str(said[0]) == str(SAID)


def test_stop_ends_the_waiting_too(embedded):
    said, made = [], []
    embedded.lease.going_on = lambda: SAID
    thread = threading.Thread(target=lambda: made.append(embedded.generate(ask(), on_wait=said.append)), daemon=True)
    thread.start()
    until(lambda: said)

    embedded.cancel()

    thread.join(10)
    assert made[0].images == [] and "0 of 1" in str(made[0].comments[0])


def test_on_a_processor_nobody_waits(tiny_model_folder, tmp_path):
    host = EmbeddedHost(tiny_model_folder, tmp_path, device="cpu")
    host.lease.going_on = lambda: SAID

    assert host.lease.lend(True)
    assert len(host.generate(ask()).images) == 1


# --- a webui that is started again


def test_a_start_sees_trainings_that_go_on_or_wait_without_reading_them(tmp_path):
    from lora_atelier.ui import webui as entry

    host = types.SimpleNamespace(data_dir=tmp_path)
    assert not entry._goes_on(host)
    run = tmp_path / "runs" / "one"
    run.mkdir(parents=True)
    held = FileLock(run / "lock")
    assert held.acquire() and entry._goes_on(host)

    held.release()
    assert not entry._goes_on(host)
    (run / "queued").write_text("0\n")
    assert entry._goes_on(host)
