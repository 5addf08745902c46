"""Exact patching: replay against the slow, obvious loop, against hand-worked effects, and its edge cases."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from mechkit import patch
from mechkit.errors import FallbackWarning, MetricError, PatchingError, SiteError
from mechkit.models import Decoder, DecoderConfig, Edit, HookedModel
from mechkit.results import EffectResult
from mechkit.tasks import Metric, Pairs, Task, metrics

DECODERS = {
    "attention-only": {"d_mlp": None, "normalization": None},
    "rotary": {"d_mlp": 48, "positions": "rotary", "normalization": "rms", "activation": "silu"},
    "bidirectional": {"d_mlp": 48, "causal": False},
}
FAMILIES = ["gpt2", "llama", "qwen2", "mistral", *DECODERS]
RESIDUAL = ["resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_pre", "mlp_post", "mlp_out"]
HEADS = ["q", "k", "v", "attn_scores", "pattern", "z", "result"]


def ragged_task(n: int = 3, metric: Metric = metrics.logit_difference) -> Task:
    """Random prompts of different lengths, first differences and answer positions."""
    generator = np.random.default_rng(0)
    clean, corrupted, ends, second = [], [], [], []
    for i in range(n):
        length, first = 8 + i % 3, 1 + i % 2
        prompt = generator.integers(0, 1000, length)
        other = np.concatenate([prompt[:first], generator.integers(0, 1000, length - first)])
        clean.append(tuple(prompt.tolist()))
        corrupted.append(tuple(other.tolist()))
        ends.append(length - 1 - i % 2)
        second.append(3 + i % 2)
    tokens = torch.from_numpy(generator.integers(0, 1000, (n, 2)))
    positions = {"END": torch.tensor(ends), "S2": torch.tensor(second)}
    return Task(
        "random", Pairs(tuple(clean), tuple(corrupted), tokens[:, :1], tokens[:, 1:], positions), metric, seed=0
    )


@pytest.fixture(params=FAMILIES)
def model(request, tiny_models) -> HookedModel:
    if request.param not in DECODERS:
        return HookedModel(tiny_models[request.param], name=request.param)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = DecoderConfig(3, 32, 4, 1024, 64, **DECODERS[request.param])
        return HookedModel(Decoder(config).eval(), name=request.param)


@pytest.fixture
def gpt2(tiny_gpt2) -> HookedModel:
    return HookedModel(tiny_gpt2)


def both(model: HookedModel, task: Task, sites, over, **options) -> tuple[EffectResult, EffectResult]:
    if not model.d_mlp:
        sites = [site for site in sites if not site.startswith("mlp")]
    return tuple(
        patch(model, task, sites, over, method=method, progress=False, **options) for method in ("replay", "forward")
    )


def assert_equal(replayed: EffectResult, obvious: EffectResult) -> None:
    assert replayed.raw.dims == obvious.raw.dims and replayed.raw.shape == obvious.raw.shape
    assert np.array_equal(np.isnan(replayed.raw), np.isnan(obvious.raw))
    for name in ("raw", "clean", "corrupted"):
        assert np.nanmax(np.abs(replayed.data[name] - obvious.data[name])) < 1e-4, name


@pytest.mark.parametrize("direction", ["denoising", "noising"])
def test_replay_equals_the_obvious_loop_on_the_residual_stream(model, direction):
    assert_equal(*both(model, ragged_task(), RESIDUAL, ("layer", "position"), positions="all", direction=direction))


@pytest.mark.parametrize("direction", ["denoising", "noising"])
def test_replay_equals_the_obvious_loop_on_heads(model, direction):
    options = {"positions": ["S2", "END", -2], "direction": direction}
    assert_equal(*both(model, ragged_task(), HEADS, ("layer", "head", "position"), **options))


def test_replay_equals_the_obvious_loop_on_whole_sites(model):
    assert_equal(*both(model, ragged_task(2), RESIDUAL + HEADS, ("layer",)))
    assert_equal(*both(model, ragged_task(2), HEADS, ("layer", "head")))


def test_replay_equals_the_obvious_loop_on_particular_sites(model):
    sites = ["embed", "ln_final", "logits", "z.1.2", "resid_mid.2", "k.1.1"]
    assert_equal(*both(model, ragged_task(), sites, ("position",), positions="all"))
    assert_equal(*both(model, ragged_task(), sites, (), positions=["S2", "END"]))


@pytest.mark.parametrize("name", ["kl_divergence", "probability_difference", "cross_entropy"])
def test_every_metric_measures_the_same_by_replay(gpt2, name):
    assert_equal(
        *both(gpt2, ragged_task(metric=metrics.get(name)), ["resid_pre", "z"], ("layer", "position"), positions="all")
    )


def test_memory_and_batching_do_not_change_the_numbers(gpt2):
    task = ragged_task(7)
    whole = patch(gpt2, task, "z", ("layer", "head", "position"), positions="all", progress=False)
    small = patch(gpt2, task, "z", ("layer", "head", "position"), positions="all", max_memory=200_000, progress=False)
    one = patch(gpt2, task[[4]], "z", ("layer", "head", "position"), positions="all", progress=False)
    assert np.allclose(whole.raw, small.raw, atol=1e-5, equal_nan=True)
    width = one.raw.sizes["position"]
    assert np.allclose(whole.raw[:, :, :width, 4], one.raw[..., 0], atol=1e-5, equal_nan=True)


def test_a_cell_is_one_edit_by_hand(gpt2):
    """What the public API does, spelled out for one cell: layer 1, head 2, position 4, pair 0, denoising."""
    task = ragged_task()
    clean, corrupted = task.pairs.clean[0], task.pairs.corrupted[0]
    value = gpt2.run([clean], read=["z.1.2"], positions=4)["z.1.2"]
    logits = gpt2.run([corrupted], edits=[Edit("z.1.2", value, positions=4)]).logits
    by_hand = task.metric(logits[:, int(task.pairs.positions["END"][0])], task.pairs[[0]]).item()
    swept = patch(gpt2, task, "z", ("layer", "head", "position"), positions="all", progress=False)
    assert abs(float(swept.raw.sel(layer=1, head=2, position=4, example=0)) - by_hand) < 1e-5


def copying_model() -> HookedModel:
    """One layer whose only head attends to every earlier token alike and copies it: logits can be worked out."""
    model = Decoder(DecoderConfig(1, 5, 1, 5, 4, d_head=5, positions=None, normalization=None, bias=False))
    with torch.no_grad():
        attention = model.layers[0].attention
        for weight in (model.embed.weight, model.unembed.weight, attention.v_proj.weight, attention.o_proj.weight):
            weight.copy_(torch.eye(5))
        attention.q_proj.weight.zero_()
    return HookedModel(model.eval(), name="copying")


def test_effects_worked_out_by_hand():
    """Clean 1 0 4, corrupted 2 0 4, answer 1, foil 2. At the end each earlier token stands with a third.

    The metric is 1/3 on clean and -1/3 on corrupted. Patching the residual stream at position 0 before the layer
    restores all of it; after the layer none, since it was already read; at the last position after the layer all.
    """
    pairs = Pairs(((1, 0, 4),) * 2, ((2, 0, 4),) * 2, torch.tensor([[1], [1]]), torch.tensor([[2], [2]]))
    task = Task("copy", pairs, metrics.logit_difference)
    result = patch(copying_model(), task, ["resid_pre", "resid_post", "v"], ("layer", "position"), progress=False)
    assert np.allclose(result.clean, 1 / 3) and np.allclose(result.corrupted, -1 / 3)
    effect = result.effect.mean("example").squeeze("layer")
    assert np.allclose(effect.sel(site="resid_pre"), [1, 0, 0])
    assert np.allclose(effect.sel(site="resid_post"), [0, 0, 1])
    assert np.allclose(effect.sel(site="v"), [1, 0, 0])
    noising = patch(copying_model(), task, "resid_pre", ("layer", "position"), direction="noising", progress=False)
    assert np.allclose(noising.effect.mean("example").squeeze("layer"), [0, 1, 1])


def test_labels_provenance_and_files(gpt2, tmp_path):
    result = patch(gpt2, ragged_task(), "z", ("layer", "head"), positions="END", progress=False)
    assert result.raw.dims == ("layer", "head", "example")
    facts = {"site": "z", "position": "END", "direction": "denoising", "method": "replay", "task": "random"}
    assert {key: result.attrs[key] for key in facts} == facts
    result.save(tmp_path / "z.nc")
    again = EffectResult.load(tmp_path / "z.nc")
    assert np.array_equal(again.raw, result.raw) and again.attrs == result.attrs
    named = patch(gpt2, ragged_task(), "attn_out", ("layer", "position"), positions=["S2", "END"], progress=False)
    assert named.raw.position.values.tolist() == ["S2", "END"]
    assert len(named.to_pandas()) and named.plot().data


def test_grouped_heads_leave_the_rest_unmeasured(tiny_llama):
    result = patch(HookedModel(tiny_llama), ragged_task(), ["k", "z"], ("layer", "head"), progress=False)
    keys = result.raw.sel(site="k")
    assert not np.isnan(keys.sel(head=[0, 1])).any() and np.isnan(keys.sel(head=[2, 3])).all()
    assert not np.isnan(result.raw.sel(site="z")).any()


def test_positions_that_a_prompt_lacks_are_unmeasured_and_unreachable_ones_hold_the_base(gpt2):
    task = ragged_task()
    result = patch(gpt2, task, "resid_pre", ("layer", "position"), positions="all", progress=False)
    assert np.isnan(result.raw.sel(position=8, example=0)).all()  # 8 tokens
    assert (result.raw.sel(position=0) == result.corrupted).all()  # the first token is shared


def test_by_default_positions_are_numbers_only_where_prompts_line_up(gpt2):
    ragged = patch(gpt2, ragged_task(), "resid_pre", ("layer", "position"), progress=False)
    assert ragged.raw.position.values.tolist() == ["S2", "END"]  # in the order in which they stand
    even = patch(gpt2, ragged_task()[[0]], "resid_pre", ("layer", "position"), progress=False)
    assert even.raw.position.values.tolist() == list(range(8))


def test_the_model_stays_as_it_was(tiny_gpt2):
    before = {name: weight.clone() for name, weight in tiny_gpt2.state_dict().items()}
    for method in ("replay", "forward"):
        patch(HookedModel(tiny_gpt2), ragged_task(), "pattern", ("layer",), method=method, progress=False)
    assert all(torch.equal(before[name], weight) for name, weight in tiny_gpt2.state_dict().items())
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in tiny_gpt2.modules())


def test_a_model_that_replay_does_not_know_falls_back_and_says_so(tiny_gpt2):
    """A block whose forward pass was replaced: pieces cannot see it, full forwards do."""
    module = copy.deepcopy(tiny_gpt2)
    block, plain = module.transformer.h[1], module.transformer.h[1].forward
    block.forward = lambda *args, **kwargs: plain(*args, **kwargs) * 1.5
    model = HookedModel(module)
    with pytest.warns(FallbackWarning, match=r"adapter does not know.*logits of a full forward pass.*every cell"):
        result = patch(model, ragged_task(), "resid_pre", ("layer",), progress=False)
    with pytest.raises(PatchingError, match="use method='forward'"):
        patch(model, ragged_task(), "resid_pre", ("layer",), method="replay", progress=False)
    assert result.attrs["method"] == "full forwards"
    plain_result = patch(HookedModel(tiny_gpt2), ragged_task(), "resid_pre", ("layer",), progress=False)
    assert not np.allclose(plain_result.clean, result.clean)


@pytest.mark.parametrize("place", ["lm_head", "transformer.h.1.attn.c_proj", "transformer.h.2.mlp"])
def test_hooks_of_the_callers_are_honoured(tiny_gpt2, place):
    module = copy.deepcopy(tiny_gpt2)
    module.get_submodule(place).register_forward_hook(lambda _m, _a, output: output * 1.5)
    model = HookedModel(module)
    with pytest.warns(FallbackWarning, match="hooks of your own"):
        hooked = patch(model, ragged_task(), "z", ("layer", "head"), progress=False)
    plain = patch(HookedModel(tiny_gpt2), ragged_task(), "z", ("layer", "head"), progress=False)
    assert not np.allclose(hooked.raw, plain.raw)


class Adapted(nn.Module):
    """What low-rank adapters do to a projection."""

    def __init__(self, inside: nn.Module, width: int):
        super().__init__()
        self.inside, self.weight = inside, inside.weight
        self.extra = nn.Linear(width, width if not hasattr(inside, "out_features") else inside.out_features)
        self.bias = inside.bias

    def forward(self, x):
        return self.inside(x) + self.extra(x)


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_wrapped_projections_are_honoured(tiny_models, name):
    module = copy.deepcopy(tiny_models[name])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module.lm_head = Adapted(module.lm_head, 32)
        model = HookedModel(module)
        attention = model.family.attention(1)
        projection = model.family.OUTPUT_PROJECTION
        setattr(attention, projection, Adapted(getattr(attention, projection), 32))
    replayed, obvious = both(model, ragged_task(), ["z", "k", "resid_pre"], ("layer",))
    assert_equal(replayed, obvious)
    replayed, obvious = both(model, ragged_task(), ["z", "k"], ("layer", "head"))
    assert replayed.attrs["method"] == "replay"
    assert_equal(replayed, obvious)
    with pytest.raises(SiteError, match="projection is wrapped"):
        model.run([[1, 2]], read=["result.1"])


def test_replay_is_checked_for_every_length(tiny_gpt2):
    """A block that acts on long prompts alone must not slip through a check of a short one."""
    module = copy.deepcopy(tiny_gpt2)
    block, plain = module.transformer.h[1], module.transformer.h[1].forward
    block.forward = lambda x, *args, **kwargs: plain(x, *args, **kwargs) * (1.5 if x.shape[1] >= 10 else 1.0)
    with pytest.warns(FallbackWarning):
        result = patch(HookedModel(module), ragged_task(), "resid_pre", ("layer",), progress=False)
    assert result.attrs["method"] == "full forwards"


def test_a_forward_exchanged_since_the_last_check_is_noticed(tiny_gpt2):
    model = HookedModel(copy.deepcopy(tiny_gpt2))
    assert patch(model, ragged_task(), "z", ("layer",), progress=False).attrs["method"] == "replay"
    block = model.family.layers[1]
    plain = block.forward
    block.forward = lambda *args, **kwargs: plain(*args, **kwargs) * 1.5
    with pytest.warns(FallbackWarning):
        patch(model, ragged_task(), "z", ("layer",), progress=False)


def test_weights_changed_since_the_last_check_are_checked_again(tiny_gpt2):
    model = HookedModel(copy.deepcopy(tiny_gpt2))
    before = patch(model, ragged_task(), "z", ("layer",), progress=False)
    with torch.no_grad():
        model.module.transformer.h[0].attn.c_proj.weight.mul_(2)
    after = patch(model, ragged_task(), "z", ("layer",), progress=False)
    assert not np.allclose(before.raw, after.raw) and after.attrs["method"] == "replay"


def test_weights_that_are_not_finite_are_named(tiny_gpt2):
    module = copy.deepcopy(tiny_gpt2)
    with torch.no_grad():
        module.transformer.h[1].mlp.c_fc.weight[0, 0] = float("nan")
    with pytest.raises(PatchingError, match="NaN or infinite logits"):
        patch(HookedModel(module), ragged_task(), progress=False)


def test_a_reference_of_the_callers_is_kept(gpt2, tiny_gpt2):
    other = copy.deepcopy(tiny_gpt2)
    with torch.no_grad():
        other.lm_head.weight.mul_(1.3)
    task = ragged_task(metric=metrics.kl_divergence).with_reference(HookedModel(other))
    for method in ("replay", "forward"):
        result = patch(gpt2, task, "resid_pre", ("layer",), method=method, progress=False)
        assert np.allclose(result.clean, task.baseline(gpt2).clean, atol=1e-5) and (result.clean > 0).all()


def test_a_patch_that_changes_nothing_raises(gpt2):
    with pytest.raises(PatchingError, match="nothing changed in any of 3 cells"):
        patch(gpt2, ragged_task(), "resid_pre", ("layer", "position"), positions=[0], progress=False)


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        ({"sites": "resid_pree"}, SiteError, "did you mean resid_pre"),
        ({"sites": []}, PatchingError, "name at least one site"),
        ({"sites": ["z", "z"]}, PatchingError, "named twice"),
        ({"sites": "z.9", "over": ()}, SiteError, "layers 0 to 2"),
        ({"sites": "z", "over": ("position",)}, PatchingError, "which layer"),
        ({"sites": "z.1"}, PatchingError, "name sites without one"),
        ({"sites": "logits"}, PatchingError, "name sites without one"),
        ({"over": ("layer", "neuron")}, PatchingError, "choose among site, layer, head, position"),
        ({"over": ("layer", "layer")}, PatchingError, "each once"),
        ({"over": ("layer", "head")}, PatchingError, "resid_pre has none"),
        ({"sites": "z.1.2", "over": ("head",)}, PatchingError, "name the site without one"),
        ({"positions": "S9"}, PatchingError, "this task names END, S2"),
        ({"positions": 40}, PatchingError, "outside every prompt"),
        ({"positions": []}, PatchingError, "at least one position"),
        ({"positions": [2, 2]}, PatchingError, "named twice"),
        ({"direction": "sideways"}, PatchingError, "denoising, noising"),
        ({"method": "magic"}, PatchingError, "auto, replay, forward"),
        ({"max_memory": 0}, PatchingError, "number of bytes"),
        ({"positions": 1.5}, PatchingError, "expected token numbers"),
        ({"positions": [True]}, PatchingError, "expected token numbers"),
    ],
)
def test_bad_input_is_named(gpt2, arguments, error, said):
    with pytest.raises(error, match=said):
        patch(gpt2, ragged_task(), **arguments, progress=False)


def test_numbers_of_numpy_are_numbers(gpt2):
    by_numpy = patch(gpt2, ragged_task(), "z", ("layer",), positions=np.int64(4), max_memory=1e9, progress=False)
    plain = patch(gpt2, ragged_task(), "z", ("layer",), positions=4, progress=False)
    assert np.array_equal(by_numpy.raw, plain.raw)


def test_answers_of_another_vocabulary_are_named(gpt2):
    task = ragged_task()
    task.pairs.answers[0, 0] = 5000
    with pytest.raises(PatchingError, match="5000 is outside the vocabulary"):
        patch(gpt2, task, progress=False)


def test_a_metric_that_gives_no_number_per_pair_is_refused(gpt2):
    task = ragged_task().with_metric(lambda logits, pairs: logits.mean())
    with pytest.raises(MetricError, match="one number per pair"):
        patch(gpt2, task, progress=False)
