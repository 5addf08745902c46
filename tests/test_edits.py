import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mechkit.errors import EditError, InputError
from mechkit.models import Edit, load_edits, save_edits

LENGTHS = torch.tensor([4, 3])


def activation():
    return torch.arange(2 * 4 * 3 * 5, dtype=torch.float32).reshape(2, 4, 3, 5)  # batch, pos, head, feature


def test_set_one_head_at_one_position_by_hand():
    before = activation()
    after = Edit("z.0.1", torch.ones(5), positions=-1).apply(before, LENGTHS)
    expected = before.clone()
    expected[0, 3, 1] = 1.0  # the last token of the first prompt
    expected[1, 2, 1] = 1.0  # the second prompt is one token shorter
    assert torch.equal(after, expected)
    assert torch.equal(before, activation())  # the input is left alone


def test_selections_drop_or_keep_axes_as_numpy_does():
    seen = {}

    def look(name):
        return lambda x: seen.__setitem__(name, tuple(x.shape)) or x

    for name, selection in {
        "all": {},
        "position": {"positions": 0},
        "positions": {"positions": [0, -1]},
        "heads": {"heads": [0, 2]},
        "one of each": {"positions": 1, "heads": 1, "features": 2, "rows": 0},
        "table": {"positions": [[0], [1]], "rows": [0, 1]},
    }.items():
        Edit("z.0", look(name), "apply", **selection).apply(activation(), LENGTHS)
    assert seen == {
        "all": (2, 4, 3, 5),
        "position": (2, 3, 5),
        "positions": (2, 2, 3, 5),
        "heads": (2, 4, 2, 5),
        "one of each": (),
        "table": (2, 1, 3, 5),
    }


def test_positions_per_prompt():
    after = Edit("resid_pre.0", 0.0, positions=torch.tensor([[0], [2]])).apply(torch.ones(2, 4, 6), LENGTHS)
    assert after[0, 0].sum() == 0 and after[1, 2].sum() == 0 and after.sum() == 6 * 8 - 12


def test_masks_and_numpy_numbers_select():
    mask = Edit("resid_pre.0", 0.0, rows=torch.tensor([False, True]))
    assert mask.rows == (1,) and Edit("z.0", 0.0, heads=[True, False, True]).heads == (0, 2)
    assert Edit("z.0", np.float64(2.0), positions=np.int64(-1), heads=np.array([1, 2])) == Edit(
        "z.0", 2.0, positions=-1, heads=[1, 2]
    )


def test_functions_may_work_in_place():
    before = torch.ones(2, 4, 6)
    after = Edit("resid_pre.0", lambda x: x.mul_(0), "apply").apply(before, LENGTHS)
    assert after.sum() == 0 and before.sum() == 48 and after is not before


def test_operations_by_hand():
    x = torch.tensor([[[3.0, 4.0]]])
    one = torch.tensor([1])
    assert Edit("resid_pre.0", 2, "scale").apply(x, one).tolist() == [[[6.0, 8.0]]]
    assert Edit("resid_pre.0", torch.tensor([1.0, 0.0]), "add").apply(x, one).tolist() == [[[4.0, 4.0]]]
    out = Edit("resid_pre.0", torch.tensor([5.0, 0.0]), "project_out").apply(x, one)
    assert torch.allclose(out, torch.tensor([[[0.0, 4.0]]]), atol=1e-6)
    two = Edit("resid_pre.0", torch.tensor([[1.0, 1.0], [2.0, 2.0]]), "project_out")  # the same direction twice
    assert torch.allclose(two.apply(x, one), torch.tensor([[[-0.5, 0.5]]]), atol=1e-5)


def test_pattern_edits_select_queries_and_keys():
    pattern = torch.rand(2, 3, 4, 4)
    after = Edit("pattern.0.2", 0.0, positions=3, features=[0], rows=0).apply(pattern, torch.tensor([4, 4]))
    expected = pattern.clone()
    expected[0, 2, 3, 0] = 0.0
    assert torch.equal(after, expected)


@given(
    st.sampled_from(["set", "add", "scale"]),
    st.floats(-1e3, 1e3) | st.integers(-5, 5),
    st.none() | st.integers(-9, 9) | st.lists(st.integers(-9, 9), min_size=1, max_size=3),
    st.none() | st.lists(st.integers(0, 9), min_size=1, max_size=3),
    st.none() | st.integers(0, 9),
)
def test_the_printed_form_of_a_number_parses_back(operation, value, positions, heads, rows):
    edit = Edit("z.7", value, operation, positions=positions, heads=heads, rows=rows)
    assert Edit.parse(str(edit)) == edit
    assert Edit.parse(str(edit)).positions == edit.positions


