"""Reading and editing every site of every family, against the model's own arithmetic."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from mechkit.errors import EditError, InputError, MissingTokenizerError, SiteError, UnsupportedArchitectureError
from mechkit.models import Decoder, DecoderConfig, Edit, HookedModel
from mechkit.models.sites import GLOBAL_SITES, LAYER_SITES

DECODERS = {
    "attention-only": {"d_mlp": None, "normalization": None},
    "full": {"d_mlp": 48},
    "rotary": {"d_mlp": 48, "positions": "rotary", "normalization": "rms", "activation": "silu"},
    "bidirectional": {"d_mlp": 48, "causal": False, "positions": None, "activation": "relu"},
}
FAMILIES = ["gpt2", "llama", "qwen2", "mistral", *DECODERS]
LENGTH = 9


def decoder(**changes) -> Decoder:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Decoder(DecoderConfig(3, 32, 4, 1024, 64, **changes)).eval()


@pytest.fixture(params=FAMILIES)
def model(request, tiny_models) -> HookedModel:
    """In float64, so that finite differences mean something."""
    known = request.param in DECODERS
    module = decoder(**DECODERS[request.param]) if known else copy.deepcopy(tiny_models[request.param])
    return HookedModel(module.double(), name=request.param)


@pytest.fixture
def gpt2(tiny_gpt2) -> HookedModel:
    return HookedModel(tiny_gpt2)


def prompts(seed: int, batch: int = 3, length: int = LENGTH) -> torch.Tensor:
    return torch.randint(0, 1000, (batch, length), generator=torch.Generator().manual_seed(seed))


def every_site(model: HookedModel) -> list[str]:
    layered = [name for name in LAYER_SITES if model.d_mlp or not name.startswith("mlp")]
    return [*GLOBAL_SITES, *(f"{name}.{layer}" for name in layered for layer in range(model.n_layers))]


def own_logits(model: HookedModel, tokens: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        out = model.module(tokens)
    return out if isinstance(out, torch.Tensor) else out.logits


def margin(logits: torch.Tensor) -> torch.Tensor:
    return logits[:, -1, 3] - logits[:, -1, 5]


def test_reading_changes_nothing_and_shapes_are_as_documented(model):
    tokens = prompts(0)
    run = model.run(tokens, read=every_site(model))
    assert torch.allclose(run.logits, own_logits(model, tokens), atol=1e-12)
    for site, activation in run.activations.items():
        assert tuple(activation.shape) == model.family.shape(site, 3, LENGTH), site


def test_an_identity_write_is_a_no_op(model):
    tokens = prompts(0)
    run = model.run(tokens, read=every_site(model))
    for site in every_site(model):
        again = model.run(tokens, edits=[Edit(site, run[site])])
        assert torch.allclose(again.logits, run.logits, atol=1e-10), site


def test_a_full_patch_of_the_residual_stream_reproduces_the_other_run(model):
    here, there = prompts(0), prompts(1)
    sites = [site for site in every_site(model) if site.startswith("resid") or site in GLOBAL_SITES]
    other = model.run(there, read=sites)
    for site in sites:
        if site == "embed" and model.family.name == "GPT-2":
            assert other["embed"].shape == (3, LENGTH, 32)
        patched = model.run(here, edits=[Edit(site, other[site])])
        assert torch.allclose(patched.logits, other.logits, atol=1e-10), site


def test_the_parts_of_attention_agree(model):
    run = model.run(prompts(0), read=every_site(model))
    for layer in range(model.n_layers):
        pattern, groups = run[f"pattern.{layer}"], model.n_heads // model.n_kv_heads
        assert torch.allclose(run[f"attn_scores.{layer}"].softmax(-1), pattern, atol=1e-12)
        v = run[f"v.{layer}"].repeat_interleave(groups, dim=2)
        assert torch.allclose(torch.einsum("bhqk,bkhd->bqhd", pattern, v), run[f"z.{layer}"], atol=1e-12)
        bias = getattr(model.family.output_projection(layer), "bias", None)
        written = run[f"result.{layer}"].sum(dim=2) + (0 if bias is None else bias)
        assert torch.allclose(written, run[f"attn_out.{layer}"], atol=1e-12)


def test_the_residual_stream_sums_up(model):
    run = model.run(prompts(0), read=every_site(model))
    for layer in range(model.n_layers):
        middle = run[f"resid_pre.{layer}"] + run[f"attn_out.{layer}"]
        assert torch.allclose(middle, run[f"resid_mid.{layer}"], atol=1e-12)
        after = middle + run[f"mlp_out.{layer}"] if model.d_mlp else middle
        assert torch.allclose(after, run[f"resid_post.{layer}"], atol=1e-12)
        if layer:
            assert torch.equal(run[f"resid_pre.{layer}"], run[f"resid_post.{layer - 1}"])


def test_gradients_agree_with_finite_differences(model):
    tokens = prompts(0)
    single = model.family.name == "Llama-like"  # its norm computes in float32 whatever the weights are
    step, rtol, atol = (3e-4, 2e-2, 0.1) if single else (1e-5, 2e-4, 1e-5)
    run = model.run(tokens, read=every_site(model), gradients=True)
    gradients = run.gradients(margin)
    generator = torch.Generator().manual_seed(2)
    for site in every_site(model):
        value = run[site].detach()
        towards = torch.randn(value.shape, generator=generator, dtype=value.dtype)
        if site.startswith("attn_scores"):
            towards = towards * (value > -1e30)  # masked scores stay masked

        def at(amount, site=site, value=value, towards=towards):
            return margin(model.run(tokens, edits=[Edit(site, value + amount * towards)]).logits).sum()

        slope = (at(step) - at(-step)) / (2 * step)
        assert torch.isclose(slope, (gradients[site] * towards).sum(), rtol=rtol, atol=atol), site


def test_the_gradient_reaches_resid_mid_whole(model):
    run = model.run(prompts(0), read=every_site(model), gradients=True)
    gradients = run.gradients(margin)
    for layer in range(model.n_layers):
        expected = gradients[f"attn_out.{layer}"]
        assert torch.allclose(gradients[f"resid_mid.{layer}"], expected, atol=1e-12)
        assert torch.allclose(gradients[f"result.{layer}"], expected[:, :, None], atol=1e-12)


def test_a_write_to_resid_mid_reaches_mlp_and_residual_stream(model):
    """What a hook on the second norm's input gets wrong."""
    last = model.n_layers - 1
    other = model.run(prompts(1), read=[f"resid_mid.{last}"])
    patched = model.run(prompts(0), edits=[Edit(f"resid_mid.{last}", other[f"resid_mid.{last}"])])
    assert torch.allclose(patched.logits, other.logits, atol=1e-10)


