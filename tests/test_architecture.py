"""The absences that the architecture stands on, read from the sources: who imports whom."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.torchfree

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "extension" / "lora_atelier"
SOURCES = sorted(PACKAGE.rglob("*.py"))

# A part may import itself and what stands in its row, nothing else of ours.
LEAVES = {"errors", "atomic", "locking", "memory", "safetensors_header", "safetensors_tensors"}
CONTRACT = {"config", "config_files", "events", "prompt", "locales"} | LEAVES
MAY_IMPORT = {
    "errors": set(),
    "atomic": set(),
    "locking": set(),
    "memory": set(),
    "safetensors_header": set(),
    "safetensors_tensors": {"safetensors_header"},
    "locales": {"errors"},
    "config": {"errors"},
    "config_files": {"config", "atomic", "errors"},
    "events": {"errors"},
    "prompt": {"errors"},
    "adapters": CONTRACT,
    "models": CONTRACT,
    "datasets": CONTRACT,
    "rights": CONTRACT | {"datasets"},
    "engines": CONTRACT | {"datasets", "adapters", "models"},
    "loader": CONTRACT | {"adapters", "models", "rights"},
    "jobs": CONTRACT | {"datasets", "rights", "models", "adapters", "engines"},
    "hosts": CONTRACT | {"jobs", "loader", "models", "adapters", "rights"},
    "web": CONTRACT | {"jobs", "loader", "models", "datasets", "rights", "hosts", "adapters", "engines"},
    "ui": CONTRACT | {"jobs", "loader", "hosts", "web"},
    "trainer": CONTRACT | {"models", "rights", "datasets", "adapters", "loader"},
    "helper": set(),
    "embedded": CONTRACT | {"ui", "web", "hosts", "jobs", "loader", "models", "datasets", "rights", "adapters", "cli"},
    "cli": CONTRACT
    | {"embedded", "jobs", "loader", "adapters", "models", "datasets", "hosts", "cli_files", "cli_rights", "cli_train"},
    "cli_rights": CONTRACT | {"rights", "datasets", "jobs", "cli_rights_files", "cli_rights_console"},
    "cli_rights_files": CONTRACT | {"rights", "cli_rights_console"},
    "cli_rights_console": CONTRACT,
    "cli_train": CONTRACT | {"jobs", "models", "engines", "train_check", "train_files"},
    "train_check": CONTRACT | {"jobs", "models", "datasets", "engines", "train_files"},
    "train_files": {"config", "config_files", "errors", "safetensors_header"},
    "cli_files": CONTRACT | {"loader", "adapters", "models"},
    "__main__": {"cli"},
    "__init__": set(),
}
# What works without torch, so that a page can be drawn and a file listed on any machine.
TORCHFREE = ("errors", "atomic", "locking", "safetensors_header", "config", "config_files", "events", "prompt",
             "locales", "datasets", "rights", "jobs", "web", "ui", "models.detect", "loader.catalogue",
             "loader.facts", "loader.index", "loader.hashing", "adapters.keys", "adapters.hashes",
             "embedded.world", "embedded.judge", "embedded.examples", "cli")  # fmt: skip
HEAVY = {"torch", "diffusers", "transformers", "accelerate", "gradio", "peft"}
HOST_MODULES = {"modules", "backend", "ldm_patched", "modules_forge", "installer", "launch"}


def module_name(path):
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


def imports(path, everywhere=True):
    """The absolute names that a file imports: all of them, or only those that run when it is imported."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    package = ["lora_atelier", *path.relative_to(PACKAGE).parts[:-1]]
    nodes = ast.walk(tree) if everywhere else _at_import(tree.body)
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            start = ".".join([*base, *([node.module] if node.module else [])])
            yield start
            yield from (f"{start}.{alias.name}" for alias in node.names)


def _at_import(body):
    for node in body:
        if isinstance(node, ast.If):
            if "TYPE_CHECKING" not in ast.dump(node.test):
                yield from _at_import([*node.body, *node.orelse])
        elif isinstance(node, ast.Try):
            yield from _at_import(node.body)
        else:
            yield node


def ours(path):
    """The top-level parts of our package that a file imports."""
    own = module_name(path).split(".")[0]
    for name in imports(path):
        parts = name.split(".")
        if parts[0] == "lora_atelier" and len(parts) > 1 and parts[1] != own and _is_part(parts[1]):
            yield parts[1]


def _is_part(name):
    return (PACKAGE / name).is_dir() or (PACKAGE / f"{name}.py").is_file()


def test_every_part_has_its_row():
    parts = {module_name(path).split(".")[0] for path in SOURCES}

    assert parts <= MAY_IMPORT.keys()


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_a_part_imports_only_what_stands_to_its_right(path):
    part = module_name(path).split(".")[0]

    assert set(ours(path)) <= MAY_IMPORT[part]


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_only_hosts_name_a_hosts_modules_and_only_the_page_names_gradio(path):
    part = module_name(path).split(".")[0]
    top = {name.split(".")[0] for name in imports(path)}

    assert part == "hosts" or not top & HOST_MODULES
    assert part in {"ui", "embedded"} or "gradio" not in top
    assert part in {"web", "embedded"} or not top & {"fastapi", "starlette", "uvicorn"}


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_only_the_trainer_and_the_embedded_host_know_the_training_libraries(path):
    part = module_name(path).split(".")[0]
    top = {name.split(".")[0] for name in imports(path)}

    assert part in {"trainer", "models", "embedded"} or not top & {"diffusers", "transformers", "accelerate", "peft"}


@pytest.mark.parametrize("path", [p for p in SOURCES if module_name(p).startswith(TORCHFREE)], ids=module_name)
def test_what_needs_no_tensors_does_without_torch(path):
    top = {name.split(".")[0] for name in imports(path, everywhere=False)}

    assert not top & HEAVY


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_importing_does_no_work(path):
    """No call at the top level but definitions of constants; __main__ files and guards aside."""
    tree = ast.parse(path.read_text(encoding="utf-8"))

    calls = [ast.unparse(n) for n in tree.body if isinstance(n, ast.Expr) and isinstance(n.value, ast.Call)]

    assert calls == []


def test_importing_the_package_loads_nothing_else():
    program = "import sys; before = set(sys.modules); import lora_atelier; print(len(set(sys.modules) - before))"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=PACKAGE.parent
    )

    assert int(done.stdout) == 1
