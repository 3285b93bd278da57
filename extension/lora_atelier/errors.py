"""Every error that is raised on purpose, and the sentences they carry.

A sentence is a *template*: English text with ``{named}`` holes. The template itself is the key under which
``locales`` finds the translation, so it is always a literal, never an f-string.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Value = str | int | float | bool | None


@dataclass(frozen=True)
class Message:
    """One sentence for a person: an English template and the values of its holes."""

    template: str
    values: Mapping[str, Value] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.template.format(**self.values)

    def __bool__(self) -> bool:
        return bool(self.template)

    def to_json(self) -> dict[str, Any]:
        """The message as plain JSON, so that another process can say it in another language."""
        return {"template": self.template, "values": dict(self.values)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Message:
        return cls(str(data["template"]), dict(data.get("values", {})))


def message(template: str, **values: Value) -> Message:
    """Return the message made of a literal template and its values."""
    return Message(template, values)


@dataclass(frozen=True)
class Problem:
    """What is wrong with one setting: ``field`` is its dotted name, for example ``network.rank``."""

    field: str
    message: Message

    def __str__(self) -> str:
        return str(self.message)


def problem(field: str, template: str, **values: Value) -> Problem:
    """Return the problem of ``field``, said by a literal template and its values."""
    return Problem(field, Message(template, values))


class ExtensionError(Exception):
    """What went wrong, why, and what to do about it; each may have ``{named}`` holes filled from ``values``."""

    def __init__(self, what: str, *, why: str = "", todo: str = "", **values: Value) -> None:
        self.what = Message(what, values)
        self.why = Message(why, values)
        self.todo = Message(todo, values)
        super().__init__(" ".join(str(part) for part in self.parts()))

    def parts(self) -> tuple[Message, ...]:
        """What, why and what to do, without the empty ones."""
        return tuple(part for part in (self.what, self.why, self.todo) if part)

    def to_json(self) -> dict[str, Any]:
        """The error as plain JSON: it crosses from the trainer to the page as this."""
        return {
            "type": type(self).__name__,
            "what": self.what.template,
            "why": self.why.template,
            "todo": self.todo.template,
            "values": dict(self.what.values),
        }

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> ExtensionError:
        """Return the error that ``to_json`` described; an unknown type becomes a plain ExtensionError."""
        classes = {cls.__name__: cls for cls in _all_subclasses(ExtensionError)}
        cls = classes.get(str(data.get("type")), ExtensionError)
        error = cls.__new__(cls)
        ExtensionError.__init__(
            error,
            str(data.get("what", "")),
            why=str(data.get("why", "")),
            todo=str(data.get("todo", "")),
            **dict(data.get("values", {})),
        )
        return error


def _all_subclasses(cls: type[ExtensionError]) -> list[type[ExtensionError]]:
    found = []
    for sub in cls.__subclasses__():
        found += [sub, *_all_subclasses(sub)]
    return found


class ConfigError(ExtensionError):
    """A configuration that can't be used; ``problems`` lists everything that is wrong with it."""

    problems: tuple[Problem, ...] = ()

    def __init__(
        self, what: str, *, why: str = "", todo: str = "", problems: tuple[Problem, ...] = (), **values: Value
    ) -> None:
        super().__init__(what, why=why, todo=todo, **values)
        self.problems = problems

    @classmethod
    def from_problems(cls, problems: tuple[Problem, ...]) -> ConfigError:
        """One error for all of ``problems`` (at least one); its text is theirs, one after the other."""
        listed = " ".join(f"{p.field}: {p.message}" for p in problems)
        return cls("The training settings can't be used.", why="{listed}", listed=listed, problems=problems)


class DataError(ExtensionError):
    """Pictures or captions that can't be trained on."""


class RightsError(ExtensionError):
    """A picture that may not be used, or that is no longer the one that was admitted."""


class ModelError(ExtensionError):
    """A base model that can't be read or that is of a family we can't use."""


class AdapterError(ExtensionError):
    """An adapter file that can't be used."""


class AdapterNotFoundError(AdapterError):
    """No adapter file has this name."""


class AdapterFormatError(AdapterError):
    """A file that is no adapter we can read."""


class AdapterMismatchError(AdapterError):
    """An adapter that does not fit the checkpoint."""


class HostError(ExtensionError):
    """The host can't do what was asked of it."""


class OriginalsLostError(HostError):
    """The base model's own weights can't be read again: its file changed while a LoRA was on."""


class JobError(ExtensionError):
    """A training job that can't be created, started, stopped or resumed."""


class AlreadyRunningError(JobError):
    """Another run holds the machine, or this run is running already."""


class NotEnoughMemoryError(JobError):
    """A training that needs more memory than there is, or that most probably did."""


class DiskFullError(JobError):
    """A training that found no room for its files."""


class TrainerFailedError(JobError):
    """The trainer process ended with an error; ``exit_code`` and ``log_tail`` say how."""

    exit_code: int = 1
    log_tail: str = ""

    def __init__(
        self, what: str, *, why: str = "", todo: str = "", exit_code: int = 1, log_tail: str = "", **values: Value
    ) -> None:
        super().__init__(what, why=why, todo=todo, **values)
        self.exit_code = exit_code
        self.log_tail = log_tail
