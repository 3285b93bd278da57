"""A host around a model, and what it shows of its weights."""

import torch

from lora_atelier.locales import sentence
from lora_atelier.models import layers
from lora_atelier.models.stored import StoredModel
from lora_atelier.prompt import parse


class FakeHost:
    def __init__(self, model, *, with_te=True):
        self.model = model
        self._layers = layers.layers(model)
        if not with_te:
            self._layers = {name: m for name, m in self._layers.items() if not name.startswith("lora_te")}

    def layers(self):
        return self._layers

    def aliases(self):
        return layers.aliases(self.model)

    def family(self):
        return self.model.info.family

    def stored_weights(self):
        return StoredModel(self.model)

    def use_embeddings(self, embeddings):
        self.embeddings = embeddings
        return []

    def weights(self):
        return {name: layer.view("weight").clone() for name, layer in self._layers.items()}


def use(session, prompt):
    return [sentence(note) for note in session.use(parse(prompt).calls)]


def changed(host, before):
    return {name for name, weight in host.weights().items() if not torch.equal(weight, before[name])}


def same(host, before):
    return all(torch.equal(weight, before[name]) for name, weight in host.weights().items())
