"""The small model that stands in where no real language model is to be had: it completes indirect-object sentences.

1. Draw prompts from `tasks.ioi`, with a word-level tokenizer of exactly the words that its sentences are made of.
2. Every step puts fresh names at the prompts' positions IO, S1 and S2, so that nothing can be learned by heart.
3. Names come from a pool that grows from a few to all: with all of them from the start, a model this small learns to
   name *one of the two* and then stays there.
4. Measure on prompts of another seed, and keep the model in the cache under a hash of everything that made it.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from ..errors import MechkitError
from ..models.decoder import Decoder, DecoderConfig
from ..models.files import cache_folder, filling, write_facts
from ..models.hooked import HookedModel
from ..models.loading import load
from ..tasks import Pairs, ioi
from ..tasks.words import IOI_FRAMES, NAMES, OBJECTS, PLACES
from .loop import Batch, TrainingSettings, train_decoder
from .tokenizer import word_tokenizer

NAME = "small-ioi"
VERSION = 2
"""Raised when this file's way of training changes, so that old cached models are not taken for new ones."""
ENOUGH = 0.99
HELD_OUT = 500


@dataclass(frozen=True)
class SmallIOISettings:
    """Everything that decides what the small model becomes, but for the words themselves."""

    n_layers: int = 3
    n_heads: int = 4
    d_model: int = 64
    d_mlp: int = 128
    prompts: int = 4000
    batch: int = 32
    few_names: int = 8
    steps_with_few_names: int = 300
    steps_to_all_names: int = 900
    weight_of_other_words: float = 0.02
    seed: int = 0
    training: TrainingSettings = field(default_factory=lambda: TrainingSettings(steps=1500, learning_rate=3e-3))

    def known_names(self, step: int, of: int) -> int:
        """How many of the names are in use at a step: a few, then growing by the same factor each step, then all."""
        grown = (step - self.steps_with_few_names) / (self.steps_to_all_names - self.steps_with_few_names)
        return round(self.few_names * (of / self.few_names) ** min(max(grown, 0.0), 1.0))


def small_ioi(cache: bool = True, settings: SmallIOISettings | None = None) -> HookedModel:
    """A small decoder that completes indirect-object sentences, trained once and then taken from the cache.

    `cache=False` trains it again and writes nothing. Errors: MechkitError where it misses 99 % on held-out prompts.
    """
    settings = settings or SmallIOISettings()
    folder = cache_folder() / "trained" / f"{NAME}-{_fingerprint(settings)}"
    if not (cache and folder.is_dir()):
        decoder, tokenizer, accuracy = _train(settings)
        facts = {
            "name": NAME,
            "source": "trained by mechkit.training.small_ioi",
            "training_seed": str(settings.seed),
            "held_out_accuracy": f"{accuracy:.3f}",
        }
        if not cache:
            return HookedModel(decoder, tokenizer, name=NAME, provenance=facts)
        with filling(folder) as partial:
            decoder.save(partial)
            tokenizer.save_pretrained(partial)
            write_facts(partial, facts)
    return load(folder, device="cpu")


def _fingerprint(settings: SmallIOISettings) -> str:
    made_of = [VERSION, asdict(settings), IOI_FRAMES, NAMES, PLACES, OBJECTS]
    return hashlib.sha256(json.dumps(made_of).encode()).hexdigest()[:16]


def ioi_tokenizer() -> Any:
    """A word-level tokenizer of exactly the words that `tasks.ioi` makes its sentences of."""
    name, place, thing = NAMES[0], PLACES[0], OBJECTS[0]
    sentences = [frame.format(A=name, B=name, S=name, place=place, object=thing) for frame in IOI_FRAMES]
    # the task looks words up as "the store", "a drink" and "and Mary", so these three also begin a text
    return word_tokenizer(["the", "a", "and", *sentences, *(f" {word}" for word in (*NAMES, *PLACES, *OBJECTS))])


def _train(settings: SmallIOISettings) -> tuple[Decoder, Any, float]:
    tokenizer = ioi_tokenizer()
    names = torch.tensor(tokenizer.convert_tokens_to_ids([f" {name}" for name in NAMES]))
    prompts = ioi(tokenizer, n=settings.prompts, seed=settings.seed).pairs
    config = DecoderConfig(
        n_layers=settings.n_layers,
        n_heads=settings.n_heads,
        d_model=settings.d_model,
        d_mlp=settings.d_mlp,
        d_vocab=len(tokenizer),
        n_context=2 * int(prompts.lengths.max()),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        decoder = Decoder(config)
    train_decoder(decoder, _batches(prompts, names, settings), settings.training, title="training the small model")
    accuracy = _accuracy(decoder, ioi(tokenizer, n=HELD_OUT, seed=settings.seed + 1).pairs)
    if accuracy < ENOUGH:
        raise MechkitError(
            f"small_ioi: expected at least {ENOUGH:.0%} right on held-out prompts, got {accuracy:.1%}; "
            "train longer or with another seed (settings=SmallIOISettings(...))"
        )
    return decoder, tokenizer, accuracy


def _batches(prompts: Pairs, names: Int[Tensor, " names"], settings: SmallIOISettings) -> Iterator[Batch]:
    """Batches without end; END counts fully, the words before it a little."""
    generator = torch.Generator().manual_seed(settings.seed)
    rows = torch.nn.utils.rnn.pad_sequence([torch.tensor([*prompt, 0]) for prompt in prompts.clean], batch_first=True)
    io, subject, repeated, end = (prompts.positions[name] for name in ("IO", "S1", "S2", "END"))
    place = torch.arange(rows.shape[1] - 1)
    step = 0
    while True:
        pool = names[: settings.known_names(step, len(names))]
        chosen = torch.randint(len(rows), (settings.batch,), generator=generator)
        two = pool[torch.rand(settings.batch, len(pool), generator=generator).topk(2).indices]
        tokens, each = rows[chosen], torch.arange(settings.batch)
        tokens[each, io[chosen]] = two[:, 0]
        tokens[each, subject[chosen]] = two[:, 1]
        tokens[each, repeated[chosen]] = two[:, 1]
        tokens[each, end[chosen] + 1] = two[:, 0]
        last = end[chosen][:, None]
        weights = (place == last).float() + settings.weight_of_other_words * (place < last)
        yield Batch(tokens[:, :-1], tokens[:, 1:], weights)
        step += 1


@torch.no_grad()
def _accuracy(decoder: Decoder, pairs: Pairs) -> float:
    """The share of clean prompts whose most likely next word is the answer."""
    tokens = torch.nn.utils.rnn.pad_sequence([torch.tensor(prompt) for prompt in pairs.clean], batch_first=True)
    logits = decoder(tokens)[torch.arange(len(pairs)), pairs.positions["END"]]
    return (logits.argmax(dim=-1) == pairs.answers[:, 0]).double().mean().item()
