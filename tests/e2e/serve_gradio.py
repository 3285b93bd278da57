"""A page as a webui has it, on whatever Gradio this Python has: our tab in a Blocks, our routes behind its login, our
scripts and style put into its head as A1111 does, trainings by the trainer of the tests.

    python serve_gradio.py PORT DATA_DIR [USER PASSWORD]

A file ``no environment`` in DATA_DIR takes the trainer's environment away as long as it is there, ``no model`` the base
models.
"""

import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "extension"), str(ROOT)]

import gradio  # noqa: E402
import gradio.routes  # noqa: E402
from fastapi.staticfiles import StaticFiles  # noqa: E402
from tests.jobs.fakes import FAKE_TRAINER, write_model_headers  # noqa: E402

from lora_atelier.jobs import environment  # noqa: E402
from lora_atelier.jobs.service import Jobs  # noqa: E402
from lora_atelier.jobs.trainer_setup import TrainerSetup  # noqa: E402
from lora_atelier.loader.catalogue import Catalogue  # noqa: E402
from lora_atelier.models.detect import ModelInfo, inspect  # noqa: E402
from lora_atelier.ui import tab  # noqa: E402
from lora_atelier.web.access import Access  # noqa: E402
from lora_atelier.web.routes import router  # noqa: E402
from lora_atelier.web.services import Services  # noqa: E402
from lora_atelier.web.uploads import Uploads  # noqa: E402


class SomeJobs(Jobs):
    """Trainings whose environment can be missing."""

    def require_trainer(self) -> None:
        if (self.data_dir / "no environment").exists():
            environment.trainer_python(self.data_dir)


class SomeSetup(TrainerSetup):
    """The environment, made by the installer of the tests: it waits until a file ``go on`` is there."""

    def __init__(self, data: Path) -> None:
        command = [sys.executable, str(ROOT / "tests" / "jobs" / "fake_installer.py"), str(data), "waits and is well"]
        super().__init__(data, root=data, command=command)

    def is_ready(self) -> bool:
        return super().is_ready() or not (self._root / "no environment").exists()


def main(port: int, data: Path, login: list[str]) -> None:
    """Serve until the process is ended."""
    model = data / "base"
    environment._has_everything = lambda: False  # only asked where it is to be missing

    def base_models() -> list[ModelInfo]:
        if (data / "no model").exists():
            return []
        return [inspect(model if model.exists() else write_model_headers(model))]

    services = Services(
        jobs=SomeJobs(data, command=FAKE_TRAINER),
        uploads=Uploads(data / "uploads"),
        catalogue=Catalogue([data / "loras"]),
        base_models=base_models,
        access=Access(),
        environment=SomeSetup(data),
    )
    put_into_head()
    with gradio.Blocks(analytics_enabled=False, title="A webui") as page, gradio.Tabs():
        with gradio.Tab("txt2img"):
            gradio.Textbox(label="Prompt", elem_id="txt2img_prompt")
        with gradio.Tab(tab.TITLE):
            tab.build(gradio)
    app, _, _ = page.launch(
        auth=[(login[0], login[1])] if login else None,
        prevent_thread_lock=True,
        quiet=True,
        server_name="127.0.0.1",
        server_port=port,
    )
    before = len(app.router.routes)
    app.include_router(router(services))
    app.mount("/atelier-scripts", StaticFiles(directory=ROOT / "javascript"))
    app.mount("/atelier-style", StaticFiles(directory=ROOT))
    # Newer Gradios answer every path themselves; ours must be asked before that.
    ours = app.router.routes[before:]
    app.router.routes[:] = [*ours, *app.router.routes[:before]]
    services.queue.start()
    print(f"gradio {gradio.__version__}", flush=True)
    while True:
        time.sleep(3600)


def put_into_head() -> None:
    """Add our files to each page's head, as the webuis do it."""
    scripts = sorted((ROOT / "javascript").glob("*.js"))
    head = '<link rel="stylesheet" href="./atelier-style/style.css">'
    head += "".join(f'<script defer src="./atelier-scripts/{path.name}"></script>' for path in scripts)
    answer = gradio.routes.templates.TemplateResponse

    def with_head(*args, **kwargs):  # type: ignore[no-untyped-def]
        said = answer(*args, **kwargs)
        said.body = said.body.replace(b"</head>", head.encode() + b"</head>")
        said.init_headers()
        return said

    gradio.routes.templates.TemplateResponse = with_head


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
