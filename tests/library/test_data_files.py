"""Rows of files: every format reads alike, and what is wrong is said with file and true line, or counted."""

import csv
import gzip
import json
from io import StringIO

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf_lib.args import InputError, PromptArgs
from rlhf_lib.models.lengths import CHARACTERS
from rlhf_lib.tasks import Gsm8kTask, MathQaTask, SvampTask
from rlhf_lib.tasks.data_files import BadRow, Reader, Row, load_splits, read_file, text_in
from rlhf_lib.tasks.prompting import WordProblem
from rlhf_lib.trainers.reward_model import read_comparisons

GOOD = {"question": "1+1?", "answer": "1+1=2\n#### 2"}
ROWS = [GOOD, {"question": 'a "quoted", one\nwith two lines\u2028and Ünïcode', "answer": "x\n#### 3"}]


def lines(rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


def comma_separated(rows):
    text = StringIO()
    writer = csv.DictWriter(text, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def write(file, rows):
    """Rows in the format that a file's name says."""
    name = file.name.lower()
    if name.endswith(".parquet"):
        import pyarrow
        import pyarrow.parquet

        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), file)
        return file
    as_text = {".jsonl": lines, ".json": json.dumps, ".csv": comma_separated}
    text = next(form for ending, form in as_text.items() if ending in (name.removesuffix(".gz")[-len(ending) :],))(rows)
    file.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    return file


NAMES = ["a.jsonl", "a.JSONL", "a.json", "a.Json", "a.csv", "a.CSV", "a.parquet", "a.PARQUET"]
NAMES += ["a.jsonl.gz", "a.JSONL.GZ", "a.json.gz", "a.csv.gz", "a.Csv.Gz"]


@pytest.mark.parametrize("name", NAMES)
def test_every_format_reads_alike(name, tmp_path):
    file = write(tmp_path / name, ROWS)
    assert read_file(file) == ROWS
    assert [problem.answer for problem in gsm8k(file).problems("test")] == ["2", "3"]


@pytest.mark.parametrize("name", ["train.jsonl.gz", "train-00000-of-00001.csv", "gsm8k_train.CSV.gz"])
def test_splits_are_read_off_every_name(name, tmp_path):
    write(tmp_path / name, ROWS)
    assert len(load_splits(str(tmp_path), "x/y", None)["train"]) == 2


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.jsonl.gz"])
def test_a_byte_order_mark_is_no_column(name, tmp_path):
    text = {"jsonl": lines, "json": json.dumps, "csv": comma_separated}[name.split(".")[1]](ROWS)
    data = text.encode("utf-8-sig")
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith("gz") else data)
    assert read_file(tmp_path / name) == ROWS


def gsm8k(file, **options):
    return Gsm8kTask(PromptArgs(task="gsm8k", data=str(file), **options))


BAD_JSON = {
    "broken": '{"question": "q", "answer": ',
    "a number": "3",
    "a text": '"a"',
    "null": "null",
    "a list": "[1]",
    "nested": "[" * 100_000,
    "digits": "9" * 5000,
    "no question": '{"answer": "#### 1"}',
    "no answer": '{"question": "q"}',
    "null question": '{"question": null, "answer": "#### 1"}',
    "empty question": '{"question": "  ", "answer": "#### 1"}',
    "NaN question": '{"question": NaN, "answer": "#### 1"}',
    "list question": '{"question": ["q"], "answer": "#### 1"}',
    "half a character": '{"question": "a \\ud800 b", "answer": "#### 1"}',
    "null answer": '{"question": "q", "answer": null}',
    "NaN answer": '{"question": "q", "answer": NaN}',
    "infinite answer": '{"question": "q", "answer": 1e999}',
    "empty answer": '{"question": "q", "answer": ""}',
    "list answer": '{"question": "q", "answer": ["#### 1"]}',
    "object answer": '{"question": "q", "answer": {"a": 1}}',
    "true answer": '{"question": "q", "answer": true}',
    "no mark": '{"question": "q", "answer": "She has 7 apples."}',
    "nothing after the mark": '{"question": "q", "answer": "1+1=2\\n####  "}',
}


