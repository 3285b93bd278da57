"""Set up LoRA Atelier's own environment and run it. Standard library only; nothing else has to be there.

    python install.py demo [--headless --output DIR] [--no-browser] [--port N] [--model PATH] [--data-dir DIR]
    python install.py test [pytest arguments]
    python install.py trainer [--webui PATH]
    python install.py doctor [--rebuild] [--webui PATH]
    python install.py sd-scripts [--data-dir DIR]

They make ``.venv`` beside this file first; what is complete is left alone, so that a second run starts in seconds.
``trainer`` makes it for a webui and takes that one's PyTorch where it can. The webui's own packages are only read.
A webui calls this file without arguments at every start: then it does nothing at all.

This file must be readable by Pythons that are too old to run the rest, so that they can say so or find a newer one.
What they need beside this file is in ``lora_atelier.jobs`` (setup_commands, machine, torch_choice, setup, doctor).
"""
# ruff: noqa: UP006, UP035, UP045 - Python 3.6 must still be able to read this file

import hashlib
import json
import os
import platform
import queue
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
EXTENSION = ROOT / "extension"
STAMP = "lora-atelier.json"  # lora_atelier.jobs.environment looks for it

OLDEST = (3, 11)
OLDEST_TORCH = (2, 6)
TORCH = "torch==2.13.0"
CPU_INDEX = "https://download.pytorch.org/whl/cpu"
# Of this package only CLIP's word list is read; its own dependencies would pull torchvision.
WITHOUT_DEPENDENCIES = ["open_clip_torch"]
# Commands of ours that are passed on as they are.
PASSED_ON = ("train", "resume", "stop", "jobs", "inspect", "convert", "rights")
TEST_PYTHONS = ("3.10", "3.13")
# What the tests without torch need; in a webui all of it is there.
TORCHFREE = ["pytest>=8", "pytest-timeout", "numpy", "pillow>=10", "fastapi", "httpx", "python-multipart"]

# The Gradios of the webuis with their pins: the page is served by each of them and driven in a browser.
_OLD_GRADIO = ["fastapi==0.94.0", "pydantic==1.10.27", "httpx==0.24.1", "pillow==9.5.0", "huggingface_hub<0.26",
               "numpy==1.26.4", "tomli"]  # fmt: skip
GRADIOS = {
    "3.41.2": _OLD_GRADIO,
    "3.43.2": _OLD_GRADIO,
    "4.40.0": ["fastapi==0.112.4", "pydantic==2.8.2", "huggingface_hub<0.26", "numpy==1.26.4", "pillow<11", "tomli"],
}

# Commands for people whose Python is the webui's: they look for a newer one where it is too old.
FOR_WEBUIS = ("trainer", "doctor", "sd-scripts")

USAGE = """usage: python install.py demo [options]   install, then open the page
       python install.py test [arguments]  install, then run all checks; arguments go to pytest
       python install.py trainer           for a webui: make the trainer's environment
       python install.py doctor            say what is there, what is wrong, how to mend it; --rebuild makes it anew
       python install.py sd-scripts        fetch kohya's sd-scripts as a second engine, with packages of its own
       python install.py train | resume | stop | jobs | inspect | convert | rights   on the console; --help says more

demo options:
  --headless --output DIR   train on the example pictures, write LoRA, picture grid and report, and end
  --no-browser              only print the address
  --port N                  use this port
  --model PATH              a .safetensors checkpoint (SD 1.x, 2.x, SDXL) or diffusers folder
  --low-memory              keep no copies of the weights that LoRAs change
  --apply-partly            apply what fits of a LoRA that does not fit as a whole
  --data-dir DIR            where LoRAs, trainings and pictures are kept (default: data)

trainer and doctor options:
  --webui PATH              the webui's folder or Python, where this folder does not lie in its "extensions"
"""


