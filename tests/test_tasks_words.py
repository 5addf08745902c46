import pytest
from task_tokenizers import LISTS

from mechkit.tasks import words


@pytest.mark.parametrize("group", LISTS)
def test_no_word_is_listed_twice(group: tuple[str, ...]) -> None:
    assert len(set(group)) == len(group)


def test_there_is_enough_to_draw_from() -> None:
    assert len(words.NAMES) >= 200
    assert len(words.IOI_FRAMES) >= 15
    assert len(words.YEAR_FRAMES) >= 8
    assert len(words.NOUNS) >= 80


def test_lists_share_no_word() -> None:
    together = [word.lower() for group in LISTS for word in group]
    assert len(set(together)) == len(together)


def test_objects_fit_the_article() -> None:
    assert [thing for thing in words.OBJECTS if thing[0] in "aeiou"] == []


@pytest.mark.parametrize("frame", words.IOI_FRAMES)
def test_every_name_has_its_slot_and_the_sentence_stops_before_the_answer(frame: str) -> None:
    for slot in ("{A}", "{B}", "{S}", "{place}", "{object}"):
        assert frame.count(slot) == 1
    assert frame.index("{A}") < frame.index("{B}") < frame.index("{S}")
    assert frame.endswith(" to")
    # a name at the very start has no leading space, and would be another token
    assert not frame.startswith("{")


@pytest.mark.parametrize("frame", words.YEAR_FRAMES)
def test_the_start_year_stands_before_the_cut_one(frame: str) -> None:
    assert frame.index("{noun}") < frame.index("{start}") < frame.index("{cut}")
    assert frame.endswith(" {cut}")
