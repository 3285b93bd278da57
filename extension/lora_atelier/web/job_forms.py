"""The form of the page as a job: what it leaves open is filled in, what it may not say is refused."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .. import engines, locales
from ..datasets.checks import common_trigger
from ..errors import DataError
from ..jobs import applies, overlay
from ..jobs.dry_run import shortage
from ..jobs.estimate import Plan
from ..jobs.fitting import make_fit
from ..jobs.forms import JobForm, Proposal
from ..jobs.names import rare_word, safe_name
from .answers import join
from .services import Services

# Whoever does not say whose pictures they are gets the answer that promises least.
WHOSE_UNSAID = "experiment"


def read_form(data: Mapping[str, Any], services: Services) -> JobForm:
    """The form as the page sent it; name, trigger and owner are filled in where they are left open.

    Raises RefusedError for a path where paths are not allowed, DataError for an upload or a base model that is not
    offered, JobError for an engine that we don't know.
    """
    given = data.get("form", data)
    if not isinstance(given, dict):
        raise DataError("The page sent something that can't be read.", todo="Reload the page.")

    def word(name: str, default: str = "") -> str:
        return str(given.get(name) or default)

    pictures, own, left_out, captions, refused = None, False, frozenset[str](), dict[str, str](), frozenset[str]()
    whose = word("whose", WHOSE_UNSAID)
    if word("upload"):
        folder = services.uploads.get(word("upload"))
        pictures, own = folder.source, services.uploads.is_own(word("upload"))
        left_out, captions = folder.left_out(), folder.captions()
        refused = services.desk.refused(word("upload"), whose)
    elif word("folder"):
        services.access.check_paths()
        pictures = services.uploads.get(services.uploads.open_folder(word("folder"))).source
    models = {str(info.path): info for info in services.base_models()}
    base_model = word("base_model", next(iter(models), ""))
    if base_model and base_model not in models:
        services.access.check_paths()
    if word("checkout"):
        services.access.check_paths()
    changes = given.get("changes", {})
    if not isinstance(changes, dict):
        raise DataError("The page sent something that can't be read.", todo="Reload the page.")
    _check_changed_paths(changes, services)
    info = models.get(base_model)
    engine = engines.get(word("engine", "native")).name
    name, trigger = suggested(word("name"), word("trigger"), word("goal", "character"), word("upload", "lora"))
    return JobForm(
        name=word("name") or name,
        trigger=word("trigger") or trigger,
        goal=word("goal", "character"),
        whose=whose,
        pictures=pictures,
        base_model=Path(base_model),
        quality=word("quality", "good"),
        keep_pictures=own,
        regularisation=services.regularisation(info) if info is not None else None,
        left_out=left_out,
        captions=captions,
        refused=refused,
        changes=changes,
        engine=engine,
        checkout=Path(word("checkout")) if word("checkout") else None,
    )


# Settings that hold paths of this machine, or arguments that a program takes as they are.
_PATHS = ("model.vae", "model.base_weights", "network.network_weights", "output.logging_dir", "output.log_prefix",
          "subset.conditioning_data_dir")  # fmt: skip
_ARGUMENTS = (
    "network.network_args", "optimizer.optimizer_args", "output.log_with", "schedule.lr_scheduler_args",
    "schedule.lr_scheduler_type",
)  # fmt: skip


def _check_changed_paths(changes: Mapping[str, Any], services: Services) -> None:
    """Raise RefusedError where a stranger names a path, a program or its arguments."""
    dotted = "." in str(changes.get("optimizer.optimizer", ""))
    # A picture as text is one that the page sent itself.
    picture_file = not str(changes.get("output.metadata_thumbnail") or "data:").startswith("data:")
    if dotted or picture_file or any(changes.get(place) for place in (*_PATHS, *_ARGUMENTS)):
        services.access.check_paths()


def suggested(name: str, trigger: str, goal: str, seed: str) -> tuple[str, str]:
    """A name and a trigger word for what was left empty: the one from the other, or a word that means nothing."""
    base = name.strip() or trigger.strip() or rare_word(seed)
    word = " ".join(base.replace("_", " ").lower().split())
    if not word.isascii() or not word or next(common_trigger(word), None) is not None:
        word = rare_word(base)
    if goal == "style" and not word.endswith("style"):
        word = f"{word} style"
    return safe_name(base) or rare_word(base), word


def plan_json(form: JobForm, asked: Mapping[str, Any], services: Services, lang: str) -> dict[str, Any]:
    """What would be done with a form: the plan in one sentence, everything to say, and, if asked, the settings."""
    proposal = services.jobs.propose(form)
    plan = proposal.plan
    if plan is not None and proposal.config is not None:
        plan = services.measuring.known(proposal.config, form, plan)
    problems = [
        {
            "field": notice.problem.field,
            "sentence": locales.sentence(notice.problem, lang),
            "blocking": notice.blocking,
            "suggestion": notice.suggestion,
        }
        for notice in proposal.notices
    ]
    given = asked.get("form", {})
    open_name, open_trigger = str(given.get("name") or ""), str(given.get("trigger") or "")
    name, trigger = suggested(open_name, open_trigger, form.goal, str(given.get("upload") or "lora"))
    said: dict[str, Any] = {
        "name": proposal.name,
        "safe_name": safe_name(form.name),
        "suggested": {"name": name, "trigger": trigger},
        "sentence": plan_sentence(plan, lang) if plan and proposal.pictures else "",
        "seconds": plan.seconds if plan else None,
        "steps": plan.steps if plan else None,
        "pictures": proposal.pictures,
        "file_bytes": plan.file_bytes if plan else None,
        "memory_bytes": plan.memory_bytes if plan else None,
        "memory": _memory_json(plan, proposal, lang) if plan and proposal.pictures else None,
        "family": proposal.info.family if proposal.info else "",
        "side": proposal.info.resolution if proposal.info else 0,
        "problems": problems,
    }
    if asked.get("settings"):
        said["settings"] = _settings_json(form, proposal)
    return said


def _settings_json(form: JobForm, proposal: Proposal) -> dict[str, Any] | None:
    """Values of all settings, and which differ from the recipe and which do not apply."""
    config, recipe, info = proposal.config, proposal.recipe, proposal.info
    if config is None or recipe is None or info is None:
        return None
    hidden = applies.hidden(config, family=info.family, engine=form.engine)
    places = [place for place, _ in overlay.all_fields() if overlay.get(config, place) is not None]
    return {
        "values": {place: overlay.get(config, place) for place in places},
        "recipe": {place: overlay.get(recipe, place) for place in places},
        "changed": sorted(overlay.difference(config, recipe)),
        "hidden": sorted(hidden),
    }


def _memory_json(plan: Plan, proposal: Proposal, lang: str) -> dict[str, Any]:
    """The memory that a plan takes: whether it is there, its parts from the largest on, and what would make it fit."""
    short = fit = None
    if proposal.config is not None and proposal.info is not None:
        short = next(iter(shortage(plan, proposal.config)), None)
        fit = make_fit(plan, proposal.config, proposal.info)
    return {
        "sentence": locales.sentence(short or plan.fit_sentence(), lang),
        "fits": plan.fits,
        "measured": plan.measured,
        "bytes": plan.memory_bytes,
        "free_bytes": plan.free_bytes,
        "parts": [
            {"name": name, "bytes": plan.memory[name], "sentence": locales.sentence(said, lang)}
            for name, said in plan.part_sentences()
        ],
        "disk": locales.sentence(plan.disk_sentence(), lang),
        "fit": {
            "changes": dict(fit.changes),
            "sentences": [locales.sentence(said, lang) for said in fit.sentences()],
            "fits": fit.fits,
        }
        if fit is not None
        else None,
    }


def plan_sentence(plan: Plan, lang: str) -> str:
    """The plan as one sentence."""
    return join([locales.sentence(part, lang) for part in plan.sentence()], lang)
