"""A job's files as sd-scripts needs them to do what the job says: its known traps set right, or warned of.

Each trap is one small function of ``TRAPS``; what they say is our reference's account of sd-scripts 48d368fa (16 Feb
2026), measured or read there. What concerns pictures and captions is set right where these are laid out
(``jobs.sd_scripts_data``), what concerns resuming in ``kohya_launch``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import Message, Problem, message, problem

# What a dataset and a subset may say in its schema; anything else ends it with "extra keys not allowed".
DATASET_KEYS = frozenset({
    "batch_size", "resolution", "enable_bucket", "min_bucket_reso", "max_bucket_reso", "bucket_reso_steps",
    "bucket_no_upscale", "network_multiplier", "validation_split", "validation_seed", "resize_interpolation",
})  # fmt: skip
SUBSET_KEYS = frozenset({
    "num_repeats", "shuffle_caption", "keep_tokens", "keep_tokens_separator", "secondary_separator",
    "caption_separator", "enable_wildcard", "caption_prefix", "caption_suffix", "color_aug", "flip_aug",
    "face_crop_aug_range", "random_crop", "token_warmup_min", "token_warmup_step", "custom_attributes",
    "resize_interpolation", "caption_dropout_rate", "caption_dropout_every_n_epochs", "caption_tag_dropout_rate",
    "is_reg", "class_tokens", "alpha_mask",
})  # fmt: skip
# Where the native trainer chooses "so many over the run", sd-scripts needs a number.
_CHECKPOINTS, _SAMPLES, _MEASUREMENTS = 10, 5, 10
_FEWEST_FOR_HOLDING_OUT = 8
_NEVER = 1_000_000
# Options of ours that we obey ourselves, whoever trains.
_OBEYED = {"atelier_keep_states"}
# Its buckets for each family; other steps give latents that its U-Net can't halve.
_BUCKET_STEPS = {"sd1": 64, "sd2": 64, "sdxl": 32}


@dataclass
class Files:
    """The two files while they are being set right: ``main`` without sections, ``dataset`` as kohya nests it.

    ``steps`` is the length of the run (0 if it is counted in epochs), ``pictures`` how many are trained on.
    """

    main: dict[str, Any]
    dataset: dict[str, Any]
    family: str = "sd1"
    device: str = "gpu"
    pictures: int = 0
    problems: list[Problem] = field(default_factory=list)

    def entries(self) -> Iterator[dict[str, Any]]:
        """Every dataset of the dataset file."""
        yield from self.dataset.get("datasets", [])

    def subsets(self) -> Iterator[dict[str, Any]]:
        """Every folder of pictures."""
        for entry in self.entries():
            yield from entry.get("subsets", [])

    def on(self, key: str) -> bool:
        """Whether an option is given and not off."""
        return bool(self.main.get(key))

    def anywhere(self, key: str) -> bool:
        """Whether an option of pictures or captions is on for the run, a dataset or a folder."""
        places = [self.main, *self.entries(), *self.subsets()]
        return any(place.get(key) for place in places)

    @property
    def steps(self) -> int:
        return 0 if self.on("max_train_epochs") else int(self.main.get("max_train_steps", 0))

    def every(self, times: int) -> int:
        """So many steps apart that something happens ``times`` times over the run."""
        return max(1, round(self.steps / times)) if self.steps else 0


Trap = Callable[[Files], Iterator[Message]]


def flat(main: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a config file without its sections, which mean nothing."""
    found: dict[str, Any] = {}
    for key, value in main.items():
        found.update(value if isinstance(value, Mapping) else {key: value})
    return found


def set_right(
    main: Mapping[str, Any], dataset: Mapping[str, Any], *, family: str, device: str = "gpu", pictures: int = 0
) -> tuple[Files, tuple[Message, ...]]:
    """Copies of both files with every trap set right, and what to warn of. ``problems`` of the result must be empty."""
    entries = [
        {**entry, "subsets": [dict(subset) for subset in entry.get("subsets", [])]}
        for entry in dataset.get("datasets", [])
    ]
    files = Files(flat(main), {"datasets": entries}, family, device, pictures)
    said = [remark for trap in TRAPS for remark in trap(files)]
    return files, tuple(said)


def with_paths(
    files: Files, *, output_dir: Path, output_name: str, tokenizers: Path, state: Path | None
) -> dict[str, Any]:
    """The options for one sitting: where everything goes, and the state that it goes on from."""
    main = dict(files.main)
    main.update(
        output_dir=str(output_dir),
        output_name=output_name,
        save_model_as="safetensors",
        save_state=True,
        save_state_on_train_end=False,
        tokenizer_cache_dir=str(tokenizers),
        console_log_simple=True,
    )
    if state is not None:
        # The pictures of the beginning were made then.
        main.pop("sample_at_first", None)
        # Its own count of steps starts anew with each sitting and is not to be trusted: ``kohya_launch`` counts.
        main.update(resume=str(state), initial_step=0)
    return main