def test_padding_changes_nothing(model):
    long, short = prompts(0, 1)[0].tolist(), prompts(1, 1, 5)[0].tolist()
    sites = [site for site in every_site(model) if "scores" not in site and "pattern" not in site]
    both, alone = model.run([long, short], read=sites), model.run([short], read=sites)
    assert both.mask.tolist() == [[True] * 9, [True] * 5 + [False] * 4]
    for site in sites:
        assert torch.allclose(both[site][1, :5], alone[site][0], atol=1e-10), site
    pattern = model.run([long, short], read=["pattern.1"])["pattern.1"]
    assert torch.allclose(pattern[1, :, :5, :5], model.run([short], read=["pattern.1"])["pattern.1"][0], atol=1e-10)


def test_edits_on_ragged_prompts_count_from_each_end(model):
    long, short = prompts(0, 1)[0].tolist(), prompts(1, 1, 5)[0].tolist()
    edits = [Edit("z.1.2", 0.0, positions=-1), Edit("attn_out.0", 0.5, "scale", positions=[0, -2])]
    both = model.run([long, short], edits=edits, logits="last").logits
    assert torch.allclose(both[1], model.run([short], edits=edits, logits="last").logits[0], atol=1e-10)


def test_chosen_positions_and_logits(gpt2):
    tokens = prompts(0)
    whole = gpt2.run(tokens, read=["z.1", "pattern.1"])
    some = gpt2.run(tokens, read=["z.1", "pattern.1"], positions=[0, -1], logits=[2, -1])
    assert torch.equal(some["z.1"], whole["z.1"][:, [0, -1]])
    assert torch.equal(some["pattern.1.2"], whole["pattern.1"][:, 2, [0, -1]])
    assert torch.allclose(some.logits, whole.logits[:, [2, -1]], atol=1e-5)
    assert gpt2.run(tokens, read=["z.1"], positions=-1)["z.1"].shape == (3, 4, 8)
    table = torch.tensor([[1], [2], [3]])
    per_prompt = gpt2.run(tokens, read=["z.1"], positions=table)["z.1"]
    assert torch.allclose(per_prompt[2, 0], whole["z.1"][2, 3], atol=1e-5)
    assert torch.allclose(gpt2.last_logits(tokens.tolist(), [1, 2, 3])[2], whole.logits[2, 3], atol=1e-5)