@pytest.mark.parametrize("line", BAD_JSON.values(), ids=BAD_JSON)
@pytest.mark.parametrize("place", [0, 1, 40])
def test_a_bad_line_is_named_or_counted(line, place, tmp_path, capsys):
    file = tmp_path / "test.jsonl"
    good = [json.dumps({**GOOD, "question": f"{i}?"}) for i in range(45)]
    file.write_text("\n\n" + "\n".join([*good[:place], line, *good[place:]]) + "\n")
    with pytest.raises(BadRow, match=rf"^line {place + 3} of {file}: ") as error:
        gsm8k(file).problems("test")
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 500
    assert capsys.readouterr().err == ""
    assert len(gsm8k(file, skip_bad_rows=True).problems("test")) == 45
    said = capsys.readouterr().err
    assert f"1 of 46 rows left out; the first: line {place + 3} of {file}" in said


def test_bytes_that_are_no_text(tmp_path):
    file = tmp_path / "test.jsonl"
    file.write_bytes(lines(ROWS).encode() + b'{"question": "\xff"}\n')
    with pytest.raises(BadRow, match=r"line 3 of .* not UTF-8"):
        read_file(file)
    assert read_file(file, Reader(skip_bad_rows=True)) == ROWS


def test_lines_of_a_csv_file_are_counted_as_an_editor_does(tmp_path):
    file = tmp_path / "test.csv"
    file.write_text('question,answer\n"two\nlines",#### 1\nq,#### 2\n\n"three\n\nlines",\n')
    with pytest.raises(BadRow, match=rf"^line 6 of {file}: answer is empty"):
        gsm8k(file).problems("test")
    problems = gsm8k(file, skip_bad_rows=True).problems("test")
    assert [problem.question for problem in problems] == ["two\nlines", "q"]
    file.write_text("question,answer\na,#### 1\nb,#### 2,c\n")
    with pytest.raises(BadRow, match=rf"^line 3 of {file}: it has 3 fields under 2 names"):
        gsm8k(file).problems("test")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.json", b"3"),
        ("a.json", b"{"),
        ("a.json", b"\xff"),
        ("a.json", b"[" * 100_000),
        ("a.csv", b'a,b\n"open'),
        ("a.csv", b"a,b\n\xff,1\n"),
        ("a.csv", b"a,a\n1,2\n"),
        ("a.parquet", b"PAR1"),
        ("a.parquet", b""),
        ("a.jsonl.gz", b"no gz"),
        ("a.jsonl.gz", gzip.compress(b"{}" * 100, mtime=0)[:-9]),
        ("a.jsonl.gz", gzip.compress(b"{}" * 100, mtime=0)[:12] + b"\xff" * 40),
    ],
)
def test_files_that_cannot_be_read(name, content, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError) as error:
        gsm8k(tmp_path / name).problems("test")
    assert str(tmp_path / name) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.jsonl.gz"])
def test_an_empty_file_has_no_problems(name, tmp_path):
    (tmp_path / name).write_bytes({"a.json": b"[]", "a.jsonl.gz": gzip.compress(b"")}.get(name, b""))
    with pytest.raises(InputError, match="no row that can be used"):
        gsm8k(tmp_path / name).problems("test")


def test_columns_under_another_name(tmp_path):
    theirs = [{"problem": row["question"], "target": row["answer"], "answer": 3, "id": 1} for row in ROWS]
    file = write(tmp_path / "test.jsonl", theirs)
    renamed = gsm8k(file, columns=("question=problem", "answer=target"))
    assert [problem.answer for problem in renamed.problems("test")] == ["2", "3"]
    with pytest.raises(BadRow, match="no column 'sum', which columns asks for; it has problem, target"):
        gsm8k(file, columns=("question=problem", "answer=sum")).problems("test")
    assert Row({"a": 1, "b": 2}, "here").renamed({"a": "b", "b": "a"}) == {"a": 2, "b": 1}
    for wrong in ("question", "question=", "=problem"):
        with pytest.raises(InputError, match="must be OURS=THEIRS"):
            PromptArgs(columns=(wrong,))