class InstallError(Exception):
    """Something that a person has to put right; the text says what, why and what to do.

    ``reason`` is a word for programs; ``error`` the same as JSON where one of the package's errors stands behind it.
    """

    def __init__(self, text: str, reason: str = "other", error: Optional[Dict[str, Any]] = None) -> None:
        super().__init__(text)
        self.reason = reason
        self.error = error


# Set by a program that reads what we print: lines that begin with this sign are JSON for it.
REPORTS, SIGN = "LORA_ATELIER_REPORTS", "\x1e"


def report(kind: str, **values: Any) -> None:
    """Tell the program that started us, if it wants to know, beside what is printed for people."""
    if os.environ.get(REPORTS):
        print(SIGN + json.dumps(dict(values, kind=kind)), flush=True)


def main(arguments: List[str]) -> int:
    """Do what ``arguments`` say; returns the exit code."""
    if not arguments:
        return 0  # a webui starts us like this; what it has is enough for the extension to appear
    command, rest = arguments[0], arguments[1:]
    if command not in ("demo", "test", *FOR_WEBUIS, *PASSED_ON):
        print(USAGE, end="")
        return 0 if command in ("-h", "--help", "help") else 2
    wrong = wrong_python(command)
    if wrong and command in FOR_WEBUIS:
        newer = newer_python()
        if newer:
            given = rest if "--webui" in rest else ["--webui", sys.executable, *rest]
            return run([*newer, str(Path(__file__).resolve()), command, *given], cwd=None)
    if wrong:
        report("failed", reason="python", text=wrong)
        print(wrong, file=sys.stderr)
        return 1
    # Texts of any language must not end the program on a console that can't show them.
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="replace")
    try:
        if command in PASSED_ON:
            return pass_on(arguments)
        if command in FOR_WEBUIS:
            return for_webuis(arguments)
        return demo(rest) if command == "demo" else test(rest)
    except InstallError as error:
        report("failed", reason=error.reason, text=str(error), error=error.error)
        print(f"\n{error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nStopped. Nothing is lost: type the same command again to go on.", file=sys.stderr)
        return 130


def wrong_python(command: str) -> str:
    """One sentence if this Python can't be used, else an empty text."""
    windows = os.name == "nt"
    if sys.version_info < OLDEST:
        return (
            "LoRA Atelier needs Python 3.11, 3.12 or 3.13 for this, and this is Python {}.{}: "
            "install Python 3.12 from https://www.python.org/downloads/ and type {} install.py {}"
        ).format(sys.version_info[0], sys.version_info[1], "py -3.12" if windows else "python3.12", command)
    if sys.maxsize < 2**32:
        return "LoRA Atelier needs a 64-bit Python, and this one has 32 bits: install it from https://www.python.org/."
    return ""


# ------------------------------------------------------------------------------------------------ the commands


def demo(arguments: List[str]) -> int:
    """Install what the demo needs and run it."""
    # What is wrong with the arguments is said now, not after ten minutes of installing.
    code = run([sys.executable, "-m", "lora_atelier", "check", "demo", *arguments], cwd=None)
    if code != 0 or "-h" in arguments or "--help" in arguments:
        return code
    install(["trainer", "embedded"])
    return run([str(venv_python(VENV)), "-m", "lora_atelier", "demo", *arguments], cwd=None)


def pass_on(arguments: List[str]) -> int:
    """Run one of our console commands in the environment of the demo."""
    install(["trainer", "embedded"])
    return run([str(venv_python(VENV)), "-m", "lora_atelier", *arguments], cwd=None)