def test_the_pass_stops_where_nothing_later_is_asked_for(gpt2):
    calls = []
    handles = [
        layer.register_forward_hook(lambda *_args, i=i: calls.append(i)) for i, layer in enumerate(gpt2.family.layers)
    ]
    run = gpt2.run(prompts(0), read=["resid_mid.1"], logits=None)
    for handle in handles:
        handle.remove()
    assert calls == [0] and run.logits is None
    assert torch.equal(run["resid_mid.1"], gpt2.run(prompts(0), read=["resid_mid.1"])["resid_mid.1"])


def test_reads_are_the_models_own_tensors(gpt2):
    caught = []
    handle = gpt2.family.layers[1].register_forward_hook(lambda _m, _a, output: caught.append(output))
    run = gpt2.run(prompts(0), read=["resid_post.1"])
    handle.remove()
    assert run["resid_post.1"].data_ptr() == caught[0].data_ptr()


def test_edits_apply_in_order_and_reads_come_after(gpt2):
    edits = [Edit("resid_pre.1", 0.0), Edit("resid_pre.1", 2.0, "add"), Edit("resid_pre.1", 3.0, "scale", features=[0])]
    value = gpt2.run(prompts(0), read=["resid_pre.1"], edits=edits)["resid_pre.1"]
    assert value[..., 0].unique().item() == 6.0 and value[..., 1:].unique().item() == 2.0
    run = gpt2.run(prompts(0), read=["attn_out.1"], edits=[Edit("result.1", 0.0), Edit("z.1", 0.0)])
    assert torch.allclose(run["attn_out.1"], gpt2.family.output_projection(1).bias.expand(3, LENGTH, -1), atol=1e-6)


def test_functions_that_work_in_place_reach_every_site(gpt2):
    tokens = prompts(0)
    for site in ("result.1", "resid_mid.1", "resid_pre.1", "z.1", "pattern.1"):
        in_place = gpt2.run(tokens, read=["resid_post.0"], edits=[Edit(site, lambda x: x.mul_(0), "apply")])
        assert torch.allclose(in_place.logits, gpt2.run(tokens, edits=Edit(site, 0.0)).logits, atol=1e-5), site
        assert torch.allclose(
            in_place["resid_post.0"], gpt2.run(tokens, read="resid_post.0")["resid_post.0"], atol=1e-5
        )


def test_numpy_is_taken_as_tokens_and_positions(gpt2):
    tokens = prompts(0)
    run = gpt2.run(tokens.numpy(), read=["z.1"], positions=np.int64(2), logits=np.int64(-1))
    assert run["z.1"].shape == (3, 4, 8) and run.logits.shape == (3, 1024)


def test_result_edits_add_to_what_attention_writes(gpt2):
    tokens = prompts(0)
    by_z = gpt2.run(tokens, edits=[Edit("z.1.2", 0.0)]).logits
    assert torch.allclose(gpt2.run(tokens, edits=[Edit("result.1.2", 0.0)]).logits, by_z, atol=1e-5)


def snapshot(module: nn.Module) -> dict:
    return {
        "weights": {name: tensor.clone() for name, tensor in module.state_dict().items()},
        "hooks": [
            len(getattr(part, store))
            for part in module.modules()
            for store in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks")
        ],
        "training": [part.training for part in module.modules()],
        "trainable": [parameter.requires_grad for parameter in module.parameters()],
        "grads": [parameter.grad for parameter in module.parameters()],
        "attention": getattr(getattr(module, "config", None), "_attn_implementation", None),
        "modules": [name for name, _ in module.named_modules()],
        "attributes": {name: sorted(vars(part)) for name, part in module.named_modules()},
    }


def same(a: dict, b: dict) -> bool:
    weights = all(torch.equal(a["weights"][name], b["weights"][name]) for name in a["weights"])
    return weights and all(a[key] == b[key] for key in a if key != "weights")


@pytest.mark.parametrize("training", [False, True])
def test_the_callers_model_stays_as_it_was(tiny_models, training):
    for name in FAMILIES:
        module = decoder(**DECODERS[name]) if name in DECODERS else copy.deepcopy(tiny_models[name])
        module.train(training).requires_grad_(True)
        next(iter(module.parameters())).requires_grad_(False)
        model = HookedModel(module)
        before = snapshot(module)
        sites = every_site(model)
        model.run(prompts(0), read=sites, edits=[Edit("z.1", 0.0)], gradients=True).gradients(margin)
        model.run(prompts(0), read=["pattern.0"], logits=None)
        model.run(prompts(0), logits="last")

        def fail(x):
            raise ZeroDivisionError

        for site in ("pattern.1", "resid_mid.2", "result.0", "logits"):
            with pytest.raises(ZeroDivisionError):
                model.run(prompts(0), read=sites, edits=[Edit(site, fail, "apply")], gradients=True)
        with pytest.raises(EditError):
            model.run(prompts(0), edits=[Edit("z.1", torch.zeros(77))])
        assert same(before, snapshot(module)), name