def test_tensors_and_functions_are_handed_to_parse_again():
    value = torch.randn(2, 5)
    edit = Edit("z.7.1", value, positions=[[0], [1]])
    assert Edit.parse(str(edit), value) == edit
    with pytest.raises(EditError, match="hand the value"):
        Edit.parse(str(edit))
    with pytest.raises(EditError, match="hand the value"):
        Edit.parse(str(edit), value + 1)
    function = Edit("z.7", lambda x: x, "apply")
    assert str(function) == "apply(z.7, <function lambda>)"
    assert Edit.parse(str(function), function.value) == function


def test_edits_save_and_load(tmp_path):
    edits = [Edit("z.7.1", torch.randn(5), positions=-1), Edit("mlp_out.2", 0.5, "scale", rows=[0, 3])]
    save_edits(tmp_path / "edits.safetensors", edits)
    again = load_edits(tmp_path / "edits.safetensors")
    assert again == edits and torch.equal(again[0].value, edits[0].value)
    (tmp_path / "foreign").write_text("{}")
    with pytest.raises(EditError, match="not a file of edits"):
        load_edits(tmp_path / "foreign")
    with pytest.raises(EditError, match="functions cannot be saved"):
        save_edits(tmp_path / "f", [Edit("z.0", torch.relu, "apply")])
    assert not (tmp_path / "f").exists()
    shared = [Edit("resid_pre.1", value := torch.randn(5), "add"), Edit("resid_pre.2", value, "add")]
    save_edits(tmp_path / "new" / "shared", shared)
    assert load_edits(tmp_path / "new" / "shared") == shared


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Edit("z.0", 0.0, "multiply"), "unknown operation"),
        (lambda: Edit("z.0", torch.relu), "operation='apply'"),
        (lambda: Edit("z.0", 1.0, "apply"), "operation='apply'"),
        (lambda: Edit("z.0", float("nan")), "NaN or infinity"),
        (lambda: Edit("z.0.1", 0.0, heads=[1]), "names its head already"),
        (lambda: Edit("resid_pre.0", 0.0, heads=[1]), "has no heads"),
        (lambda: Edit("resid_pre.0", 1.0, "project_out"), "needs a direction"),
        (lambda: Edit("z.0", 0.0, heads=[0.5]), "numbers, a mask or None"),
        (lambda: Edit("z.0", 0.0, positions=[]), "numbers, a mask or None"),
        (lambda: Edit("z.0", 0.0, rows=[False, False]), "selects nothing"),
        (lambda: Edit("z.0", 0.0, features=slice(2, -1)), "slice's ends"),
        (lambda: Edit("pattern.0", 0.0, features=-1), "count from 0"),
        (lambda: Edit("z.0", None), "number, a tensor or a function"),
        (lambda: Edit.parse("zero the head"), "does not parse"),
        (lambda: Edit.parse("set(z.0, 1.0, colour=[1])"), "expected selections"),
        (lambda: Edit.parse("set(z.0, one)"), "is not a number"),
    ],
)
def test_malformed_edits_say_what_is_wrong(make, said):
    with pytest.raises(EditError, match=said):
        make()


def test_a_value_of_the_wrong_shape_names_both_shapes():
    with pytest.raises(EditError, match=r"\(7,\).*\(2, 4, 3, 5\).*batch, position, head, feature"):
        Edit("z.0", torch.zeros(7)).apply(activation(), LENGTHS)
    with pytest.raises(EditError, match=r"must return shape \(2, 4, 3, 5\), got \(2, 4, 3\)"):
        Edit("z.0", lambda x: x[..., 0], "apply").apply(activation(), LENGTHS)
    with pytest.raises(EditError, match="directions of 4 features, but the site has 5"):
        Edit("z.0", torch.ones(4), "project_out").apply(activation(), LENGTHS)


def test_what_does_not_exist_is_named():
    with pytest.raises(EditError, match="head 3 does not exist; there are 3"):
        Edit("z.0", 0.0, heads=[3]).apply(activation(), LENGTHS)
    with pytest.raises(InputError, match="position 3 is outside prompt 1, which has 3 tokens"):
        Edit("z.0", 0.0, positions=3).apply(activation(), LENGTHS)
    with pytest.raises(InputError, match="positions for 3 prompts, but there are 2"):
        Edit("z.0", 0.0, positions=[[0], [1], [2]]).apply(activation(), LENGTHS)
