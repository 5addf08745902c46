"""Tasks from files: one pair per line (JSONL), or per row of a table (CSV or pandas).

Columns: clean, corrupted, answer; and, if one likes, foil, template, words (a list, or words separated by "|"), and
positions (name to token number, or to the [start, end] characters of a word in the clean text). An answer or foil may
be a list. In CSV, lists and positions are written as JSON.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas

from ..errors import TaskError
from .given import Row, task_from_rows
from .task import Task
from .tokens import ModelOrTokenizer

REQUIRED = ("clean", "corrupted", "answer")
KNOWN = (*REQUIRED, "foil", "template", "words", "positions")


def from_jsonl(path: str | Path, model: ModelOrTokenizer = None) -> Task:
    """A task from a file with one JSON object per line; see `from_tokens` for what pairs must be.

    Prompts, answers and foils are texts, or ids. Raises TaskError with the line that is not a pair.
    """
    rows = []
    for number, line in enumerate(_read(path).splitlines(), start=1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise TaskError(f"{where}: not JSON ({error}); write one object per line") from error
        if not isinstance(record, dict):
            raise TaskError(f"{where}: expected an object with {', '.join(REQUIRED)}, got {type(record).__name__}")
        rows.append(_row(record, where))
    return task_from_rows(rows, model, name=Path(path).stem)


def from_table(table: str | Path | pandas.DataFrame, model: ModelOrTokenizer = None) -> Task:
    """A task from a CSV file or a DataFrame; see `from_tokens` for what pairs must be.

    In CSV every cell is text, so that an answer 4 is the text "4"; ids are written as JSON lists, "[12, 7]".
    Raises TaskError with the row that is not a pair.
    """
    if isinstance(table, pandas.DataFrame):
        records = [_present(record) for record in table.to_dict(orient="records")]
        return task_from_rows(
            [_row(record, f"table, row {number}") for number, record in enumerate(records)], model, name="from_table"
        )
    _read(table)
    try:
        frame = pandas.read_csv(table, dtype=str, keep_default_na=False)
    except (pandas.errors.ParserError, pandas.errors.EmptyDataError) as error:
        raise TaskError(f"{table}: not a CSV table ({error}); the first line names the columns") from error
    rows = [
        # line 1 holds the column names
        _row({name: _parsed(str(name), cell) for name, cell in record.items() if cell != ""}, f"{table}, line {number}")
        for number, record in enumerate(frame.to_dict(orient="records"), start=2)
    ]
    return task_from_rows(rows, model, name=Path(table).stem)


def _read(path: str | Path) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise TaskError(f"{path}: cannot be read as text ({error}); give the path of an existing UTF-8 file") from error


def _present(record: Mapping[Any, Any]) -> dict[Any, Any]:
    """Without missing cells (None, NaN, NA)."""
    return {name: cell for name, cell in record.items() if not (pandas.api.types.is_scalar(cell) and pandas.isna(cell))}


def _parsed(column: str, cell: str) -> object:
    """A CSV cell: JSON where it is a list or an object, else text."""
    if column in ("template", *(() if cell[:1] in "[{" else KNOWN)):
        return cell
    try:
        return json.loads(cell)
    except json.JSONDecodeError:
        return cell


def _row(record: Mapping[Any, Any], where: str) -> Row:
    missing = [name for name in REQUIRED if name not in record]
    if missing:
        raise TaskError(
            f"{where}: no {', '.join(missing)}; expected {', '.join(REQUIRED)}, got {sorted(map(str, record))}"
        )
    for name in ("clean", "corrupted", "answer", "foil"):
        value = record.get(name, "")
        listed = not isinstance(value, str | Mapping) and hasattr(value, "__len__")
        single = isinstance(value, str) or (name in ("answer", "foil") and _is_whole(value))
        if not single and not (listed and all(isinstance(item, str) or _is_whole(item) for item in value)):
            raise TaskError(
                f"{where}: {name} is {value!r}; expected text, token ids{', or a list' if 'o' in name else ''}"
            )
    words = record.get("words", ())
    positions = record.get("positions", {})
    if not isinstance(positions, Mapping):
        raise TaskError(f"{where}: positions is {positions!r}; expected names with token numbers or [start, end]")
    return Row(
        where=where,
        clean=record["clean"],
        corrupted=record["corrupted"],
        answer=record["answer"],
        foil=record.get("foil", ()),
        template=str(record.get("template", "")),
        words=tuple(words.split("|")) if isinstance(words, str) else tuple(map(str, words)),
        positions=dict(positions),
    )


def _is_whole(value: object) -> bool:
    return hasattr(value, "__index__") and not isinstance(value, bool)
