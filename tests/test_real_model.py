"""The first path on a real language model: SmolLM2-135M-Instruct, quantised to 4 bits and dequantised."""

import numpy as np
import pytest
import torch

import mechkit as mk
from mechkit.models import HookedModel

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def task(smollm2):
    return mk.tasks.ioi(smollm2, 16, seed=0)


def test_it_shows_the_behaviour(smollm2, task):
    baseline = task.baseline(smollm2)
    assert (baseline.clean > 0).mean() >= 0.9 and (baseline.corrupted < 0).mean() >= 0.9
    assert float(baseline.interval().sel(run="gap")["low"]) > 0


def test_logits_are_the_models_own_and_padding_changes_nothing(smollm2, task):
    prompts = task.pairs.clean[:4]
    run = smollm2.run(prompts, read=["resid_post.29"])
    for row, prompt in enumerate(prompts):
        with torch.no_grad():
            own = smollm2.module(torch.tensor([prompt])).logits[0]
        assert torch.allclose(run.logits[row, : len(prompt)], own, atol=1e-3)  # logits reach 30


def test_replay_equals_full_forward_passes(smollm2, task):
    few = task[:4]
    for sites, over in (
        (["resid_pre.3", "resid_mid.12", "attn_out.20", "mlp_out.0", "z.23.3", "k.17.1"], ("position",)),
        ("z.20", ("head",)),
    ):
        replayed, obvious = (
            mk.patch(smollm2, few, sites, over, positions=["S2", "END"], method=method, progress=False)
            for method in ("replay", "forward")
        )
        assert float(np.abs(replayed.raw - obvious.raw).max()) <= 1e-4


def test_the_heads_that_move_the_answer(smollm2, task):
    heads = mk.patch(smollm2, task, "z", ("layer", "head"), positions="END", progress=False)
    table = heads.top(5)
    effects = {(int(row.layer), int(row.head)): row.effect for row in table.itertuples()}
    assert {(20, 0), (23, 3), (29, 1)} <= {head for head, effect in effects.items() if effect > 0}
    assert {(24, 4), (29, 0)} <= {head for head, effect in effects.items() if effect < 0}
    assert (table["low"] * table["high"] > 0).all()


def test_the_difference_moves_from_the_second_mention_to_the_end(smollm2, task):
    residual = mk.patch(smollm2, task, "resid_pre", ("layer", "position"), positions=["S2", "END"], progress=False)
    effect = residual.mean_effect()
    assert float(effect.sel(layer=10, position="S2")) > 0.9 and abs(float(effect.sel(layer=10, position="END"))) < 0.1
    assert float(effect.sel(layer=29, position="END")) > 0.8 and abs(float(effect.sel(layer=29, position="S2"))) < 0.1


def test_greater_than_and_induction_are_shown(smollm2: HookedModel):
    for make, share in ((mk.tasks.greater_than, 0.8), (mk.tasks.induction, 0.8)):
        baseline = make(smollm2, 32, seed=0).baseline(smollm2)
        assert (baseline.clean > baseline.corrupted).mean() >= share
