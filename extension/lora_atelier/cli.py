"""Commands: ``lora-atelier demo | train | jobs | inspect | convert …``. ``python -m lora_atelier`` is the same."""

from __future__ import annotations

import argparse
import contextlib
import os
import socket
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from . import __version__, cli_files, cli_rights, cli_train, locales
from .errors import ExtensionError, HostError, JobError, Message, message
from .jobs.follow import follow, stop_and_wait
from .jobs.service import Jobs
from .jobs.view import RunView
from .models import detect

_ROOT = Path(__file__).resolve().parents[2]
BASE_MODEL = Path(__file__).resolve().parent / "embedded" / "base_model"
# Beside the webuis' 7860, so that both can run.
_PORTS = range(7870, 7880)
# The shell's convention for "ended by Ctrl-C".
_INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code. What goes wrong on purpose is one sentence on stderr."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            # A console that can't show a name must not end a training.
            reconfigure(errors="replace")
    given = list(sys.argv[1:] if arguments is None else arguments)
    check_only = given[:1] == ["check"]
    parser = _parser()
    options, words = parser.parse_known_args(given[1:] if check_only else given)
    if words and options.command != "train":
        parser.error(f"unrecognized arguments: {' '.join(words)}")
    options.words = words  # `train` knows sd-scripts' options
    try:
        if check_only:
            return int(options.check(options) or 0)
        return int(options.run(options) or 0)
    except ExtensionError as error:
        print(locales.sentence(error, console_language()), file=sys.stderr)
        return 1
    except ModuleNotFoundError as error:
        if (error.name or "").startswith(__package__):
            raise
        damaged = HostError(
            "The environment is incomplete: the package {package} is missing.",
            todo="Delete the folder .venv and type the same command again.",
            package=error.name or "",
        )
        print(locales.sentence(damaged, console_language()), file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\n" + _said(message("Stopped. Nothing is lost.")), file=sys.stderr)
        return _INTERRUPTED


def console_language() -> str:
    """The language of the terminal, from the variables that set it."""
    wanted = next((value for name in ("LC_ALL", "LC_MESSAGES", "LANG") if (value := os.environ.get(name))), "")
    return locales.choose("", wanted.replace("_", "-").partition(".")[0])


def default_data_dir() -> Path:
    """Where everything is kept: ``data`` in the checkout, or a folder of the person's where we are installed."""
    return _ROOT / "data" if (_ROOT / "install.py").is_file() else Path.home() / "lora-atelier"


def _said(said: Message) -> str:
    return locales.sentence(said, console_language())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="lora-atelier", description="Train LoRAs, and use them.")
    parser.add_argument("--version", action="version", version=f"LoRA Atelier {__version__}")
    commands = parser.add_subparsers(dest="command", required=True)

    demo = _command(commands, "demo", "an embedded host with a page, or without one: train, draw, report", _demo)
    demo.set_defaults(check=check_demo)
    demo.add_argument("--headless", action="store_true", help="no page: train on the example pictures and end")
    demo.add_argument("--output", type=Path, metavar="DIR", help="with --headless: where the results go (out)")
    demo.add_argument("--no-browser", action="store_true", help="only print the address")
    demo.add_argument("--port", type=int, help="the port of the page (default: a free one)")
    demo.add_argument("--model", type=Path, metavar="PATH", help="a .safetensors checkpoint or a diffusers folder")
    demo.add_argument("--low-memory", action="store_true", help="keep no copies of weights that LoRAs change")
    demo.add_argument("--apply-partly", action="store_true", help="apply what fits of a LoRA that does not fit whole")
    _data_dir(demo)

    train = _command(commands, "train", "train as kohya's files, a preset or another LoRA say", _train)
    train.set_defaults(check=_check_train)
    cli_train.add_arguments(train)
    _data_dir(train)

    for name, text, run in (
        ("resume", "go on with a training that was stopped or killed", _resume),
        ("stop", "stop a training; it can be resumed", _stop),
    ):
        one = _command(commands, name, text, run)
        one.add_argument("id", help="as `jobs` shows it; the beginning or the LoRA's name is enough")
        _data_dir(one)
    _data_dir(_command(commands, "jobs", "list all trainings", _jobs))

    look = _command(commands, "inspect", "say what a LoRA or model is, and what is wrong with it", _inspect)
    look.add_argument("file", type=Path, help="a LoRA, a checkpoint or a diffusers folder")
    look.add_argument("--checkpoint", type=Path, metavar="PATH", help="the model that a LoRA shall be compared with")
    look.add_argument("--json", action="store_true", help="for programs")
    convert = _command(commands, "convert", "give a LoRA's layers the names of other programs", _convert)
    convert.add_argument("file", type=Path)
    convert.add_argument("--to", choices=cli_files.NAMINGS, required=True, help="whose names (diffusers: also PEFT's)")
    convert.add_argument("--output", type=Path, metavar="FILE", help="default: beside the file, with a name of its own")
    convert.add_argument(
        "--checkpoint", type=Path, metavar="PATH", help="the model that it is for, if that is not clear"
    )
    # Each command below it has a ``run`` of its own.
    rights = _command(commands, "rights", "state rights of pictures, and read those of LoRAs", lambda options: None)
    cli_rights.add_commands(
        rights,
        lambda options: cli_rights.Console((options.data_dir or default_data_dir()).resolve(), console_language()),
    )
    return parser


def _command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    text: str,
    run: Callable[[argparse.Namespace], int | None],
) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=text, description=text)
    parser.set_defaults(run=run, check=lambda options: None)
    return parser