def test(arguments: List[str]) -> int:
    """Install what the tests need and run everything; with arguments only the tests that they choose."""
    install(["trainer", "embedded", "test"])
    python = str(venv_python(VENV))
    failed = []
    if not arguments:
        for title, check in (
            ("ruff check", ["-m", "ruff", "check", "."]),
            ("ruff format", ["-m", "ruff", "format", "--check", "."]),
            ("mypy", ["-m", "mypy"]),
        ):
            print(f"== {title}", flush=True)
            if run([python, *check]):
                failed.append(title)
        for version in TEST_PYTHONS:
            if not test_without_torch(version):
                failed.append(f"Python {version}")
        for version in GRADIOS:
            install_gradio(version)
    print("== pytest", flush=True)
    code = run([python, "-m", "pytest", *arguments])
    if failed:
        print("Failed besides the tests above: {}.".format(", ".join(failed)), file=sys.stderr)
    return code or int(bool(failed))


def test_without_torch(version: str) -> bool:
    """Run the tests that need no torch on another Python; true if they pass or that Python is not there."""
    print(f"== Tests without torch on Python {version}", flush=True)
    python = find_python(version)
    if python is None:
        print(f"skipped: there is no Python {version} on this machine")
        return True
    venv = ROOT / f".venv-{version}"
    needed = TORCHFREE + (["tomli"] if version == "3.10" else [])
    if not is_complete(venv, {"torchfree": digest(needed)}):
        make_venv(venv, python)
        pip(venv, needed, f"Packages for Python {version}")
        write_stamp(venv, {"torchfree": digest(needed)})
    chosen = "torchfree and not browser and not gpu and not host and not slow"
    return run([str(venv_python(venv)), "-m", "pytest", "-q", "-m", chosen]) == 0


def install_gradio(version: str) -> None:
    """Make an environment with one of the webuis' Gradios, on the Python that these run on; where that is not there,
    or its packages can't be had, the tests with it are skipped and say so."""
    python = find_python("3.10")
    if python is None:
        return
    venv, needed = ROOT / (".venv-gradio-" + version), ["gradio==" + version, *GRADIOS[version]]
    if is_complete(venv, {"gradio": digest(needed)}):
        return
    print(f"== Gradio {version}", flush=True)
    try:
        make_venv(venv, python)
        pip(venv, needed, f"Gradio {version}")
        write_stamp(venv, {"gradio": digest(needed)})
    except InstallError as error:
        print(error, file=sys.stderr)


def for_webuis(arguments: List[str]) -> int:
    """Do one of the commands that a webui's user types: they are in a module of their own."""
    use_package()
    from lora_atelier.errors import ExtensionError
    from lora_atelier.jobs import setup_commands

    try:
        return setup_commands.run(arguments, sys.modules[__name__])
    except ExtensionError as error:
        raise InstallError(spoken(error), "said", error.to_json()) from error
    except OSError as error:
        text = f"{error}\nAllow writing there or make room on the disk, then try again."
        raise InstallError(text, "folder") from error


def use_package() -> None:
    """Let the modules of our package be imported here: those that need the standard library alone."""
    if str(EXTENSION) not in sys.path:
        sys.path.insert(0, str(EXTENSION))


def spoken(said: Any) -> str:
    """An error or a message of ours in the terminal's language."""
    use_package()
    from lora_atelier import cli, locales

    return locales.sentence(said, cli.console_language())


def newer_python() -> Optional[List[str]]:
    """The command of a Python that can run what this one is too old for, or None."""
    for version in ("3.12", "3.13", "3.11"):
        found = find_python(version)
        if found:
            return found
    return None


def find_python(version: str) -> Optional[List[str]]:
    """The command of a Python of this version that works, or None."""
    candidates = [[name] for name in ("python" + version,) if shutil.which(name)]
    if os.name == "nt" and shutil.which("py"):
        candidates.append(["py", "-" + version])
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    candidates += [[str(path)] for path in sorted(pyenv.glob(f"versions/{version}.*/bin/python"))]
    for candidate in candidates:
        try:
            # A name may be there without a Python behind it (pyenv's shims, Windows' shop).
            said = subprocess.run(
                [*candidate, "-c", "import sys, ensurepip; print('%d.%d' % sys.version_info[:2])"],
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                timeout=60,
            )
        except (OSError, subprocess.TimeoutExpired):
            continue
        if said.returncode == 0 and said.stdout.decode().strip() == version:
            return candidate
    return None