def test_evaluation_mode_is_used_even_on_a_training_model(tiny_gpt2):
    module = copy.deepcopy(tiny_gpt2)
    for part in module.modules():
        if isinstance(part, nn.Dropout):
            part.p = 0.5
    model = HookedModel(module.train())
    assert torch.equal(model.run(prompts(0)).logits, model.run(prompts(0)).logits)
    assert module.training


def test_without_gradients_nothing_is_tracked(gpt2):
    run = gpt2.run(prompts(0), read=["z.1"])
    assert not run.logits.requires_grad and not run["z.1"].requires_grad
    with pytest.raises(InputError, match="gradients=True"):
        run.gradients(margin)


@pytest.mark.parametrize(
    ("call", "error", "said"),
    [
        (lambda m: m.run([[1, 2], []]), InputError, "empty prompt"),
        (lambda m: m.run([[1, 5000]]), InputError, "5000 is outside the vocabulary of 1024"),
        (lambda m: m.run([[1] * 65]), InputError, "context is 64"),
        (lambda m: m.run(torch.zeros(2, 3)), InputError, "expected token ids"),
        (lambda m: m.run([["a", "b"]]), InputError, "got text"),
        (lambda m: m.run("hello"), InputError, "to_tokens"),
        (lambda m: m.run(None), InputError, "got NoneType"),
        (lambda m: m.run([[1.5, 2.0]]), InputError, "expected whole numbers"),
        (lambda m: m.run(torch.ones(1, 3, dtype=torch.bool)), InputError, "expected token ids"),
        (lambda m: m.run([[1, 2]], logits=False), InputError, "expected 'all', 'last'"),
        (lambda m: m.run([[1, 2]], read=["z.1"], positions="END"), InputError, "expected token positions"),
        (lambda m: m.run([[1, 2]], read=["z.9"]), SiteError, "layers 0 to 2"),
        (lambda m: m.run([[1, 2]], read=["z.1.7"]), SiteError, "heads 0 to 3"),
        (lambda m: m.run([[1, 2]], edits=[Edit("resid_mid.3", 0.0)]), SiteError, "layers 0 to 2"),
        (lambda m: m.run([[1, 2]], read=["z.1"])["z.0"], SiteError, "was not read"),
        (lambda m: m.run([[1, 2]], logits=None), InputError, "neither logits nor any site"),
        (lambda m: m.run([[1, 2]], logits="first"), InputError, "expected 'all', 'last'"),
        (lambda m: m.run([[1, 2]], read=["z.1"], positions=[4]), InputError, "position 4 is outside prompt 0"),
        (lambda m: m.run([[1, 2]], gradients=True), InputError, "name the sites"),
        (
            lambda m: m.run([[1, 2]], read=["z.0"], edits=[Edit("logits", 0.0)], logits=None),
            EditError,
            "nothing later was asked for",
        ),
        (lambda m: m.to_tokens("hello"), MissingTokenizerError, "has no tokenizer"),
    ],
)
def test_bad_input_is_named(gpt2, call, error, said):
    with pytest.raises(error, match=said):
        call(gpt2)


def test_sites_that_a_model_lacks_say_so():
    with pytest.raises(SiteError, match="attention-only"):
        HookedModel(decoder(d_mlp=None)).run([[1, 2]], read=["mlp_out.0"])


def test_grouped_heads_are_counted_per_group(tiny_llama):
    with pytest.raises(SiteError, match="heads 0 to 1 at k, one per key/value group"):
        HookedModel(tiny_llama).run([[1, 2]], read=["k.0.2"])


def test_unknown_architectures_say_what_an_adapter_needs():
    with pytest.raises(UnsupportedArchitectureError, match=r"plain Linear.*gpt2, llama.*HUGGING_FACE_FAMILIES"):
        HookedModel(nn.Linear(2, 2))


def test_a_model_without_its_head_is_refused(tiny_gpt2):
    with pytest.raises(UnsupportedArchitectureError, match="GPT2LMHeadModel"):
        HookedModel(tiny_gpt2.transformer)


def test_text_goes_both_ways(tiny_gpt2, word_tokenizer):
    model = HookedModel(tiny_gpt2, word_tokenizer)
    text = word_tokenizer.decode(list(range(5, 9)))
    rows = model.to_tokens([text, text])
    assert rows[0] == rows[1] and "".join(model.to_str_tokens(rows[0])) == text
