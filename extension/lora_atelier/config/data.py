"""The pictures of a run: folders, how their captions are read, and the sizes that they are trained at."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from ..errors import Problem, problem
from .setting import SAME, checked, setting

INTERPOLATIONS = ("", "lanczos", "nearest", "bilinear", "linear", "bicubic", "cubic", "area")


@dataclass(frozen=True, kw_only=True)
class SubsetConfig:
    """One folder of pictures, or the pictures that a metadata file lists."""

    image_dir: str = setting("", "Folder", "The folder that holds the pictures.", kohya=SAME)
    metadata_file: str = setting(
        "", "Metadata file", "A .json or .jsonl file that lists pictures and their captions.", kohya=SAME
    )
    num_repeats: int = setting(1, "Repeats", "How often each picture is seen in an epoch.", kohya=SAME, least=1)
    is_reg: bool = setting(False, "Regularisation", "Pictures that keep what the model already knows.", kohya=SAME)
    class_tokens: str = setting("", "Caption for pictures without one", "For example: momo figure.", kohya=SAME)
    caption_extension: str = setting(
        ".txt", "Caption files", "Ending of the caption files.", kohya=SAME, absent=".caption"
    )
    caption_separator: str = setting(",", "Separator", "What parts the tags of a caption.", kohya=SAME)
    keep_tokens: int = setting(
        0, "Tags that stay first", "So many tags are neither shuffled nor left out.", kohya=SAME, least=0
    )
    keep_tokens_separator: str = setting(
        "",
        "Separator of what stays",
        "Tags before this mark stay first, and those after a second one last.",
        kohya=SAME,
    )
    secondary_separator: str = setting(
        "", "Second separator", "Tags joined by it stay together; it becomes the first one at the end.", kohya=SAME
    )
    shuffle_caption: bool = setting(False, "Shuffle tags", "The tags come in another order each time.", kohya=SAME)
    enable_wildcard: bool = setting(
        False, "Wildcards", "One of the choices in braces is taken each time, and one of a caption's lines.", kohya=SAME
    )
    caption_prefix: str = setting("", "Before each caption", "Text put before each caption.", kohya=SAME)
    caption_suffix: str = setting("", "After each caption", "Text put after each caption.", kohya=SAME)
    caption_dropout_rate: float = setting(
        0.0, "Caption dropout", "Share of steps without caption.", kohya=SAME, least=0, most=1
    )
    caption_dropout_every_n_epochs: int = setting(
        0, "Epochs without captions", "Every so many epochs there are no captions; 0 is never.", kohya=SAME, least=0
    )
    caption_tag_dropout_rate: float = setting(
        0.0, "Tag dropout", "Chance that a tag is left out.", kohya=SAME, least=0, most=1
    )
    token_warmup_min: int = setting(
        1, "Tags at first", "How many tags a caption has at the beginning of a tag warm-up.", kohya=SAME, least=1
    )
    token_warmup_step: float = setting(
        0.0,
        "Tag warm-up",
        "Steps until captions have all their tags; below 1 a share of all, 0 is off.",
        kohya=SAME,
        least=0,
    )
    flip_aug: bool = setting(False, "Mirror", "Every second time mirrored; not for asymmetric figures.", kohya=SAME)
    color_aug: bool = setting(False, "Vary colours", "Brightness and hue change a little each time.", kohya=SAME)
    random_crop: bool = setting(
        False, "Random crop", "Another part of the picture each time, instead of its middle.", kohya=SAME
    )
    face_crop_aug_range: tuple[float, ...] = setting(
        (), "Crop around faces", "Two numbers, for example 2.0, 4.0: the cut's size in heights of the face.", kohya=SAME
    )
    resize_interpolation: str = setting(
        "", "Resampling", "How pictures are made smaller or larger; empty chooses.", kohya=SAME, choices=INTERPOLATIONS
    )
    alpha_mask: bool = setting(
        False, "Transparency is a mask", "Transparent parts of the pictures are not learned.", kohya=SAME
    )
    conditioning_data_dir: str = setting(
        "", "Folder of masks", "Black and white pictures of the same names: white is learned.", kohya=SAME
    )
    cache_info: bool = setting(
        False, "Remember sizes", "Sizes and captions are kept in a file, for folders of very many pictures.", kohya=SAME
    )
    # In kohya's file it stands in the table custom_attributes.
    diff_output_preservation: bool = setting(
        False, "Preserve what differs", "Pictures whose words without the trigger must draw what they drew.", kohya=SAME
    )

    def problems(self, where: str = "data") -> Iterator[Problem]:
        """Yield everything that is wrong with these settings; ``where`` is their place in the configuration."""
        if not self.image_dir and not self.metadata_file:
            yield problem(f"{where}.image_dir", "No pictures are chosen. Drop some pictures or choose a folder.")
        yield from checked(where, self)
        if self.is_reg and self.metadata_file:
            yield problem(f"{where}.is_reg", "Regularisation pictures can't come from a metadata file; give a folder.")
        if re.search(r"[/\\\0:]", self.caption_extension):
            yield problem(
                f"{where}.caption_extension",
                "Caption files can't end in “{ending}”: give an ending like .txt, without a folder.",
                ending=self.caption_extension,
            )
        if not self.caption_separator:
            yield problem(f"{where}.caption_separator", "There is no separator of tags; a comma is usual.")
        for name in ("secondary_separator", "keep_tokens_separator"):
            if getattr(self, name) == self.caption_separator != "":
                yield problem(f"{where}.{name}", "This is the separator of all tags; choose another one.")
        if self.face_crop_aug_range:
            low, high = self.face_crop_aug_range[0], self.face_crop_aug_range[-1]
            if len(self.face_crop_aug_range) != 2 or not 1 <= low <= high:
                yield problem(
                    f"{where}.face_crop_aug_range", "This must be two numbers from 1, the smaller one first: 2.0, 4.0."
                )


@dataclass(frozen=True, kw_only=True)
class DatasetConfig:
    """Folders that are trained at one resolution, and how pictures of other shapes are fitted."""

    subsets: tuple[SubsetConfig, ...] = ()
    resolution: tuple[int, int] = setting((512, 512), "Resolution", "Width and height in pixels.", kohya=SAME)
    batch_size: int = setting(1, "Batch size", "Pictures per step.", kohya=SAME, least=1)
    enable_bucket: bool = setting(True, "Buckets", "Keep the pictures' aspect ratios.", kohya=SAME, absent=False)
    min_bucket_reso: int = setting(256, "Shortest side", "Of a bucket, in pixels.", kohya=SAME)
    max_bucket_reso: int = setting(1024, "Longest side", "Of a bucket, in pixels.", kohya=SAME)
    bucket_reso_steps: int = setting(64, "Bucket steps", "Sides are multiples of this.", kohya=SAME)
    bucket_no_upscale: bool = setting(False, "Never enlarge", "Small pictures stay as they are.", kohya=SAME)
    network_multiplier: float = setting(
        1.0, "Strength of the LoRA", "The LoRA counts this much on these pictures; -1 makes a slider.", kohya=SAME
    )

    def problems(self, where: str = "data") -> Iterator[Problem]:
        """Yield everything that is wrong with these settings; ``where`` is their place in the configuration."""
        yield from checked(where, self)
        if self.bucket_reso_steps < 8 or self.bucket_reso_steps % 8:
            yield problem(
                f"{where}.bucket_reso_steps",
                "Bucket steps are {steps}; they must be a multiple of 8.",
                steps=self.bucket_reso_steps,
            )
        if min(self.resolution) < 64:
            yield problem(
                f"{where}.resolution", "The resolution is {size}; it must be 64 or more.", size=min(self.resolution)
            )
        if self.min_bucket_reso > self.max_bucket_reso:
            yield problem(f"{where}.min_bucket_reso", "The shortest side is longer than the longest side.")
        elif self.enable_bucket:
            yield from self._bucket_problems(where)
        else:
            yield from self._side_problems(where)
        for index, subset in enumerate(self.subsets):
            yield from subset.problems(f"{where}.subsets.{index}")

    def _bucket_problems(self, where: str) -> Iterator[Problem]:
        # With bucket_no_upscale each picture's own size is its bucket's, and the limits are not used.
        if self.bucket_no_upscale:
            return
        if min(self.resolution) < self.min_bucket_reso:
            yield problem(
                f"{where}.min_bucket_reso",
                "The shortest side is {side} and the resolution {resolution}; lower the one or raise the other.",
                side=self.min_bucket_reso,
                resolution=min(self.resolution),
            )
        if max(self.resolution) > self.max_bucket_reso:
            yield problem(
                f"{where}.max_bucket_reso",
                "The longest side is {side} and the resolution {resolution}; raise the one or lower the other.",
                side=self.max_bucket_reso,
                resolution=max(self.resolution),
            )

    def _side_problems(self, where: str) -> Iterator[Problem]:
        for side in self.resolution:
            if side % 8:
                yield problem(
                    f"{where}.resolution",
                    "The resolution is {size} and without buckets it must be a multiple of 8, like {near}.",
                    size=side,
                    near=max(64, round(side / 8) * 8),
                )


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """All pictures of a run."""

    datasets: tuple[DatasetConfig, ...] = ()

    def problems(self) -> Iterator[Problem]:
        """Yield everything that is wrong with these settings."""
        subsets = [subset for dataset in self.datasets for subset in dataset.subsets]
        if not subsets:
            yield problem("data", "No pictures are chosen. Drop some pictures or choose a folder.")
        elif all(subset.is_reg for subset in subsets):
            yield problem("data", "There are only regularisation pictures; give the pictures to learn from too.")
        for index, dataset in enumerate(self.datasets):
            yield from dataset.problems(f"data.datasets.{index}")
