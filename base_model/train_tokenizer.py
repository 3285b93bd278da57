"""Make the base model's tokenizer: CLIP's kind (lower case, bytes, ``</w>``), its merges learned from our captions."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import CLIPTokenizer

from lora_atelier.embedded import world

# Words that people will write and that the world's captions do not hold; each becomes one token.
WORDS = """
figure person character style drawing photo picture toy girl boy man woman cat dog bird tree house face eyes hair
hat dress band stripe body head hand arm leg smile happy sad big little tiny huge bright dark light pale deep soft
hard round flat simple plain background foreground front back side view close up far near and with without of in on
at the an a to from under over above below between behind two three one four many few some no not very painting
sketch ink line lines outline watercolor pixel cartoon anime real object thing flower sun moon sky sea water fire
snow mountain road city room table cup book car boat fish apple banana grey brown gold silver beige standing sitting
running looking wearing holding
""".split()
# How CLIP cuts a text before it merges bytes.
_PIECES = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


def train(folder: Path) -> int:
    """Write the tokenizer's files into ``folder`` and return the size of its vocabulary."""
    tokenizer = Tokenizer(models.BPE(continuing_subword_prefix="", end_of_word_suffix="</w>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PIECES), "removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=1022,
        initial_alphabet=alphabet,
        end_of_word_suffix="</w>",
        min_frequency=40,
        show_progress=False,
    )
    tokenizer.train_from_iterator([*world.captions(20_000, seed=5), *(w for w in WORDS for _ in range(200))], trainer)
    merges = [" ".join(pair) for pair in json.loads(tokenizer.to_str())["model"]["merges"]]
    tokens = [*alphabet, *(f"{byte}</w>" for byte in alphabet), *(merge.replace(" ", "") for merge in merges)]
    vocabulary = [*dict.fromkeys(tokens), "<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True, exist_ok=True)
    numbers = {token: number for number, token in enumerate(vocabulary)}
    (folder / "vocab.json").write_text(json.dumps(numbers, ensure_ascii=False), encoding="utf-8")
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]), encoding="utf-8")
    made = CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=77)
    made.save_pretrained(folder)
    return len(vocabulary)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--state", type=Path, required=True)
    print(train(parser.parse_args().state / "tokenizer"), "tokens")
