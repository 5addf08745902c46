"""The training loop for small decoders: AdamW with a warm-up, then a linear decay to zero.

One step: take a batch, weigh the cross-entropy of each target, clip the gradient, step. Deterministic for given
batches and weights: whoever makes the decoder and the batches holds the seeds.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice

import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm import tqdm

from ..errors import InputError
from ..models.decoder import Decoder


@dataclass(frozen=True)
class Batch:
    """Prompts, the token wanted at each position, and how much each of those counts (0: not at all)."""

    tokens: Int[Tensor, "batch pos"]
    targets: Int[Tensor, "batch pos"]
    weights: Float[Tensor, "batch pos"]


@dataclass(frozen=True)
class TrainingSettings:
    """How a decoder is trained; `learning_rate` is the highest one, reached after `warm_up` steps."""

    steps: int
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    warm_up: int = 50
    betas: tuple[float, float] = (0.9, 0.98)
    largest_gradient: float = 1.0

    def rate_at(self, step: int) -> float:
        """The share of `learning_rate` in use at a step."""
        rising = (step + 1) / max(self.warm_up, 1)
        falling = (self.steps - step) / max(self.steps - self.warm_up, 1)
        return min(1.0, rising, falling)


def train_decoder(
    decoder: Decoder, batches: Iterable[Batch], settings: TrainingSettings, *, title: str = "training"
) -> list[float]:
    """Train `decoder` in place on the first `settings.steps` batches; the loss of every step, in nats.

    Ends in evaluation mode. Errors: InputError where the batches run out early.
    """
    optimizer = torch.optim.AdamW(
        decoder.parameters(), lr=settings.learning_rate, betas=settings.betas, weight_decay=settings.weight_decay
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, settings.rate_at)
    losses: list[float] = []
    decoder.train()
    with tqdm(islice(batches, settings.steps), total=settings.steps, desc=title, mininterval=1) as steps:
        for batch in steps:
            loss = weighted_loss(decoder(batch.tokens), batch)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(decoder.parameters(), settings.largest_gradient)
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
            steps.set_postfix(loss=f"{losses[-1]:.3f}", refresh=False)
    decoder.eval()
    if len(losses) < settings.steps:
        raise InputError(f"{title}: expected {settings.steps} batches, got {len(losses)}; give more or train shorter")
    return losses


def weighted_loss(logits: Float[Tensor, "batch pos d_vocab"], batch: Batch) -> Float[Tensor, ""]:
    """Mean cross-entropy over the targets, each counted by its weight."""
    counted = batch.weights > 0
    each = torch.nn.functional.cross_entropy(logits[counted], batch.targets[counted], reduction="none")
    weights = batch.weights[counted]
    return (each * weights).sum() / weights.sum()
