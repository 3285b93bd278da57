"""Where the adapter goes, what it is called, how often it is kept, and what its file says of itself."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ..errors import Problem, problem
from .setting import SAME, checked, setting


@dataclass(frozen=True, kw_only=True)
class OutputConfig:
    """Where the adapter goes, what it is called, and how often it is kept."""

    folder: str = setting("", "Folder", "The folder that the finished LoRA is written to.", kohya="output_dir")
    name: str = setting("lora", "Name", "The file's name, and the name in <lora:name:0.8>.", kohya="output_name")
    precision: str = setting(
        "fp16",
        "Precision of the file",
        "fp16 halves the file; float keeps every digit.",
        kohya="save_precision",
        choices=("float", "fp16", "bf16"),
        absent="float",
    )
    save_every_n_steps: int = setting(
        0, "Checkpoint every", "Steps between checkpoints; 0 chooses ten over the run.", kohya=SAME, least=0
    )
    save_every_n_epochs: int = setting(
        0, "Checkpoint every (epochs)", "Epochs between checkpoints; 0 counts in steps.", kohya=SAME, least=0
    )
    save_n_epoch_ratio: int = setting(
        0,
        "Checkpoints over the run",
        "So many checkpoints, at the ends of epochs; 0 counts in steps.",
        kohya=SAME,
        least=0,
    )
    save_last_n_steps: int = setting(
        0,
        "Keep those of the last steps",
        "Checkpoints that are older by more steps are deleted; 0 keeps all.",
        kohya=SAME,
        least=0,
    )
    save_last_n_epochs: int = setting(
        0, "Keep the last checkpoints", "So many checkpoints made by epochs are kept; 0 keeps all.", kohya=SAME, least=0
    )
    keep_states: int = setting(2, "Checkpoints to resume from", "How many complete states are kept on disk.", least=1)
    log_with: str = setting(
        "", "Curves for", "Told of each step, if installed.", kohya=SAME, choices=("", "tensorboard", "wandb", "all")
    )
    logging_dir: str = setting(
        "", "Their folder", "Where they write; alone it means tensorboard. Empty is the run's own folder.", kohya=SAME
    )
    log_prefix: str = setting("", "Prefix of the folder", "Put before the run's name there.", kohya=SAME)
    log_tracker_name: str = setting("", "Their project", "The LoRA's name if empty.", kohya=SAME)
    wandb_run_name: str = setting("", "Name at wandb", "The LoRA's name if empty.", kohya=SAME)
    comment: str = setting("", "Comment", "A sentence kept in the file.", kohya="training_comment")
    no_metadata: bool = setting(
        False, "No metadata", "The file says only what is needed to use it, not how it was trained.", kohya=SAME
    )
    metadata_title: str = setting("", "Title", "Title in the file's model card; the file's name if empty.", kohya=SAME)
    metadata_author: str = setting("", "Author", "Author in the file's model card.", kohya=SAME)
    metadata_description: str = setting("", "Description", "Description in the file's model card.", kohya=SAME)
    metadata_license: str = setting("", "Licence", "Licence in the file's model card.", kohya=SAME)
    metadata_tags: str = setting("", "Tags", "Tags in the file's model card, parted by commas.", kohya=SAME)
    metadata_usage_hint: str = setting("", "How to use it", "A hint in the file's model card.", kohya=SAME)
    metadata_thumbnail: str = setting(
        "", "Thumbnail", "A small picture in the file's model card, as a data: URL or an address.", kohya=SAME
    )
    metadata_merged_from: str = setting("", "Merged from", "Names of models that this one was made from.", kohya=SAME)
    metadata_trigger_phrase: str = setting(
        "", "Trigger in the card", "The words that call it; the job's trigger word if empty.", kohya=SAME
    )
    metadata_preprocessor: str = setting("", "Preprocessor", "Preprocessor that its control pictures need.", kohya=SAME)
    metadata_is_negative_embedding: str = setting(
        "", "Negative embedding", "“true” if it belongs into the negative prompt.", kohya=SAME
    )

    def problems(self) -> Iterator[Problem]:
        """Yield everything that is wrong with these settings."""
        if not self.name:
            yield problem("output.name", "The LoRA has no name. Give it one.")
        yield from checked("output", self)
        if self.save_every_n_epochs and self.save_n_epoch_ratio:
            yield problem(
                "output.save_n_epoch_ratio", "save_every_n_epochs and save_n_epoch_ratio exclude each other; keep one."
            )