def run(command: List[str], cwd: Optional[str] = str(ROOT)) -> int:
    """Run a program of ours in the foreground, in the caller's folder if ``cwd`` is None; returns its exit code."""
    child = subprocess.Popen(command, env=environment(), cwd=cwd)
    signal.signal(signal.SIGTERM, lambda *_: child.terminate())
    while True:
        try:
            return child.wait()
        except KeyboardInterrupt:
            continue  # the child was interrupted too, and says what there is to say


def environment() -> Dict[str, str]:
    """The environment variables for our own programs: our package, nobody else's."""
    kept = bare()
    kept["PYTHONPATH"] = str(EXTENSION)
    # torch's threads sleep while they wait for each other: spinning on cores that a training uses too costs tenfold.
    kept.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    return kept


# ------------------------------------------------------------------------------------------------ installing


def install(groups: List[str], webui: Any = None, python: Optional[List[str]] = None) -> bool:
    """Make ``.venv`` hold the packages of these groups of pyproject.toml; returns False where it does already.

    ``webui`` is a ``machine.Webui`` whose PyTorch is used where that goes, ``python`` what the environment is made
    with (default: this Python). An installation that was interrupted goes on where it was. Raises InstallError.
    """
    extras = read_extras()
    current = {group: stamp_of(extras[group]) for group in extras}
    if is_complete(VENV, {group: current[group] for group in groups}):
        return False
    began = time.time()
    print(f"Setting up LoRA Atelier in {VENV} (only this once; some minutes)", flush=True)
    # Groups that were complete stay so: pip is told of them too, lest it change what they need.
    kept = [group for group, value in read_stamp(VENV).items() if current.get(group) == value]
    groups = kept + [group for group in groups if group not in kept]
    report("stage", stage="environment")
    own = python is None and has_torch(sys.executable) and sys.prefix == sys.base_prefix
    make_venv(VENV, python or [sys.executable], system_packages=own)
    write_stamp(VENV, {group: current[group] for group in kept})
    report("stage", stage="torch")
    install_torch(webui)
    report("stage", stage="packages")
    requirements = [requirement for group in groups for requirement in extras[group]]
    pip(VENV, requirements, "Packages ({})".format(", ".join(groups)))
    pip(VENV, ["--no-deps", *WITHOUT_DEPENDENCIES], "CLIP's word list")
    write_stamp(VENV, {group: current[group] for group in groups})
    print(f"Ready after {duration(time.time() - began)}.", flush=True)
    return True


def install_torch(webui: Any = None) -> None:
    """PyTorch first: a version that is there and new enough is kept; else the webui's, or one that fits the card."""
    python = str(venv_python(VENV))
    if has_torch(python):
        return
    choice = torch_choice(python, webui)
    if choice.how == "reuse":
        from lora_atelier.jobs import setup

        made = setup.link_torch(VENV, webui)
        if made is not None:
            print(f"  PyTorch {made.version} is the webui's own: nothing large to download", flush=True)
            pip(VENV, [choice.requirement], "What it needs")
            if setup.keep_link_if_it_works(VENV):
                return
        print("  The webui's PyTorch can't be used from outside; another copy then", flush=True)
        choice = torch_choice(python, webui, reuse=False)
    install_torch_of(VENV, choice)


def torch_choice(python: str, webui: Any = None, reuse: bool = True) -> Any:
    """Which build of PyTorch suits this machine (a ``torch_choice.Choice``). Raises InstallError if there is none."""
    use_package()
    from lora_atelier.errors import ExtensionError
    from lora_atelier.jobs import machine, setup

    found = machine.about([python])
    try:
        return setup.choose_torch(found.version if found else sys.version_info[:2], webui, reuse=reuse)
    except ExtensionError as error:
        raise InstallError(spoken(error), "said", error.to_json()) from error