@pytest.mark.parametrize("answer", ["42", "1,000", "-3.5", 42, 2.5])
def test_an_answer_may_be_a_number_alone(answer):
    assert Gsm8kTask().read({"question": "q", "answer": answer}) == WordProblem("q", "", str(answer))


@pytest.mark.parametrize(
    ("task", "row", "column"),
    [
        (SvampTask, {"Body": "b", "Question": "q", "Equation": "1+1", "Answer": 2.0}, "Answer"),
        (SvampTask, {"Body": "b", "Question": "q", "Equation": "1+1", "Answer": 2.0}, "Question"),
        (SvampTask, {"Body": "b", "Question": "q", "Equation": "1+1", "Answer": 2.0}, "Body"),
        (MathQaTask, {"question": "q", "answer_value": "b"}, "answer_value"),
        (MathQaTask, {"question": "q", "answer_value": "b"}, "question"),
        (MathQaTask, {"Problem": "q", "options": "a ) 1", "Rationale": "r", "correct": "b"}, "correct"),
        (MathQaTask, {"Problem": "q", "options": "a ) 1", "Rationale": "r", "correct": "b"}, "Problem"),
    ],
)
@pytest.mark.parametrize("value", [None, "", " ", float("nan"), ["b"], {}, True])
def test_the_other_tasks_refuse_the_same(task, row, column, value, tmp_path):
    assert task().read(row)
    file = write(tmp_path / "test.jsonl", [row, {**row, column: value}])
    with pytest.raises(BadRow, match=f"^line 2 of {file}: .*{column}"):
        task(PromptArgs(data=str(file))).problems("test")


def test_a_task_of_ones_own_cannot_let_a_null_through(tmp_path):
    class Careless(Gsm8kTask):
        def read(self, row):
            return WordProblem(str(row["question"]), "", str(row["answer"]))

    for bad in (None, float("nan"), ""):
        file = write(tmp_path / "test.jsonl", [GOOD, {"question": "q", "answer": bad}])
        with pytest.raises(BadRow, match=r"^line 2 of .* answer is "):
            Careless(PromptArgs(data=str(file))).problems("test")


def test_questions_in_two_splits_are_counted(tmp_path, capsys):
    write(tmp_path / "train.jsonl", [{**GOOD, "question": f"{i}?"} for i in range(5)])
    write(tmp_path / "test.jsonl", [{**GOOD, "question": f"{i}?"} for i in range(3, 7)])
    assert len(gsm8k(tmp_path).problems("test")) == 4
    assert "2 of 4 test questions are training questions too" in capsys.readouterr().err
    write(tmp_path / "test.jsonl", [{**GOOD, "question": f"{i}?"} for i in range(5, 7)])
    assert len(gsm8k(tmp_path).problems("test")) == 2
    assert capsys.readouterr().err == ""


def test_what_is_said_moves_no_cursor(tmp_path, capsys):
    folder = tmp_path / "red \x1b[31m"
    folder.mkdir()
    (folder / "test.jsonl").write_text(lines(ROWS) + "3\n")
    gsm8k(folder / "test.jsonl", skip_bad_rows=True).problems("test")
    assert "\x1b" not in capsys.readouterr().err


@given(st.text(), st.text(), st.text())
def test_texts_are_taken_whole_or_refused(question, solution, answer):
    row = Row({"question": question, "answer": f"{solution}#### {answer}"}, "line 1 of a file")
    reader = Reader(skip_bad_rows=True)
    problem = Gsm8kTask().read_row(row, reader)
    is_text = question.strip() and answer.strip() and "\0" not in question + solution + answer
    assert (problem is not None) == bool(is_text) == (not reader.left_out)
    if problem is not None and "####" not in answer:
        assert (problem.question, problem.answer) == (question.strip(), answer.strip())
        assert text_in(row, "question") == question.strip()


