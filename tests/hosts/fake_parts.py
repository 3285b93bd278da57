"""What the fake webuis are made of: prompts' tags, their state, embeddings, text encoders and small models."""

import types

from torch import nn

WIDTH = 8


class Params:
    def __init__(self, items=None):
        self.items = items or []
        self.positional = [item for item in self.items if item.count("=") != 1]
        self.named = dict(item.split("=") for item in self.items if item.count("=") == 1)

    def __eq__(self, other):
        return self.items == other.items


class ExtraNetwork:
    def __init__(self, name):
        self.name = name


class Processing:
    """What a generation is to extensions."""

    def __init__(self, prompt, host):
        self.prompts = [prompt]
        self.extra_generation_params = {}
        self.comments = {}
        self.cached_c, self.cached_uc = host.cached_c, host.cached_uc
        self.disable_extra_networks = False

    def comment(self, text):
        self.comments[text] = 1


class State:
    """What the webui shows of its work."""

    def __init__(self):
        self.job, self.interrupted, self.jobs = "", False, []

    def begin(self, job="(unknown)"):
        self.job, self.interrupted = job, False
        self.jobs.append(job)

    def end(self):
        self.job = ""


class NextState(State):
    """SD.Next's knows each job by a number of its own."""

    def begin(self, title="", task_id=0, api=None):
        super().begin(title)
        return "17"

    def end(self, task_id=None, api=None):
        assert task_id == "17"
        super().end()


class Embedding:
    """A word's vectors, as all webuis of the family hold them."""

    def __init__(self, vec, name, step=None):
        self.vec, self.name, self.step, self.vectors, self.shape = vec, name, step, 0, None


class EmbeddingDatabase:
    """Words by name, and by the number that they begin with; it can be read from its folder again at any time."""

    def __init__(self):
        self.word_embeddings, self.ids_lookup, self.expected_shape = {}, {}, WIDTH

    def register_embedding_by_name(self, embedding, model, name):
        assert model is not None
        self.word_embeddings[name] = embedding
        self.ids_lookup.setdefault(len(name), []).append(([len(name)], embedding))

    def words(self):
        """What a prompt can say, each word found in both ways."""
        found = {each.name: each.vec for entries in self.ids_lookup.values() for _, each in entries}
        assert found.keys() == self.word_embeddings.keys() and all(self.ids_lookup.values())
        return {name: vec.tolist() for name, vec in found.items()}


class ForgeEmbeddingDatabase(EmbeddingDatabase):
    """Forge's belong to a text encoder, with whose tokenizer they know the first number."""

    tokenizer = "of its engine"

    def register_embedding_by_name(self, embedding, name):
        super().register_embedding_by_name(embedding, self, name)


class Tokenizer:
    """transformers' slow kind, as far as adding words goes."""

    def __init__(self):
        self._added_tokens_decoder, self._added_tokens_encoder, self.tries = {}, {}, 0

    def get_vocab(self):
        return {"cat": 0, **self._added_tokens_encoder}

    def _update_trie(self):
        self.tries += 1


class TextEncoder(nn.Module):
    """One layer and a table with a row for each word."""

    def __init__(self):
        super().__init__()
        self.text_model = text_model().text_model
        self.table = nn.Embedding(1, WIDTH)
        self.config = types.SimpleNamespace(vocab_size=1)

    def get_input_embeddings(self):
        return self.table


class Txt2Img(types.SimpleNamespace):
    """What a picture is asked for with, by name only; closed when it is made."""

    closed = False

    def close(self):
        self.closed = True


def tree(paths):
    """Nested modules of ``{path: module}``."""
    root = nn.Module()
    for path, module in paths.items():
        *parents, last = path.split(".")
        at = root
        for name in parents:
            if name not in dict(at.named_children()):
                at.add_module(name, nn.Module())
            at = getattr(at, name)
        at.add_module(last, module)
    return root


def ldm_unet():
    """Two layers of an ldm U-Net, with the downsampler that tells how many resnets a block has."""
    block = "input_blocks.1.1.transformer_blocks.0.attn1"
    return tree({
        f"{block}.to_q": nn.Linear(WIDTH, WIDTH, bias=False),
        f"{block}.to_out.0": nn.Linear(WIDTH, WIDTH),
        "input_blocks.3.0.op": nn.Conv2d(2, 2, 3),
    })  # fmt: skip


def text_model():
    return tree({"text_model.encoder.layers.0.self_attn.q_proj": nn.Linear(WIDTH, WIDTH)})
