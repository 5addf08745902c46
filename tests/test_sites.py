import pytest
from hypothesis import given
from hypothesis import strategies as st

from mechkit.errors import SiteError
from mechkit.models import Site
from mechkit.models.sites import GLOBAL_SITES, HEAD_SITES, LAYER_SITES


@given(st.sampled_from(LAYER_SITES), st.integers(0, 200), st.none() | st.integers(0, 200))
def test_the_printed_form_parses_back(name, layer, head):
    site = Site(name, layer, head if name in HEAD_SITES else None)
    assert Site.parse(str(site)) == site
    assert Site.parse(site) is site


@pytest.mark.parametrize("name", GLOBAL_SITES)
def test_global_sites_parse_back(name):
    assert str(Site.parse(name)) == name


def test_a_head_is_shown_as_the_field_shows_it():
    assert Site.parse("z.5.3").label == "L5H3"
    assert Site.parse("q.5.3").label == "L5H3 q"
    assert Site.parse("z.5.3").whole == Site("z", 5)
    assert Site.parse("z.5.3").axes == ("batch", "position", "feature")
    assert Site.parse("pattern.5").axes == ("batch", "head", "position", "feature")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("resid_pree.3", "did you mean resid_pre"),
        ("resid_pre", "needs a layer"),
        ("logits.3", "has no layer"),
        ("resid_pre.3.1", "takes no head"),
        ("z.a", "does not parse"),
        ("z.5.-1", "does not parse"),
        ("", "does not parse"),
    ],
)
def test_bad_sites_say_what_is_wrong(text, said):
    with pytest.raises(SiteError, match=said):
        Site.parse(text)