class CountsCharacters:
    """A tokenizer of one token a character, which notes how much it was given."""

    def __init__(self):
        self.seen = 0

    def __call__(self, text, **options):
        self.seen += len(text)
        return {"input_ids": [ord(c) for c in text]}

    def decode(self, ids, **options):
        return "".join(map(chr, ids))


def test_megabytes_are_not_tokenised_to_find_that_they_do_not_fit(tmp_path):
    room, long = 50, 4_000_000
    file = write(tmp_path / "test.jsonl", [{**GOOD, "question": "a" * long}])
    tokenizer = CountsCharacters()
    task = Gsm8kTask(PromptArgs(task="gsm8k", data=str(file), few_shot=0), tokenizer, room)
    prompt = task.held_out(1).prompts[0]
    assert prompt.endswith("a\nAnswer:\n")
    assert len(prompt) <= room
    assert tokenizer.seen <= CHARACTERS * room + 10
    assert not task.fits("a" * (CHARACTERS * room + 1))
    assert task.fits("a" * room)
    assert not task.fits("a" * (room + 1))


@pytest.mark.parametrize("text", ["<", "<<", "<<x", "<<x>", "<<1+1=2", "<<>>"])
def test_calculator_notes_are_found_in_one_pass(text):
    """Every search ends at the next "<", so that unclosed notes cost no more than their own length."""
    many = text * 200_000
    solution = Gsm8kTask().read({"question": "q", "answer": f"a {many}\n#### 1"}).solution
    assert solution == ("a" if text == "<<>>" else f"a {many}")


# Comparisons

PAIR = {"prompt": "q", "chosen": "a", "rejected": "b"}
BAD_PAIRS = [
    3,
    None,
    "a",
    [1],
    *({**PAIR, name: value} for name in PAIR for value in (None, 3, {}, [{"role": "assistant"}], [3])),
]
BAD_PAIRS += [{**PAIR, "prompt": ""}, {**PAIR, "prompt": []}, {**PAIR, "chosen": "half \ud800"}]
BAD_PAIRS += [{k: v for k, v in PAIR.items() if k != name} for name in PAIR]


@pytest.mark.parametrize("bad", BAD_PAIRS, ids=lambda bad: json.dumps(bad))
def test_bad_comparisons_are_named_or_counted(bad, tmp_path, capsys):
    file = write(tmp_path / "pairs.jsonl", [PAIR, bad, PAIR])
    with pytest.raises(BadRow, match=rf"^line 2 of {file}: "):
        read_comparisons(str(file), "bradley-terry")
    assert len(read_comparisons(str(file), "bradley-terry", Reader(skip_bad_rows=True))) == 2
    assert "1 of 3 rows left out" in capsys.readouterr().err


@pytest.mark.parametrize("score", [None, "", "high", [1.0], {}, float("nan"), float("inf")])
def test_bad_scores_are_named(score, tmp_path):
    row = {"prompt": "q", "completion": "a", "score": 0.5}
    file = write(tmp_path / "scores.jsonl", [row, {**row, "score": score}])
    with pytest.raises(BadRow, match=rf"^line 2 of {file}: .*score"):
        read_comparisons(str(file), "regression")


def test_comparisons_in_other_formats_and_under_other_names(tmp_path):
    theirs = [{"question": "q", "better": "a", "worse": "b"}] * 3
    columns = {"prompt": "question", "chosen": "better", "rejected": "worse"}
    for name in ("a.csv", "a.jsonl.gz", "a.parquet", "a.JSON"):
        pairs = read_comparisons(str(write(tmp_path / name, theirs)), "bradley-terry", Reader(columns=columns))
        assert [(better.completion, worse.completion) for better, worse in pairs] == [("a", "b")] * 3