# ------------------------------------------------------------------------------------------------ the traps


def _only_its_own(files: Files) -> Iterator[Message]:
    """Options that it does not know are ignored without a word, in the config file; what of ours matters is named."""
    from ..config import TrainConfig, to_kohya

    usual = flat(to_kohya(TrainConfig())[0])
    for key in [key for key in files.main if key.startswith("atelier_")]:
        value = files.main.pop(key)
        if key not in _OBEYED and value != usual.get(key):
            yield message(
                "“{option}” is an option of LoRA Atelier's own trainer; sd-scripts goes without it.",
                option=key.removeprefix("atelier_"),
            )


def _its_schema(files: Files) -> Iterator[Message]:
    """The dataset file has a strict schema: an empty text or an option of ours would end the run."""
    for entry in files.entries():
        for key in [key for key, value in entry.items() if key != "subsets" and not _kept(key, value, DATASET_KEYS)]:
            del entry[key]
    for subset in files.subsets():
        for key in [key for key, value in subset.items() if not _kept(key, value, SUBSET_KEYS | _PLACES)]:
            del subset[key]
    yield from ()


_PLACES = {"image_dir", "caption_extension", "conditioning_data_dir"}


def _kept(key: str, value: Any, known: set[str] | frozenset[str]) -> bool:
    return key in known and value not in ("", None, [])


def _folders_in_the_main_file(files: Files) -> Iterator[Message]:
    """Ignored beside a dataset file, with a warning that would look like ours."""
    for key in ("train_data_dir", "reg_data_dir", "in_json", "dataset_config", "config_file"):
        files.main.pop(key, None)
    yield from ()


def _attention(files: Files) -> Iterator[Message]:
    """Without an option it computes attention the slow way, in all the memory that takes; xformers may be missing."""
    if files.main.pop("xformers", False) or not files.on("mem_eff_attn"):
        files.main["sdpa"] = True
    yield from ()


def _precision(files: Files) -> Iterator[Message]:
    """fp16 ends a run on the processor: "fp16 mixed precision requires a GPU"."""
    if files.device == "cpu" and files.main.get("mixed_precision") == "fp16":
        files.main["mixed_precision"] = "no"
        for key in ("full_fp16", "fp8_base", "fp8_base_unet"):
            files.main.pop(key, None)
        yield message("Without a graphics card sd-scripts can't compute in fp16; it computes in float32.")


def _disk_caches(files: Files) -> Iterator[Message]:
    """Its caches beside the pictures are taken for good whatever changed: picture, resolution or VAE."""
    for key in ("cache_latents", "cache_text_encoder_outputs"):
        if files.main.pop(f"{key}_to_disk", False):
            files.main[key] = True
    for key in ("cache_info", "skip_cache_check"):
        files.main.pop(key, None)
    yield from ()


def _caches_in_memory(files: Files) -> Iterator[Message]:
    """What is drawn anew each time can't be cached: it ends with an AssertionError that does not name the option."""
    if files.anywhere("random_crop") or files.anywhere("color_aug"):
        files.main.pop("cache_latents", None)
    varied = ("shuffle_caption", "caption_dropout_rate", "caption_tag_dropout_rate", "token_warmup_step")
    if not files.on("network_train_unet_only") or any(files.anywhere(key) for key in varied):
        files.main.pop("cache_text_encoder_outputs", None)
    yield from ()


def _captions_of_one_window(files: Files) -> Iterator[Message]:
    """75 tokens are its default, which it knows only as the absence of the option."""
    if files.main.get("max_token_length") == 75:
        del files.main["max_token_length"]
    yield from ()


def _workers(files: Files) -> Iterator[Message]:
    """Every worker starts with the same random numbers, so all of them draw the same flips and shuffles."""
    cached = files.on("cache_latents")
    files.main["max_data_loader_n_workers"] = 0 if cached else 1
    # A worker that ends with each epoch costs seconds each time.
    files.main["persistent_data_loader_workers"] = not cached
    yield from ()


def _masked_loss(files: Files) -> Iterator[Message]:
    """Folders of masks are "extra keys" unless masked_loss is on; then every folder of a dataset must have one."""
    if not any(subset.get("conditioning_data_dir") for subset in files.subsets()):
        return
    files.main["masked_loss"] = True
    for at, entry in enumerate(files.entries()):
        masked = [bool(subset.get("conditioning_data_dir")) for subset in entry.get("subsets", [])]
        if any(masked) and not all(masked):
            files.problems.append(
                problem(
                    f"data.datasets.{at}",
                    "sd-scripts takes masks for all folders of a dataset or for none; put the folders without masks "
                    "(also regularisation pictures) into a dataset of their own, or use our own trainer.",
                )
            )
    if files.anywhere("enable_bucket"):
        yield message(
            "sd-scripts crops pictures to their bucket and stretches the masks: at the edges of pictures of other "
            "shapes they are up to 5 % apart."
        )


