"""What following trainings costs the host, and how soon a page can be used: 10 runs of 10 000 steps, 500 pictures.

    python benchmarks/page.py [--quick] [--seconds N] [--json FILE]

The embedded host is served as ``demo`` serves it, in a process of its own, whose CPU time the system counts; it draws
nothing. One of the runs goes on: this program holds its lock and tells of a step each second. Chromium looks at the
page; without it (or playwright) only the routes are measured.

Cold: the host was just started and has read nothing. Warm: the page is loaded again by a new browser. "usable" is
counted from the click on the tab to the moment that its content can be used: the curve of the run that goes on, the
first pictures' thumbnails. What Gradio's server takes when nothing happens is a row of its own: the host alone.

Beside the wall seconds of a page, which are judged, stand the processor's seconds of host and browser, and at the end
the machine's load: where other programs compute meanwhile, the wall seconds are theirs as well.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "extension"), str(ROOT)]

from benchmarks.results import Row, report  # noqa: E402

from lora_atelier import events  # noqa: E402
from lora_atelier.jobs.run_dir import Job, RunDir  # noqa: E402
from lora_atelier.locking import FileLock  # noqa: E402

RUNS, STEPS, PICTURES = 10, 10_000, 500
LIVE_BUDGET, OPEN_BUDGET_S = 0.01, 1.0
MINUTES = 5  # of a page's questions, asked at once
PATIENCE_MS = 120_000
# The page itself notes when it was there.
WATCH = """
window.atelierTimes = {};
const mark = (name, found) => {
    if (found && !(name in window.atelierTimes)) window.atelierTimes[name] = performance.now();
};
new MutationObserver(() => {
    mark("curve", document.querySelector("#atelier_chart path"));
}).observe(document, { childList: true, subtree: true });
// Of a picture that is shown, not of its empty frame.
document.addEventListener("load", (event) => mark("pictures", event.target.closest(".atelier-tile")), true);
"""


# ------------------------------------------------------------------------------------------------ what is looked at


def write_runs(data: Path) -> list[RunDir]:
    """Ten runs, each with the events of 10 000 steps, of which a tenth measured, sampled and kept something."""
    runs = []
    for number in range(RUNS):
        run = RunDir(data / "runs" / f"2026010{number}-000000-abcd-run{number}")
        run.path.mkdir(parents=True)
        words = {"name": f"run{number}", "goal": "object", "trigger": "x", "whose": "mine", "family": "toy"}
        Job(id=run.id, lora_dir="", base_model="", pictures="", created=float(number), **words).write(run.job_path)
        lines = [events.to_line(events.Started(steps=STEPS, device="cpu"), 1.0)]
        for step in range(1, STEPS - 600):
            lines.append(events.to_line(stepped(step), float(step)))
            if step % 1000 == 0:
                lines.append(events.to_line(events.Validated(step=step, loss=0.1), float(step)))
                lines.append(events.to_line(events.Saved(step=step, file=f"run{number}-s{step:06d}.safetensors"), step))
        if number != RUNS - 1:
            lines.append(events.to_line(events.Stopped(step=STEPS - 601), float(STEPS)))
        run.events_path.write_text("".join(lines), encoding="utf-8")
        run.started_path.write_text("1.0 0\n", encoding="ascii")
        runs.append(run)
    return runs


def stepped(step: int) -> events.Stepped:
    """A step's words."""
    return events.Stepped(
        step=step, steps=STEPS, loss=0.1 + 1 / (step + 9), learning_rate=1e-4, seconds_per_step=1.0, seconds_left=9.0
    )


def write_pictures(folder: Path) -> None:
    """Photographs of 512 px, none like another."""
    from PIL import Image

    folder.mkdir()
    for number in range(PICTURES):
        noise = Image.effect_noise((64, 64), 90).resize((512, 512)).convert("RGB")
        noise.save(folder / f"{number:03}.jpg", quality=85)


@contextmanager
def going_on(run: RunDir) -> Iterator[None]:
    """Somebody trains: the lock is held, and there is a step each second."""
    lock, ended = FileLock(run.lock_path), threading.Event()
    if not lock.acquire():
        raise RuntimeError("the run's lock is held by another")

    def tell() -> None:
        log, step = events.Appender(run.events_path), STEPS - 600
        while not ended.wait(1.0):
            log.add(stepped(step))
            step += 1

    teller = threading.Thread(target=tell, daemon=True)
    teller.start()
    try:
        yield
    finally:
        ended.set()
        teller.join()
        lock.release()


# ------------------------------------------------------------------------------------------------ the host


