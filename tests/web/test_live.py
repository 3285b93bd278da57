"""What following trainings costs the host: ten runs of ten thousand events, and five hundred pictures."""

import time

import pytest

pytestmark = pytest.mark.torchfree
pytest.importorskip("fastapi")
pytest.importorskip("httpx")

from tests.web.conftest import connect, png  # noqa: E402

from lora_atelier import events  # noqa: E402
from lora_atelier.jobs.run_dir import Job, RunDir  # noqa: E402
from lora_atelier.locking import FileLock  # noqa: E402

V1 = "/lora-atelier/v1"
STEPS = 10_000


@pytest.fixture
def ten_runs(services):
    runs = []
    for number in range(10):
        run = RunDir(services.jobs.runs_dir / f"2026010{number}-000000-abcd-run{number}")
        run.path.mkdir(parents=True)
        Job(
            id=run.id, name=f"run{number}", goal="object", trigger="x", whose="mine", lora_dir="", base_model="",
            pictures="", created=float(number),
        ).write(run.job_path)  # fmt: skip
        stepped = {"learning_rate": 1e-4, "seconds_per_step": 0.1, "seconds_left": 9.0}
        lines = [events.to_line(events.Started(steps=STEPS), 1.0)]
        lines += [
            events.to_line(events.Stepped(step=step, steps=STEPS, loss=0.1, **stepped), 1.0)
            for step in range(1, STEPS - 1)
        ]
        run.events_path.write_text("".join(lines), encoding="utf-8")
        runs.append(run)
    lock = FileLock(runs[5].lock_path)
    assert lock.acquire()
    yield runs
    lock.release()


def cpu_seconds(work, times):
    before = time.process_time()
    for _ in range(times):
        work()
    return (time.process_time() - before) / times


def test_following_costs_less_than_a_hundredth_of_a_core(services, ten_runs):
    """A page asks for its run each second and for all runs every third; the queue looks each second."""
    from lora_atelier.web.run_routes import run_json

    jobs, queue, run = services.jobs, services.queue, ten_runs[5]
    jobs.list()  # reads what was said before, once
    offset = run.events_path.stat().st_size

    def live():
        events.read(run.events_path, offset)
        run_json(jobs.view(run), services, "en")

    listed = cpu_seconds(lambda: [run_json(view, services, "en") for view in jobs.list()], 10)
    a_second = cpu_seconds(live, 50) + listed / 3 + cpu_seconds(queue.tick, 20)

    assert a_second < 0.01, a_second


def test_a_page_with_ten_long_runs_is_told_everything_in_a_second(services, ten_runs):
    client = connect(services)
    before = time.process_time()

    runs = client.get(f"{V1}/runs").json()["runs"]
    live = client.get(f"{V1}/runs/{ten_runs[5].id}/live").json()

    assert time.process_time() - before < 1.0  # nothing was read before
    assert len(runs) == 10 and runs[4]["status"] == "running" and runs[4]["step"] == STEPS - 2
    assert len(live["events"]) < 700 and live["events"][-1]["step"] == STEPS - 2


def test_five_hundred_pictures_that_were_seen_are_listed_at_once(client, services):
    upload = client.post(f"{V1}/uploads").json()["upload"]
    folder = services.uploads.get(upload)
    for number in range(500):
        (folder.source / f"{number:03}.png").write_bytes(png((number % 256, number // 2, 9), size=(70, 64)))
    while folder.look_on(60):
        pass
    before = time.process_time()

    listing = client.get(f"{V1}/uploads/{upload}", params={"count": 60}).json()

    assert time.process_time() - before < 1.0
    assert listing["total"] == listing["looked"] == 500 and len(listing["pictures"]) == 60
