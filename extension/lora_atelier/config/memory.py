"""What is kept in which precision and where, and what is computed beforehand: less memory, or less time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ..errors import Problem, problem
from .setting import SAME, checked, setting

DYNAMO_BACKENDS = (
    "inductor", "eager", "aot_eager", "aot_ts_nvfuser", "nvprims_nvfuser", "cudagraphs", "ofi", "fx2trt", "onnxrt",
    "tensort", "ipex", "tvm",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class MemoryConfig:
    """What is kept in which precision and where, and what is computed beforehand."""

    full_fp16: bool = setting(
        False, "Adapter in fp16", "The adapter, its gradients and the optimizer in fp16 too; less exact.", kohya=SAME
    )
    full_bf16: bool = setting(
        False, "Adapter in bf16", "The adapter, its gradients and the optimizer in bf16 too; less exact.", kohya=SAME
    )
    fp8_base: bool = setting(
        False, "Base model in fp8", "The frozen base model in 8 bits a number: a quarter of the memory.", kohya=SAME
    )
    fp8_base_unet: bool = setting(
        False, "U-Net in fp8", "The same for the U-Net alone; the text encoders keep their precision.", kohya=SAME
    )
    cache_latents: bool = setting(
        True,
        "Encode pictures once",
        "The VAE encodes each picture once, not at each step.",
        kohya=SAME,
        absent=False,
    )
    cache_latents_to_disk: bool = setting(
        False, "Keep them on disk", "Encoded pictures are kept for the next run.", kohya=SAME
    )
    skip_cache_check: bool = setting(
        False, "Trust the kept pictures", "Encoded pictures on disk are used without being checked.", kohya=SAME
    )
    vae_batch_size: int = setting(
        1, "Pictures at once", "How many pictures the VAE encodes at once.", kohya=SAME, least=1
    )
    cache_text_encoder_outputs: bool = setting(
        False, "Encode captions once", "The text encoders read each caption once, before the first step.", kohya=SAME
    )
    cache_text_encoder_outputs_to_disk: bool = setting(
        False, "Keep them on disk too", "Encoded captions are kept for the next run.", kohya=SAME
    )
    cpu_offload_checkpointing: bool = setting(
        False, "Checkpoints in main memory", "Gradient checkpointing keeps its values off the card.", kohya=SAME
    )
    lowram: bool = setting(False, "Little main memory", "The base model is loaded straight onto the card.", kohya=SAME)
    highvram: bool = setting(False, "Much card memory", "Nothing is freed between the stages.", kohya=SAME)
    sdpa: bool = setting(True, "PyTorch's attention", "torch's scaled_dot_product_attention.", kohya=SAME)
    xformers: bool = setting(False, "xformers' attention", "The package xformers computes attention.", kohya=SAME)
    mem_eff_attn: bool = setting(
        False, "Sliced attention", "Attention in slices: slow, with little memory.", kohya=SAME
    )
    torch_compile: bool = setting(
        False, "Compile", "torch.compile the U-Net: a slow start, then faster steps.", kohya=SAME
    )
    dynamo_backend: str = setting(
        "inductor", "Compiler", "The backend of torch.compile.", kohya=SAME, choices=DYNAMO_BACKENDS
    )
    max_data_loader_n_workers: int = setting(
        0, "Reading processes", "Processes that prepare pictures beside the training; 0 is none.", kohya=SAME, least=0
    )
    persistent_data_loader_workers: bool = setting(
        False, "Keep them", "Those processes live on between epochs.", kohya=SAME
    )

    def problems(self) -> Iterator[Problem]:
        """Yield everything that is wrong with these settings."""
        yield from checked("memory", self)
        if self.full_fp16 and self.full_bf16:
            yield problem("memory.full_fp16", "full_fp16 and full_bf16 exclude each other; keep one.")
