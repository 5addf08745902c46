import json
from pathlib import Path

import pandas as pd
import pytest
import task_tokenizers

from mechkit.errors import DroppedPairsWarning, TaskError
from mechkit.tasks import Task, from_jsonl, from_table, from_tokens

TOKENIZER = task_tokenizers.make(extra=("When Mary and John went, John gave it to",))
CLEAN = "When Mary and John went, John gave it to"
CORRUPTED = "When Mary and John went, Mary gave it to"
RECORD = {
    "clean": CLEAN,
    "corrupted": CORRUPTED,
    "answer": " Mary",
    "foil": [" John", " Paul"],
    "template": "one",
    "words": ["Mary", "John"],
    "positions": {"IO": [5, 9], "S2": 6},
}


def expected() -> Task:
    return from_tokens(
        [CLEAN],
        [CORRUPTED],
        [" Mary"],
        [[" John", " Paul"]],
        model=TOKENIZER,
        positions={"IO": [(5, 9)], "S2": [6]},
        templates=["one"],
        words=[["Mary", "John"]],
    )


def assert_same(task: Task) -> None:
    pairs, wanted = task.pairs, expected().pairs
    assert (pairs.clean, pairs.corrupted) == (wanted.clean, wanted.corrupted)
    assert pairs.answers.tolist() == wanted.answers.tolist()
    assert pairs.foils.tolist() == wanted.foils.tolist()
    assert {name: where.tolist() for name, where in pairs.positions.items()} == {
        name: where.tolist() for name, where in wanted.positions.items()
    }
    assert (pairs.templates, pairs.words) == (wanted.templates, wanted.words)


def test_jsonl(tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text(json.dumps(RECORD) + "\n\n", encoding="utf-8")
    task = from_jsonl(path, TOKENIZER)
    assert task.name == "mine"
    assert_same(task)


def test_csv(tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    cells = {
        **RECORD,
        "foil": json.dumps(RECORD["foil"]),
        "words": "Mary|John",
        "positions": json.dumps(RECORD["positions"]),
    }
    pd.DataFrame([cells]).to_csv(path, index=False)
    assert_same(from_table(path, TOKENIZER))


def test_data_frame() -> None:
    assert_same(from_table(pd.DataFrame([RECORD]), TOKENIZER))


def test_numbers_in_csv_are_text_and_lists_are_ids(tmp_path: Path) -> None:
    path = tmp_path / "years.csv"
    path.write_text('clean,corrupted,answer,foil\nthe year 174,the year 184,4,3\n"[3, 4]","[3, 5]",[6],"[7, 8]"\n')
    task = from_table(path, TOKENIZER)
    assert task.pairs.answers.tolist() == [[TOKENIZER.convert_tokens_to_ids("4")], [6]]
    assert task.pairs.clean[1] == (3, 4)
    assert task.pairs.foils.tolist()[1] == [7, 8]


def test_empty_cells_are_missing(tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    path.write_text("clean,corrupted,answer,foil\n[1],[2],[3],\n")
    assert from_table(path).metric.name == "cross_entropy"
    frame = pd.DataFrame([{"clean": [1], "corrupted": [2], "answer": 3, "foil": None}])
    assert from_table(frame).metric.name == "cross_entropy"


def test_words_that_pandas_would_read_as_missing_stay_words(tmp_path: Path) -> None:
    tokenizer = task_tokenizers.make(extra=("None NA",))
    path = tmp_path / "mine.csv"
    path.write_text("clean,corrupted,answer\n Mary, John, NA\n")
    assert from_table(path, tokenizer).pairs.answers.tolist() == [[tokenizer.convert_tokens_to_ids(" NA")]]


def test_dropped_pairs_name_their_line(tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    lines = [{"clean": [1, 2], "corrupted": [1], "answer": 3}, {"clean": [1], "corrupted": [2], "answer": 3}]
    path.write_text("\n".join(map(json.dumps, lines)))
    with pytest.warns(DroppedPairsWarning, match="mine: 1 of 2 pairs dropped"):
        assert len(from_jsonl(path)) == 1
    path.write_text(json.dumps(lines[0]))
    with pytest.raises(TaskError, match=r"mine.jsonl, line 1: 2 and 1 tokens"):
        from_jsonl(path)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 1: not JSON"),
        ("[1]", "line 1: expected an object"),
        ('{"clean": [1], "answer": 3}', "line 1: no corrupted"),
        ('{"clean": 1.5, "corrupted": [1], "answer": 3}', "line 1: clean is 1.5"),
        ('{"clean": [1], "corrupted": [2], "answer": null}', "line 1: answer is None"),
        ('{"clean": [1.5], "corrupted": [2], "answer": 1}', r"line 1: clean is \[1.5\]"),
        ('{"clean": [1], "corrupted": [2], "answer": 3, "positions": 4}', "line 1: positions is 4"),
        ('{"clean": [1], "corrupted": [2], "answer": 3, "positions": {"S": [1, 2, 3]}}', "position S"),
        ("", "no pairs were given"),
    ],
)
def test_broken_lines_are_errors(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "broken.jsonl"
    path.write_text(line)
    with pytest.raises(TaskError, match=message):
        from_jsonl(path, TOKENIZER)


def test_missing_and_unreadable_files(tmp_path: Path) -> None:
    for read in (from_jsonl, from_table):
        with pytest.raises(TaskError, match="cannot be read"):
            read(tmp_path / "nowhere")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(TaskError, match="cannot be read"):
        from_jsonl(tmp_path / "binary")
    (tmp_path / "empty.csv").write_text("")
    with pytest.raises(TaskError, match="not a CSV table"):
        from_table(tmp_path / "empty.csv")
    (tmp_path / "header.csv").write_text("clean,corrupted,answer\n")
    with pytest.raises(TaskError, match="no pairs were given"):
        from_table(tmp_path / "header.csv")
    (tmp_path / "columns.csv").write_text("clean,answer\na,b\n")
    with pytest.raises(TaskError, match="line 2: no corrupted"):
        from_table(tmp_path / "columns.csv")


def test_positions_must_be_the_same_in_every_pair(tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    lines = [
        {"clean": [1], "corrupted": [2], "answer": 3, "positions": {"S": 0}},
        {"clean": [2], "corrupted": [3], "answer": 3},
    ]
    path.write_text("\n".join(map(json.dumps, lines)))
    with pytest.raises(TaskError, match="same positions in every pair"):
        from_jsonl(path)