def _validation(files: Files) -> Iterator[Message]:
    """Without validation_seed the held-out pictures are drawn twice, and more than half of them are trained on too."""
    if 0 < files.pictures < _FEWEST_FOR_HOLDING_OUT:
        files.main["validation_split"] = 0.0
    if files.on("validation_split"):
        if files.main.get("validation_seed") is None:
            files.main["validation_seed"] = files.main.get("seed", 1)
        if not files.on("validate_every_n_steps") and not files.on("validate_every_n_epochs"):
            # Its default, after every epoch, can take longer than the training where the pictures are few.
            files.main["validate_every_n_steps"] = files.every(_MEASUREMENTS) or 100
            files.main["validate_every_n_epochs"] = _NEVER
    yield from ()


def _how_often(files: Files) -> Iterator[Message]:
    """0 is no number of steps to it, and without one nothing is kept to go on from before the end."""
    for key in ("save_every_n_steps", "sample_every_n_steps", "validate_every_n_steps"):
        if key in files.main and not files.main[key]:
            del files.main[key]
    if not any(files.on(key) for key in ("save_every_n_steps", "save_every_n_epochs", "save_n_epoch_ratio")):
        if files.steps:
            files.main["save_every_n_steps"] = files.every(_CHECKPOINTS)
        else:
            files.main["save_n_epoch_ratio"] = _CHECKPOINTS
    sampled = files.on("sample_every_n_steps") or files.on("sample_every_n_epochs")
    if not files.on("sample_prompts"):
        # It would look for the file of prompts before it looks whether there is one: TypeError.
        for key in ("sample_at_first", "sample_every_n_steps", "sample_every_n_epochs"):
            files.main.pop(key, None)
    elif files.steps and not sampled:
        files.main["sample_every_n_steps"] = files.every(_SAMPLES)
    # It would delete states that are still to be gone on from; we keep two ourselves.
    for key in ("save_last_n_steps_state", "save_last_n_epochs_state"):
        files.main.pop(key, None)
    yield from ()


def _offloaded_checkpointing(files: Files) -> Iterator[Message]:
    """cpu_offload_checkpointing is passed to U-Nets that do not take it: TypeError."""
    if files.main.pop("cpu_offload_checkpointing", False):
        files.main["gradient_checkpointing"] = True
        yield message("sd-scripts fails with cpu_offload_checkpointing on this model; gradient_checkpointing is used.")


def _terminal_snr(files: Files) -> Iterator[Message]:
    """The weights of min-SNR and debiased losses come from the schedule as it was before zero_terminal_snr."""
    weighted = files.on("min_snr_gamma") or files.on("debiased_estimation_loss")
    if files.on("zero_terminal_snr") and weighted:
        yield message(
            "With zero_terminal_snr, sd-scripts weighs the steps by the unchanged schedule: nearly pure noise gets a "
            "small weight instead of none."
        )


def _huber_scale(files: Files) -> Iterator[Message]:
    """huber_scale has no effect with huber_schedule = snr, the default."""
    schedule = files.main.get("huber_schedule", "snr")
    if files.main.get("huber_scale", 1.0) != 1.0 and schedule == "snr":
        yield message("huber_scale has no effect in sd-scripts with huber_schedule = snr; choose another schedule.")


def _bucket_steps(files: Files) -> Iterator[Message]:
    """Sides of buckets must be multiples of 64, for SDXL of 32."""
    least = _BUCKET_STEPS.get(files.family, 64)
    for place in [files.main, *files.entries()]:
        steps = place.get("bucket_reso_steps")
        if isinstance(steps, int) and steps % least:
            place["bucket_reso_steps"] = max(least, -(-steps // least) * least)
            yield message(
                "sd-scripts needs bucket steps in multiples of {least}; {steps} became {now}.",
                least=least,
                steps=steps,
                now=place["bucket_reso_steps"],
            )


def _same_seed_twice(files: Files) -> Iterator[Message]:
    """Without a seed it draws one that only its log knows; a run that goes on would have another."""
    files.main.setdefault("seed", 1)
    yield from ()


def _resuming(files: Files) -> Iterator[Message]:
    """A resumed pass over the pictures is shuffled anew: some come twice in it and some not at all."""
    for key in ("resume", "initial_step", "initial_epoch", "skip_until_initial_step", "resume_from_huggingface"):
        files.main.pop(key, None)
    yield from ()


TRAPS: tuple[Trap, ...] = (
    _only_its_own,
    _its_schema,
    _folders_in_the_main_file,
    _attention,
    _precision,
    _disk_caches,
    _caches_in_memory,
    _captions_of_one_window,
    _workers,
    _masked_loss,
    _validation,
    _how_often,
    _offloaded_checkpointing,
    _terminal_snr,
    _huber_scale,
    _bucket_steps,
    _same_seed_twice,
    _resuming,
)
