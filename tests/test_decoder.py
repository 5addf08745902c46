import pytest
import torch

from mechkit.errors import BrokenFileError, InputError
from mechkit.models import Decoder, DecoderConfig


def config(**changes) -> DecoderConfig:
    return DecoderConfig(**{"n_layers": 2, "d_model": 16, "n_heads": 2, "d_vocab": 11, "n_context": 8} | changes)


def test_an_attention_only_decoder_by_hand():
    """One layer, one head that attends uniformly and copies: logits are the token plus the mean of the prefix."""
    model = Decoder(
        config(n_layers=1, d_model=11, n_heads=1, d_head=11, positions=None, normalization=None, bias=False)
    )
    with torch.no_grad():
        for weight in (model.embed.weight, model.unembed.weight):
            weight.copy_(torch.eye(11))
        attention = model.layers[0].attention
        attention.q_proj.weight.zero_()
        attention.v_proj.weight.copy_(torch.eye(11))
        attention.o_proj.weight.copy_(torch.eye(11))
        logits = model(torch.tensor([[3, 5]]))
    assert logits[0, 0].tolist() == [2.0 if i == 3 else 0.0 for i in range(11)]
    assert logits[0, 1].tolist() == [{3: 0.5, 5: 1.5}.get(i, 0.0) for i in range(11)]


def test_causal_decoders_do_not_look_ahead_and_bidirectional_ones_do():
    tokens = torch.randint(0, 11, (1, 6))
    changed = tokens.clone()
    changed[0, 5] = (changed[0, 5] + 1) % 11
    for causal in (True, False):
        model = Decoder(config(causal=causal, d_mlp=8))
        moved = (model(tokens)[0, :5] - model(changed)[0, :5]).abs().max().item()
        assert (moved == 0) == causal


def test_rotary_scores_depend_on_distance_alone():
    model = Decoder(config(positions="rotary", n_layers=1, normalization=None))
    scores = []
    model.layers[0].attention.scores.register_forward_hook(lambda _m, _a, output: scores.append(output))
    model(torch.full((1, 8), 4))
    for distance in range(3):
        diagonal = scores[0][0, 0].diagonal(-distance)
        assert torch.allclose(diagonal, diagonal[:1], atol=1e-5)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"d_mlp": 8, "normalization": "rms"},
        {"positions": "rotary", "bias": False},
        {"positions": None, "d_head": 3},
    ],
)
def test_saving_and_loading(tmp_path, changes):
    model = Decoder(config(**changes)).eval()
    model.save(tmp_path / "model")
    again = Decoder.load(tmp_path / "model")
    tokens = torch.randint(0, 11, (2, 5))
    assert again.config == model.config and torch.equal(again(tokens), model(tokens))
    assert not list((tmp_path / "model").glob("*.part"))


def test_broken_folders_are_named(tmp_path):
    with pytest.raises(BrokenFileError, match="not a whole saved decoder"):
        Decoder.load(tmp_path)
    Decoder(config()).save(tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:200])
    with pytest.raises(BrokenFileError, match="not a whole saved decoder"):
        Decoder.load(tmp_path)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"d_model": 15}, "not a multiple"),
        ({"activation": "swish"}, "expected one of"),
        ({"n_layers": 0}, "from 1 up"),
        ({"positions": "rotary", "d_head": 3}, "even d_head"),
    ],
)
def test_bad_configurations_are_named(changes, said):
    with pytest.raises(InputError, match=said):
        config(**changes)


def test_too_long_a_prompt_is_named():
    with pytest.raises(InputError, match="9 tokens, but n_context is 8"):
        Decoder(config())(torch.zeros(1, 9, dtype=torch.long))