class Server:
    """The embedded host; ``cpu_seconds`` is what the system counted of it."""

    def __init__(self, data: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self.url = f"http://127.0.0.1:{self.port}/"
        command = [sys.executable, "-m", "lora_atelier", "demo", "--no-browser", "--port", str(self.port)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT / "extension"), "OMP_WAIT_POLICY": "PASSIVE"}
        self._log = (data / "server.log").open("ab")
        self._process = subprocess.Popen(
            [*command, "--data-dir", str(data)], stdout=self._log, stderr=subprocess.STDOUT, env=environment
        )
        deadline = time.monotonic() + 180
        while True:
            try:
                with socket.create_connection(("127.0.0.1", self.port), timeout=2):
                    return
            except OSError:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError((data / "server.log").read_text(encoding="utf-8")) from None
                time.sleep(0.2)

    def cpu_seconds(self) -> float:
        """User and system time so far."""
        fields = Path(f"/proc/{self._process.pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def spent(self, seconds: float) -> float:
        """The share of a core that it takes during so many seconds."""
        before, began = self.cpu_seconds(), time.monotonic()
        time.sleep(seconds)
        return (self.cpu_seconds() - before) / (time.monotonic() - began)

    def get(self, path: str) -> tuple[Any, float]:
        """A route's answer, and the wall seconds it took."""
        began = time.perf_counter()
        with urllib.request.urlopen(f"{self.url}lora-atelier/v1/{path}", timeout=60) as said:
            return json.loads(said.read()), time.perf_counter() - began

    def end(self) -> None:
        """End it."""
        self._process.terminate()
        self._process.wait()
        self._log.close()


# ------------------------------------------------------------------------------------------------ measuring


def seconds(name: str, value: float, budget: float | None = None) -> Row:
    """A row of seconds."""
    return Row(name, round(value, 3), "s", None, None, budget, value <= budget if budget else None)


def share(name: str, value: float, budget: float | None = None) -> Row:
    """A row of a core's share."""
    return Row(name, round(100 * value, 2), "% of a core", None, None, 100 * budget if budget else None,
               value <= budget if budget else None)  # fmt: skip


def route_rows(server: Server, run: RunDir, when: str) -> Iterator[Row]:
    """What the page asks for when it opens."""
    for name, path in (("list of runs", "runs"), ("one run whole", f"runs/{run.id}/live?since=0")):
        yield seconds(f"{name}, {when}", server.get(path)[1], OPEN_BUDGET_S)


@dataclass(frozen=True)
class Taken:
    """Wall seconds, and the processor's of the host and of the browser."""

    wall_s: float
    cpu_s: float

    def rows(self, name: str) -> Iterator[Row]:
        """Both, the first one judged."""
        yield seconds(name, self.wall_s, OPEN_BUDGET_S)
        yield Row(f"{name}: host and browser", round(self.cpu_s, 2), "CPU s", None, None, None, None)


def browser_cpu_seconds() -> float:
    """User and system time so far of every Chromium below this program."""
    found: dict[int, tuple[int, str, float]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            head, _, rest = path.read_text(encoding="utf-8", errors="replace").rpartition(")")
        except OSError:
            continue
        fields = rest.split()
        ticks = int(fields[11]) + int(fields[12])
        found[int(path.parent.name)] = (int(fields[1]), head.partition("(")[2], ticks / os.sysconf("SC_CLK_TCK"))

    def is_ours(pid: int) -> bool:
        while pid in found and pid != os.getpid():
            pid = found[pid][0]
        return pid == os.getpid()

    return sum(spent for pid, (_, name, spent) in found.items() if name.startswith("chrom") and is_ours(pid))


def open_page(browser: Any, server: Server, wanted: str, draft: str = "") -> tuple[Any, Taken]:
    """A new browser's page once ``wanted`` is there, and what it took from the click on our tab to that."""
    context = browser.new_context(viewport={"width": 1280, "height": 900}, locale="en-US")
    context.set_default_timeout(PATIENCE_MS)
    page = context.new_page()
    page.add_init_script(WATCH)
    if draft:
        page.add_init_script(f"sessionStorage.setItem('atelier_draft', {json.dumps(draft)});"
                             """sessionStorage.setItem('atelier_place', '{"page": "new"}');""")  # fmt: skip
    page.goto(server.url)
    tab = page.get_by_role("tab", name="LoRA Atelier")
    tab.wait_for()
    return page, clicked(page, tab, wanted, server)


def clicked(page: Any, button: Any, wanted: str, server: Server) -> Taken:
    """What it takes from a click to the moment that ``wanted`` is there."""
    before = server.cpu_seconds() + browser_cpu_seconds()
    page.evaluate("window.atelierClicked = performance.now()")
    button.click()
    page.wait_for_function(f"'{wanted}' in window.atelierTimes", polling=50)
    spent = server.cpu_seconds() + browser_cpu_seconds() - before
    return Taken(float(page.evaluate(f"(window.atelierTimes['{wanted}'] - window.atelierClicked) / 1000")), spent)


def asked_rows(server: Server, run: RunDir) -> Iterator[Row]:
    """The CPU time of what a page asks for in a minute: its run each second, all runs every third."""
    offset = server.get(f"runs/{run.id}/live?since=0")[0]["next"]
    connection = http.client.HTTPConnection("127.0.0.1", server.port)
    before = server.cpu_seconds()
    for second in range(MINUTES * 60):
        paths = [f"runs/{run.id}/live?since={offset}", *(["runs"] if second % 3 == 0 else [])]
        for path in paths:
            connection.request("GET", f"/lora-atelier/v1/{path}")
            connection.getresponse().read()
    taken = (server.cpu_seconds() - before) / (MINUTES * 60)
    connection.close()
    yield share("what a page asks for in a minute", taken, LIVE_BUDGET)


def page_rows(server: Server, pictures: Path, watched: float, browser: Any) -> Iterator[Row]:
    """Chromium opens the page, cold and warm, and watches."""
    for when in ("cold", "warm"):
        page, taken = open_page(browser, server, "curve")
        yield from taken.rows(f"run page usable, {when}")
        if when == "cold":
            page.context.close()
    time.sleep(2)
    yield share("host with a page that watches the run", server.spent(watched))
    page.click("#atelier_page_queue")
    page.wait_for_selector("#atelier_runs")
    yield share("host with a page that watches the list", server.spent(watched))
    page.click("#atelier_page_new")
    page.click("#atelier_type_path")
    page.fill("#atelier_folder", str(pictures))
    taken = clicked(page, page.locator("#atelier_open_folder"), "pictures", server)
    yield from taken.rows("500 pictures' first thumbnails, never seen")
    upload, before = (
        json.loads(page.evaluate("sessionStorage.getItem('atelier_draft')"))["upload"],
        server.cpu_seconds(),
    )
    while server.get(f"uploads/{upload}?count=1")[0]["looked"] < PICTURES:
        time.sleep(1)
    spent = server.cpu_seconds() - before
    yield Row("500 pictures looked into, meanwhile", round(spent, 1), "CPU s", None, None, None, None)
    page.context.close()
    _, taken = open_page(browser, server, "pictures", json.dumps({"form": {}, "upload": upload}))
    yield from taken.rows("500 pictures, page opened again")
    yield Row(f"load of the machine, {os.cpu_count()} cores", round(os.getloadavg()[0], 2), "", None, None, None, None)


def rows(work: Path, watched: float) -> list[Row]:
    """All results."""
    found: list[Row] = []
    (work / "nothing").mkdir()
    with serving(work / "nothing") as server:
        alone = server.spent(watched)
    found.append(share("host alone, nothing trained", alone))
    data = work / "data"
    data.mkdir()
    run, pictures = write_runs(data)[-1], work / "pictures"
    write_pictures(pictures)
    with going_on(run):
        with serving(data) as server:
            found += route_rows(server, run, "cold")
            found += route_rows(server, run, "warm")
            found.append(share("host with the runs, nobody watches", server.spent(watched)))
            found += asked_rows(server, run)
        with serving(data) as server, chromium() as browser:
            if browser is not None:
                found += page_rows(server, pictures, watched, browser)
    return found


@contextmanager
def serving(data: Path) -> Iterator[Server]:
    """The host on a data folder, settled."""
    server = Server(data)
    try:
        server.get("session")
        yield server
    finally:
        server.end()


@contextmanager
def chromium() -> Iterator[Any]:
    """A browser, or None where there is none."""
    try:
        from playwright.sync_api import sync_playwright
    except ModuleNotFoundError:
        yield None
        return
    path = next(
        (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), ""
    )
    if not path:
        yield None
        return
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=path, args=["--no-sandbox", "--disable-background-networking"]
        )
        yield browser
        browser.close()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="watch for 15 seconds")
    parser.add_argument("--seconds", type=float, default=60.0, metavar="N", help="watch for so long (60)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="lora-atelier-") as temporary:
        results = rows(Path(temporary), 15.0 if arguments.quick else arguments.seconds)
    return report(results, arguments.json)


if __name__ == "__main__":
    sys.exit(main())