def _data_dir(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data-dir", type=Path, metavar="DIR", help="where LoRAs, trainings and pictures are kept")


def _jobs_of(options: argparse.Namespace) -> Jobs:
    return Jobs((options.data_dir or default_data_dir()).resolve())


# ------------------------------------------------------------------------------------------------ demo


def check_demo(options: argparse.Namespace) -> None:
    """Raise HostError or ModelError for what would go wrong later: said before anything long begins."""
    if options.output is not None and not options.headless:
        raise HostError("--output goes with --headless.", todo="Add --headless, or leave --output out.")
    if options.headless:
        check_writable(options.output or Path("out"))
    elif options.port is not None:
        check_port(options.port)
    check_writable(options.data_dir or default_data_dir())
    if options.model is not None:
        detect.inspect(options.model)


def check_writable(folder: Path) -> None:
    """Make ``folder``, write a file into it and take it away again. Raises HostError if that can't be done."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".atelier-{os.getpid()}"
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        raise HostError(
            "The folder {folder} can't be written to.",
            why="{reason}.",
            todo="Allow writing there, or choose another folder.",
            folder=str(folder),
            reason=error.strerror or str(error),
        ) from error


def check_port(port: int) -> None:
    """Raise HostError unless a page could be served on this port of the loopback interface."""
    if not 0 <= port < 1 << 16:
        raise HostError("There is no port {port}.", todo="Choose one from 1024 to 65535.", port=port)
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        if os.name != "nt":  # Windows would then let two programs share the port
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise HostError(
                "Port {port} can't be used.",
                why="{reason}.",
                todo="Choose another with --port, or leave --port out: a free one is found then.",
                port=port,
                reason=error.strerror or str(error),
            ) from error


def free_port() -> int:
    """A port that a page can be served on: one of ours if it is free, so that bookmarks live, else any."""
    for port in (*_PORTS, 0):
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return int(probe.getsockname()[1])
    raise HostError("There is no free port on this machine.", todo="Choose one with --port.")


def _demo(options: argparse.Namespace) -> int:
    check_demo(options)
    from .loader.session import LoaderSettings

    model = (options.model or BASE_MODEL).resolve()
    loader = LoaderSettings("reread" if options.low_memory else "auto", partly=options.apply_partly)
    if options.headless:
        from .embedded import demo

        output = (options.output or Path("out")).resolve()
        return demo.run(output, model=model, data_dir=options.data_dir, loader=loader)
    from .embedded import app
    from .hosts.embedded import EmbeddedHost

    host = EmbeddedHost(model, (options.data_dir or default_data_dir()).resolve(), loader=loader)
    port = free_port() if options.port is None else options.port
    return int(app.serve(host, port=port, open_browser=not options.no_browser) or 0)


# ------------------------------------------------------------------------------------------------ trainings


def _check_train(options: argparse.Namespace) -> int:
    jobs = _jobs_of(options)
    found = cli_train.look(options, jobs)
    if options.dry_run:
        cli_train.measure(found, options, jobs)
    return cli_train.report(found, console_language(), plan=True)


def _train(options: argparse.Namespace) -> int:
    if options.only_check or options.dry_run:
        return _check_train(options)
    jobs = _jobs_of(options)
    found = cli_train.look(options, jobs)
    if cli_train.report(found, console_language()) != 0:
        return 1
    run = cli_train.add(found, options, jobs)
    jobs.start(run)
    return _follow(jobs, jobs.view(run))


def _follow(jobs: Jobs, view: RunView) -> int:
    """Show a run to its end; Ctrl-C stops it and says how to go on."""
    try:
        ended = follow(jobs, view.run)
    except KeyboardInterrupt:
        print("\n" + _said(message("Stopping; the state is being kept …")), file=sys.stderr)
        ended = stop_and_wait(jobs, view.run)
    if ended.status == "finished":
        print(_said(message("Finished: {file}", file=str(ended.result))))
        return 0
    said = message(
        "Stopped at step {step} of {steps}. Go on with: python install.py resume {id}",
        step=ended.step,
        steps=ended.steps,
        id=view.run.id,
    )
    print(_said(said), file=sys.stderr)
    return _INTERRUPTED


def _find(jobs: Jobs, wanted: str) -> RunView:
    views = jobs.list()
    for view in views:
        if view.run.id == wanted:
            return view
    found = [v for v in views if v.run.id.startswith(wanted) or (v.job is not None and v.job.name == wanted)]
    if not found:
        raise JobError("There is no training “{id}”.", todo="`lora-atelier jobs` lists them.", id=wanted)
    return found[0]


def _resume(options: argparse.Namespace) -> int:
    jobs = _jobs_of(options)
    view = _find(jobs, options.id)
    jobs.resume(view.run)
    return _follow(jobs, view)


def _stop(options: argparse.Namespace) -> int:
    jobs = _jobs_of(options)
    view = stop_and_wait(jobs, _find(jobs, options.id).run)
    print(f"{view.run.id}  {view.status}  {view.step}/{view.steps}")
    return 0


def _jobs(options: argparse.Namespace) -> None:
    for view in _jobs_of(options).list():
        print(f"{view.run.id}  {view.status:<8}  {view.step}/{view.steps}")
        if view.error is not None:
            print(f"    {locales.sentence(view.error, console_language())}")


# ------------------------------------------------------------------------------------------------ files


def _inspect(options: argparse.Namespace) -> None:
    lang = console_language()
    cli_files.inspect(options.file, checkpoint=options.checkpoint, toy=BASE_MODEL, lang=lang, as_json=options.json)


def _convert(options: argparse.Namespace) -> None:
    written = cli_files.convert(
        options.file, to=options.to, output=options.output, checkpoint=options.checkpoint, toy=BASE_MODEL
    )
    print(_said(message("Written: {file}", file=str(written))))
