"""HookedModel: any supported decoder, read and edited by site, and left as it was found.

run = model.run(model.to_tokens("When Mary and John …"), read=["resid_post.5", "z.8.3"])
run["z.8.3"]                                    # [batch, pos, d_head]
model.run(tokens, edits=[Edit("z.8.3", 0.0)]).logits
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from numbers import Integral
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..errors import InputError, MissingTokenizerError
from .edits import Edit
from .families import Family, family_of
from .inputs import batches_by_length, pad
from .runs import Run
from .selections import resolve_positions
from .sites import Site
from .taps import Stop, Taps, never_fired, pick_reads, select_logits


class HookedModel:
    """A decoder language model whose every site can be read and edited; the caller's module stays as it is.

    `module` is a Hugging Face `...ForCausalLM` of a known family or a `Decoder`; `tokenizer` a Hugging Face tokenizer
    or None. Errors: UnsupportedArchitectureError where no family knows the module.
    """

    def __init__(
        self,
        module: nn.Module,
        tokenizer: Any = None,
        *,
        name: str | None = None,
        provenance: Mapping[str, str] | None = None,
    ):
        self.family: Family = family_of(module)
        self.module = module
        self._tokenizer = tokenizer
        self.replay_checked: set[tuple[int, int, int]] = set()
        """For which (state of the module, prompt length, answer position) replay was found to equal the model."""
        self.name = name or type(module).__name__
        self.provenance: dict[str, str] = {"model": self.name} | dict(provenance or {})

    def __repr__(self) -> str:
        heads = f"{self.n_heads} heads" + (f" ({self.n_kv_heads} key/value)" if self.n_kv_heads < self.n_heads else "")
        return (
            f"HookedModel({self.name!r}: {self.family.name}, {self.n_layers} layers, {heads}, d_model {self.d_model}, "
            f"d_mlp {self.d_mlp}, vocabulary {self.d_vocab}, {str(self.dtype).removeprefix('torch.')} on {self.device})"
        )

    # -- facts -----------------------------------------------------------------------------------------------------

    @property
    def n_layers(self) -> int:
        """Number of blocks."""
        return self.family.n_layers

    @property
    def n_heads(self) -> int:
        """Attention heads per layer."""
        return self.family.n_heads

    @property
    def n_kv_heads(self) -> int:
        """Key/value heads per layer; fewer than `n_heads` under grouped-query attention."""
        return self.family.n_kv_heads

    @property
    def d_model(self) -> int:
        """Width of the residual stream."""
        return self.family.d_model

    @property
    def d_head(self) -> int:
        """Width of a head."""
        return self.family.d_head

    @property
    def d_mlp(self) -> int:
        """Neurons per MLP; 0 where there are none."""
        return self.family.d_mlp

    @property
    def d_vocab(self) -> int:
        """Size of the vocabulary."""
        return self.family.d_vocab

    @property
    def n_context(self) -> int:
        """The longest prompt."""
        return self.family.n_context

    @property
    def causal(self) -> bool:
        """Whether a token sees only what stands before it."""
        return self.family.causal

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.family.unembedding.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """The weights' type."""
        return self.family.unembedding.weight.dtype

    # -- text ------------------------------------------------------------------------------------------------------

    @property
    def tokenizer(self) -> Any:
        """The tokenizer, or None."""
        return self._tokenizer

    def to_tokens(self, text: str | Sequence[str], *, bos: bool = False) -> list[list[int]]:
        """Token ids of each text, without special tokens unless `bos` asks for the first one.

        Errors: MissingTokenizerError.
        """
        tokenizer = self._need_tokenizer("to_tokens")
        texts = [text] if isinstance(text, str) else list(text)
        rows = [list(tokenizer(one, add_special_tokens=False)["input_ids"]) for one in texts]
        if bos and tokenizer.bos_token_id is None:
            raise InputError(f"to_tokens: bos=True, but the tokenizer of {self.name} has no beginning-of-text token")
        return [[tokenizer.bos_token_id, *row] for row in rows] if bos else rows

    def to_str_tokens(self, tokens: Sequence[int] | Tensor) -> list[str]:
        """Each token of one prompt as text. Errors: MissingTokenizerError."""
        tokenizer = self._need_tokenizer("to_str_tokens")
        return [tokenizer.decode([int(token)]) for token in tokens]

    def _need_tokenizer(self, place: str) -> Any:
        if self._tokenizer is None:
            raise MissingTokenizerError(
                f"{place}: {self.name} has no tokenizer; give one with mk.load(…, tokenizer=…), or pass token ids"
            )
        return self._tokenizer

    # -- running ---------------------------------------------------------------------------------------------------

    def run(
        self,
        tokens: Any,
        *,
        read: str | Site | Sequence[str | Site] = (),
        edits: Edit | Sequence[Edit] = (),
        positions: Any = None,
        logits: Any = "all",
        gradients: bool = False,
    ) -> Run:
        """One forward pass.

        tokens: ids [batch, pos], or a list of prompts of any lengths. read: sites to keep, as they stand after the
        edits. edits: applied where they belong, in the order given at each site. positions: which positions of each
        read to keep (all by default; a number drops the axis; a [batch, n] table differs per prompt). logits: "all",
        "last", positions as above, or None — then the pass stops as soon as everything asked for has been seen.
        gradients: keep the graph from the sites read, for `run.gradients(metric)`.

        Errors: InputError for tokens and positions, SiteError and EditError for what does not fit the model; an edit
        or read that never fired is an EditError.
        """
        block, lengths = pad(tokens, self.d_vocab, self.n_context)
        block, lengths = block.to(self.device), lengths.to(self.device)
        reads = [Site.parse(site) for site in ([read] if isinstance(read, str | Site) else read)]
        if isinstance(logits, bool):
            raise InputError(f"run(logits={logits}): expected 'all', 'last', positions or None")
        want_logits = logits is not None or any(site.name == "logits" for site in reads)
        if gradients and not reads:
            raise InputError("run(gradients=True): name the sites to differentiate by in read=[…]")
        edits = [edits] if isinstance(edits, Edit) else list(edits)
        taps = Taps(self.family, reads, edits, lengths, gradients=gradients, stop_early=not want_logits)
        if not want_logits and not taps.reads:
            raise InputError("run: neither logits nor any site was asked for")
        if not want_logits and Site("logits") in taps.edits:
            raise never_fired([Site("logits")], stopped=True)
        out = self._forward(block, lengths, taps, logits if want_logits else None)
        if taps.unfired():
            raise never_fired(taps.unfired(), stopped=False)
        if out is not None:
            out = taps.visit(Site("logits"), out)
            out = self._chosen_logits(out, lengths, logits, taps)
        shown = pick_reads(taps.caught, positions, lengths)
        return Run(block, lengths, out, shown, taps.caught if gradients else {}, positions)

    def _forward(self, block: Tensor, lengths: Tensor, taps: Taps, logits: Any) -> Tensor | None:
        whole = logits is None or (isinstance(logits, str) and logits == "all") or _concerns_logits(taps)
        with ExitStack() as stack:
            stack.enter_context(_undisturbed(self.module, taps.gradients))
            stack.enter_context(taps.open())
            if not whole:
                chosen = self._logit_positions(lengths, logits, block.shape[1])
                stack.callback(select_logits(self.family, chosen).remove)
            try:
                return self.family.forward(block, lengths)
            except Stop:
                return None

    def _logit_positions(self, lengths: Tensor, logits: Any, size: int) -> Tensor:
        if isinstance(logits, str) and logits != "last":
            raise InputError(f"run(logits={logits!r}): expected 'all', 'last', positions or None")
        return resolve_positions(-1 if isinstance(logits, str) else logits, lengths, size, "logits")

    def _chosen_logits(self, out: Tensor, lengths: Tensor, logits: Any, taps: Taps) -> Tensor | None:
        if logits is None or (isinstance(logits, str) and logits == "all"):
            return None if logits is None and not taps.gradients else out
        if _concerns_logits(taps):  # the edits had to see every position
            rows = torch.arange(len(out), device=out.device)[:, None]
            out = out[rows, self._logit_positions(lengths, logits, out.shape[1]).to(out.device)]
        return out.squeeze(1) if isinstance(logits, str | Integral) else out

    def last_logits(
        self,
        prompts: Sequence[Sequence[int]],
        positions: Sequence[int] | Tensor | None = None,
        *,
        batch_tokens: int = 2048,
    ) -> Float[Tensor, "batch d_vocab"]:
        """Logits at one position of each prompt (the last by default), in batches of similar length."""
        where = torch.full((len(prompts),), -1) if positions is None else torch.as_tensor(positions)
        out: list[Tensor] = [torch.empty(0)] * len(prompts)
        for rows in batches_by_length([len(prompt) for prompt in prompts], batch_tokens):
            run = self.run([prompts[row] for row in rows], logits=where[rows][:, None])
            assert run.logits is not None
            for row, logits in zip(rows, run.logits[:, 0], strict=True):
                out[row] = logits
        return torch.stack(out)


def _concerns_logits(taps: Taps) -> bool:
    return Site("logits") in taps.edits or Site("logits") in taps.reads


@contextmanager
def _undisturbed(module: nn.Module, gradients: bool) -> Iterator[None]:
    """Evaluation mode and no parameter gradients for the length of one pass; flags are restored one by one."""
    training = [part for part in module.modules() if part.training]
    trainable = [parameter for parameter in module.parameters() if parameter.requires_grad] if gradients else []
    try:
        for part in training:
            part.training = False
        for parameter in trainable:
            parameter.requires_grad_(False)
        with torch.set_grad_enabled(gradients):
            yield
    finally:
        for part in training:
            part.training = True
        for parameter in trainable:
            parameter.requires_grad_(True)