def install_torch_of(venv: Path, choice: Any, more: Optional[List[str]] = None) -> None:
    """Install the chosen build of PyTorch, and packages of the same build."""
    more = more or []
    if choice.how == "index" and choice.index != CPU_INDEX:
        title = f"PyTorch for this graphics card, from {choice.index}"
        pip(venv, ["--index-url", choice.index, choice.requirement, *more], title)
        return
    if wants_cpu_torch():
        try:
            # Without this, Linux gets some 3 GB of CUDA libraries that nothing here could use.
            few = ["--index-url", CPU_INDEX, "--retries", "1", "--timeout", "20"]
            pip(venv, [*few, TORCH, *more], "PyTorch for the processor")
            return
        except InstallError:
            print(f"    not from {CPU_INDEX}; from the usual place then", flush=True)
    pip(venv, [TORCH, *more], "PyTorch")


def has_torch(python: str) -> bool:
    """Whether this interpreter has a torch that is new enough."""
    program = "from importlib.metadata import version; print(version('torch'))"
    said = subprocess.run([python, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    found = re.match(r"(\d+)\.(\d+)", said.stdout.decode())
    return found is not None and (int(found.group(1)), int(found.group(2))) >= OLDEST_TORCH


def wants_cpu_torch() -> bool:
    """Whether PyTorch's own index of small builds should be asked: Linux, no NVIDIA card, and no sources of packages
    that this machine's owner has set up for pip (those are respected)."""
    if platform.system() != "Linux" or shutil.which("nvidia-smi") or Path("/proc/driver/nvidia/version").exists():
        return False
    said = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    return re.search(rb"index-url|find-links|no-index", said.stdout) is None


def make_venv(venv: Path, python: List[str], system_packages: bool = False) -> None:
    """Make a virtual environment with pip, or leave the one that is there and works. Raises InstallError."""
    if works(venv):
        return
    command = python + ["-m", "venv", "--clear"] + (["--system-site-packages"] if system_packages else []) + [str(venv)]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if done.returncode == 0 and works(venv):
        return
    said = done.stdout.decode(errors="replace").strip()
    shutil.rmtree(str(venv), ignore_errors=True)
    if "ensurepip" in said or "No module named venv" in said:
        if make_with_virtualenv(venv, python) and works(venv):
            return
        raise InstallError(
            (
                "This Python ({}) has no venv module and no pip that could stand in for it: install Python 3.12 from "
                "https://www.python.org/downloads/ beside it, then type the same command again."
                if os.name == "nt"
                else "Python's venv module is not complete here: type  sudo apt install python{}.{}-venv  and then the "
                "same command again."
            ).format(*([" ".join(python)] if os.name == "nt" else sys.version_info[:2])),
            "venv",
        )
    raise InstallError(
        "The folder {} could not be made: {}\nAllow writing there or make room on the disk, then type the same "
        "command again.".format(venv, said.splitlines()[-1] if said else "no reason given"),
        "folder",
    )


def make_with_virtualenv(venv: Path, python: List[str]) -> bool:
    """Make an environment with a Python that has no venv module, as the packages for Windows that carry a Python of
    their own and as Debian ship it; false if that fails too.

    pip puts the package virtualenv into a folder of ours, from where it is run; that Python's own stay as they are.
    """
    tools = venv.with_name(venv.name + "-tools")
    print("  This Python has no venv module; virtualenv stands in for it", flush=True)
    here = [*python, "-B", "-m", "pip", "install", "--disable-pip-version-check", "--no-input", "--quiet"]
    # An embedded Python reads no PYTHONPATH, so the folder is named in the program.
    program = "import sys; sys.path.insert(0, {!a}); from virtualenv import cli_run; cli_run([{!a}])"
    try:
        for command in (
            [*here, "--target", str(tools), "virtualenv"],
            [*python, "-B", "-c", program.format(str(tools), str(venv))],
        ):
            if subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=bare()).returncode:
                return False
        return True
    except OSError:
        return False
    finally:
        shutil.rmtree(str(tools), ignore_errors=True)


def bare() -> Dict[str, str]:
    """The environment variables without those that tell a Python where to look for packages."""
    return {name: value for name, value in os.environ.items() if name not in ("PYTHONHOME", "PYTHONPATH")}


def works(venv: Path) -> bool:
    """Whether an environment's interpreter and pip answer."""
    python = venv_python(venv)
    if not python.exists():
        return False
    try:
        call = [str(python), "-m", "pip", "--version"]
        return subprocess.run(call, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode == 0
    except OSError:
        return False


def venv_python(venv: Path) -> Path:
    """The interpreter of a virtual environment on this system."""
    return venv / "Scripts" / "python.exe" if os.name == "nt" else venv / "bin" / "python"


def pip(venv: Path, arguments: List[str], title: str) -> None:
    """Install into ``venv``: a line for each package, all of pip's words into a log. Raises InstallError."""
    log_path = venv / "install.log"
    print(f"  {title}", flush=True)
    command = [str(venv_python(venv)), "-m", "pip", "install", "--disable-pip-version-check", "--no-input"]
    env = bare()
    # Packages that someone installed for their own user must not count as installed here.
    env["PYTHONNOUSERSITE"] = "1"
    command += ["--progress-bar", "raw" if counts_bytes(venv, env) else "off", *arguments]
    last = []  # type: List[str]
    with log_path.open("a", encoding="utf-8") as log:
        log.write("\n# {} {}\n".format(time.strftime("%Y-%m-%d %H:%M:%S"), " ".join(arguments)))
        child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=env)
        try:
            for line in lines(child):
                counted = re.match(r"Progress (\d+) of (\d+)$", line)
                if counted:
                    report("bytes", done=int(counted.group(1)), total=int(counted.group(2)))
                    continue
                log.write(line + "\n")
                last = ([*last, line])[-200:]
                said = progress(line)
                if said:
                    print(f"    {said}", flush=True)
                    report("item", said=said, unpacking=said.startswith("unpacking"))
            code = child.wait()
        except BaseException:
            child.terminate()
            child.wait()
            raise
    if code != 0:
        raise InstallError(explain(title, last, log_path), reason_of(last))


def counts_bytes(venv: Path, env: Dict[str, str]) -> bool:
    """Whether somebody wants to know how far a download is and this pip can say it, as those since 24.1 can.

    An older one is replaced where that goes: the largest package takes minutes.
    """
    if not os.environ.get(REPORTS):
        return False
    pip_itself = [str(venv_python(venv)), "-m", "pip", "--disable-pip-version-check"]
    for attempt in (1, 2):
        said = subprocess.run([*pip_itself, "--version"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        found = re.match(r"pip (\d+)\.(\d+)", said.stdout.decode(errors="replace"))
        if found and (int(found.group(1)), int(found.group(2))) >= (24, 1):
            return True
        if attempt == 1:
            newer = [*pip_itself, "--retries", "1", "install", "--quiet", "pip>=24.1"]
            subprocess.run(newer, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=env)
    return False


def lines(child: "subprocess.Popen[bytes]") -> Iterator[str]:
    """What a program says, line by line; during a long silence the time is shown."""
    said = queue.Queue()  # type: queue.Queue[Optional[str]]

    def read() -> None:
        assert child.stdout is not None
        for line in child.stdout:
            said.put(line.decode("utf-8", "replace").rstrip())
        said.put(None)

    threading.Thread(target=read, daemon=True).start()
    silent_since = time.time()
    while True:
        try:
            line = said.get(timeout=20)
        except queue.Empty:
            print(f"    ... {duration(time.time() - silent_since)}", flush=True)
            continue
        if line is None:
            return
        silent_since = time.time()
        yield line


def progress(line: str) -> str:
    """What to show of a line of pip's: a package that comes, or that all are being unpacked; else nothing."""
    found = re.match(r"\s*(?:Downloading|Using cached|Processing) (\S+)(?: \(([\d.]+ \wB)\))?", line)
    if found and found.group(1).endswith((".whl", ".tar.gz", ".zip")):
        name = re.split(r"[/\\]", found.group(1))[-1]
        parts = re.sub(r"\.(whl|tar\.gz|zip)$", "", name).split("-")
        return "{}{}".format(" ".join(parts[:2]), f" ({found.group(2)})" if found.group(2) else "")
    found = re.match(r"Installing collected packages: (.+)$", line)
    if found:
        return "unpacking {} packages ...".format(len(found.group(1).split(",")))
    return ""


def reason_of(last: List[str]) -> str:
    """Why pip failed, in a word, from its last lines."""
    text = "\n".join(last)
    if "No space left" in text or "[Errno 28]" in text:
        return "disk"
    if "No matching distribution" in text and "torch" in text:
        return "no torch"
    broken = r"NewConnectionError|ConnectTimeout|ReadTimeout|Name or service|getaddrinfo|ProxyError|Max retries"
    return "network" if re.search(broken, text) else "other"


def explain(title: str, last: List[str], log_path: Path) -> str:
    """What to tell a person when pip failed, from its last lines."""
    reason = reason_of(last)
    shown = "\n".join("    " + line for line in last[-8:])
    if reason == "disk":
        todo = "The disk is full: make room (about 3 GB), then type the same command again."
    elif reason == "no torch":
        todo = (
            f"There is no PyTorch for this system ({platform.system()} {platform.machine()}, "
            f"Python {platform.python_version()}): use Python 3.12 on a 64-bit system; "
            "PyTorch has left Macs with Intel processors."
        )
    elif reason == "network":
        todo = "The packages could not be fetched: check the internet connection (or pip's proxy and index settings), \
then type the same command again; what has arrived is kept."
    else:
        todo = "Type the same command again; if it fails in the same place, the log says more."
    return f"{title} could not be installed.\n{shown}\n{todo}\nLog: {log_path}"


# ------------------------------------------------------------------------------------------------ what is there


def read_extras() -> Dict[str, List[str]]:
    """The groups of requirements in pyproject.toml."""
    import tomllib

    with (ROOT / "pyproject.toml").open("rb") as file:
        extras = tomllib.load(file)["project"]["optional-dependencies"]
    return {name: list(requirements) for name, requirements in extras.items()}


def stamp_of(requirements: List[str]) -> str:
    """What the stamp says of a group of requirements that was installed with all that goes with it."""
    return digest([*requirements, TORCH, *WITHOUT_DEPENDENCIES])


def digest(requirements: List[str]) -> str:
    """A short text that changes when the requirements do."""
    return hashlib.sha256("\n".join(sorted(requirements)).encode("utf-8")).hexdigest()[:16]


def is_complete(venv: Path, wanted: Dict[str, str]) -> bool:
    """Whether an environment was installed to its end with just these requirements."""
    known = read_stamp(venv)
    return venv_python(venv).exists() and all(known.get(group) == value for group, value in wanted.items())


def read_stamp(venv: Path) -> Dict[str, str]:
    """What an environment was last completed with, by group; empty for one that was interrupted."""
    try:
        known = json.loads((venv / STAMP).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def write_stamp(venv: Path, known: Dict[str, Any]) -> None:
    """Note that an environment is complete."""
    temporary = venv / (STAMP + ".tmp")
    temporary.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")
    temporary.replace(venv / STAMP)


def duration(seconds: float) -> str:
    """Seconds as "1:05"."""
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes}:{rest:02d}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
