"""Scores of rows: the pseudo-log-likelihood of texts, and the accuracy of a model on minimal pairs.

A minimal pair is two texts that differ in one thing, one of them `good` and the other `bad`, as in BLiMP (Warstadt et
al. 2020). The model is right if it finds the good one likelier.
"""

import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

from bert_jax import files
from bert_jax.data.row_errors import RowErrors
from bert_jax.data.rows import Row, check_fields, read_json_lines, read_rows, text_of
from bert_jax.errors import InputError
from bert_jax.predict import PretrainedBert, load

PAIR = ("good", "bad")
CHUNK = 4000  # rows scored before their lines are written


def score_file(
    source: str,
    input: str = "-",
    out: str | None = None,
    *,
    within_word: bool = False,
    group: str = "group",
) -> Iterator[str]:
    """Scores the rows of a file with the model of SOURCE; yields what is to be printed.

    Args:
      input: rows as `bert_jax.data.rows.read_rows` reads them; "-" is standard input with JSON lines.
      out: a file for a JSON line of each row; None = the lines of texts are yielded, and those of pairs are left out.
      within_word: see `PretrainedBert.score`.
      group: see `accuracies`.

    Raises:
      InputError: the source has no MLM head, or a row is wrong; it is named by file and line.
    """
    if out is not None:  # now, so that no work is lost for want of a folder
        files.make_folder(files.path(out).parent)
        if files.path(out).is_dir():
            raise InputError(f"{out}: this is a folder; give a file")
    if input == "-":
        rows = [row for arrived in read_json_lines(files.standard_input(), "stdin") for row in arrived]
    else:
        rows = read_rows(input, otherwise="jsonl")
    pairs = bool(rows) and is_pair(rows[0])
    if pairs and group != "group":
        check_fields(rows, [group])
    answers = []
    for number, answer in enumerate(score_rows(load(source), rows, within_word=within_word), 1):
        if pairs and number % CHUNK == 0:
            print(f"{number:,} of {len(rows):,} pairs", file=sys.stderr, flush=True)
        if pairs or out is not None:
            answers.append(answer)
        else:
            yield files.json_text(answer)
    if out is not None:
        files.write_whole(out, "".join(files.json_text(answer) + "\n" for answer in answers))
    if pairs:
        yield files.json_text(accuracies(answers, group), indent=2)


def is_pair(row: Row) -> bool:
    """Returns whether a row is a minimal pair.

    Raises:
      InputError: the row has neither a text nor a pair of texts.
    """
    if set(PAIR) <= set(row.values):
        return True
    if "text" not in row.values:
        known = ", ".join(repr(name) for name in row.values)
        raise InputError(f"{row.where}: expected a field 'text', or the fields 'good' and 'bad'; this row has {known}")
    return False


def score_rows(bert: PretrainedBert, rows: Sequence[Row], *, within_word: bool = False) -> Iterator[dict[str, Any]]:
    """Yields the answer to each row; the first row decides whether all are texts or pairs.

    The answer to a text is its row with "score", "tokens" and "log_probs"; to a pair, its row with "good_score",
    "bad_score" and "correct". Scores are rounded to 4 digits, and the good text is not likelier if they are equal.

    Raises:
      InputError: a row lacks a text, or its text is too long for the model.
    """
    fields = PAIR if rows and is_pair(rows[0]) else ("text",)
    errors = RowErrors()
    texts = [Row({"text": text_of(row, field, errors)}, row.where) for row in rows for field in fields]
    errors.check()
    for start in range(0, len(rows), CHUNK):
        chunk = rows[start : start + CHUNK]
        scores = bert.score(texts[start * len(fields) : (start + CHUNK) * len(fields)], within_word=within_word)
        totals = [round(float(total), 4) for total in scores.totals]
        if fields == PAIR:
            for row, good, bad in zip(chunk, totals[::2], totals[1::2], strict=True):
                yield row.values | {"good_score": good, "bad_score": bad, "correct": good > bad}
        else:
            for row, total, tokens, log_probs in zip(chunk, totals, scores.tokens, scores.log_probs, strict=True):
                each = [round(float(log_prob), 4) for log_prob in log_probs]
                yield row.values | {"score": total, "tokens": tokens, "log_probs": each}


def accuracies(answers: Sequence[dict[str, Any]], group: str = "group") -> dict[str, Any]:
    """Returns {"accuracy", "pairs", "groups"}: the share of correct pairs, their number, and the share in each group.

    Args:
      answers: those of `score_rows` to pairs.
      group: the field with a pair's group; "groups" is left out if no pair has it.
    """
    by_group: dict[str, list[bool]] = defaultdict(list)
    for answer in answers:
        if group in answer:
            by_group[str(answer[group])].append(answer["correct"])
    result: dict[str, Any] = {
        "accuracy": sum(answer["correct"] for answer in answers) / len(answers),
        "pairs": len(answers),
    }
    if by_group:
        result["groups"] = {name: sum(correct) / len(correct) for name, correct in sorted(by_group.items())}
    return result
