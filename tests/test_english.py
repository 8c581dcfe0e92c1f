"""The project's texts are plain English: turns of phrase that are hard to read occur nowhere.

The texts are comments, docstrings, strings and names of tests in Python files, Markdown, notebooks, the Makefile and
`pyproject.toml`. Other code is not read. `python tests/test_english.py PATH...` prints the turns to avoid in files or
folders.
"""

import ast
import bisect
import io
import itertools
import json
import re
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TURNS = {
    r"so (many|much)": "N, how much, a number",
    r"so (small|short|large|long|little|few|big|rare|high|low) an?": "such a small ...",
    r"(?<!there )(is|are|was|were) no (?!longer|more than|less than|later than|better|worse|different)": (
        "is not a ...; in an error, what is expected: must be ..."
    ),
    r"st(ands?|ood|anding)(?! for\b| out\b|-in| still\b)": "is, are",
    r"beside": "next to, besides, as well as",
    r"(?<!thing )(?<!where )(?<!body )(?<!one )(?<!what )(?<!who )(?<!all )(?<!much )else(?!where|,? if)": "otherwise",
    r"anew": "again",
    r"nought": "zero",
    r"for ever|for evermore": "forever",
    r"whichever|whoever|whomever|whomsoever": "any, the one that",
    r"thereof|therein|thereto|thereupon|wherein|whereof|whereby|whereupon|whence|hitherto": "of it, in which, ...",
    r"whilst|amongst|amidst|lest|shall|thrice|nay|unto|albeit": "while, among, so that not, must, three times, ...",
    r"to and fro": "back and forth",
    r"(is|are|was|were|be|been|being) asked for": "the field, the argument, what it names",
    r"asked again": "called again",
    r"what (it|they|one|he) found": "the accuracy, the file: what was found",
    r"what there is": "the thing",
    r"has the say|have the say": "is used, decides",
    r"(knows?|knew|is|are|has|have|does|do|did) (it|them) not": "does not know it",
    r"(?<!paper )(?<!papers )meets": "reads, reaches",
    r"wish(es|ed)?": "want; of code: is True",
    r"knows|asks|says": "of code: has, reads, contains, calls, returns",
    r"(is|are|was|were|be|been) told|told (apart|from)": "is reported, is distinguished",
    r"(sentence|library|label|class|language) told": "accuracy",
    r"(a|one) room for (each|every)|rooms": "one file per task",
    r"(at|in|for|of) (each|every|that|this|its|another) place": "position, workdir, file",
    r"members?(?= of (a|the) (sweep|run)|'s (run|seed|folder|state)| runs?\b)": "one seed's run, a seed run",
    r"differs? in nothing": "same settings, another seed",
    r"(to|could|can|cannot|not) be had": "is available",
    r"has but|have but|but one\b": "has only",
    r"one's own": "your own",
    r"signs? of life": "progress",
    r"of which one": "a sentence of its own",
    r"(given|gives?|giving) (it|its command|the same command) again": "run the same command again",
    r"none the less|nonetheless|notwithstanding": "still",
    r"(?<!\w)every so": "every N",
}
PATTERNS = {re.compile(rf"\b(?:{turn})\b", re.IGNORECASE): better for turn, better in TURNS.items()}
ANY = re.compile(rf"\b(?:{'|'.join(f'(?:{turn})' for turn in TURNS)}|pieces?)\b", re.IGNORECASE)  # of all at once
PIECES = {re.compile(r"\bpieces?\b", re.IGNORECASE): "token"}  # only in files about tokenizers
VAGUE_NAMES = {"found", "kept", "given", "told", "said", "member", "members", "place", "places"}


def paths(*below: str) -> list[Path]:
    """All files with text in them, or those in the named files and folders."""
    roots = [
        ROOT / name for name in below or (".github", "bert_jax", "docs", "experiments", "notebooks", "tests", "tools")
    ]
    files = [path for root in roots for path in (sorted(root.rglob("*")) if root.is_dir() else [root])]
    files += [] if below else [path for path in sorted(ROOT.iterdir()) if path.is_file()]
    wanted = {".py", ".md", ".ipynb", ".toml", ".yml", ".yaml", ""}
    return [p for p in files if p.is_file() and p.suffix in wanted and p != Path(__file__) and p.name != "LICENSE"]


def python_text(source: str) -> str:
    """Returns `source` with code replaced by NUL and quotes by spaces: comments, strings and names of tests remain."""
    lines = source.splitlines(keepends=True)
    starts = [0]
    for line in lines:
        starts.append(starts[-1] + len(line))
    text = list(re.sub(r"[^\s]", "\0", source))
    strings = {tokenize.STRING, tokenize.COMMENT, getattr(tokenize, "FSTRING_MIDDLE", -1)}
    edges = {getattr(tokenize, "FSTRING_START", -1), getattr(tokenize, "FSTRING_END", -1)}
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        start, end = (starts[row - 1] + column for row, column in (token.start, token.end))
        if token.type in strings:
            shown = source[start:end]
            if re.match(r"[rR]?[fF]", shown) and token.type == tokenize.STRING:  # before Python 3.12
                previous = ""
                while shown != previous:  # braces in braces
                    previous, shown = shown, re.sub(r"\{[^{}]*\}", lambda m: "\0" * len(m[0]), shown)
            mark = r"^#+|^[rbfuRBFU]*(\"\"\"|'''|\"|')|(\"\"\"|'''|\"|')$|\\n"
            text[start:end] = re.sub(mark, lambda m: " " * len(m[0]), shown)
        elif token.type == tokenize.NAME and token.string.startswith("test_"):
            text[start:end] = token.string.replace("_", " ")
        elif token.type in edges:
            text[start:end] = " " * (end - start)
    return re.sub(r"(?m)^\s*(>>>|\.\.\. ).*$", lambda m: "\0" * len(m[0]), "".join(text))


def texts(path: Path) -> Iterator[tuple[str, str]]:
    """Yields (where, text) for each part of a file; a notebook has one part a cell."""
    content = path.read_text(encoding="utf-8")
    name = str(path.relative_to(ROOT))
    if path.suffix == ".py":
        yield name, python_text(content)
    elif path.suffix == ".ipynb":
        for number, cell in enumerate(json.loads(content)["cells"]):
            text = "".join(cell["source"])
            code = re.sub(r"(?m)^( *)([!%])", r"\1#", text)
            yield f"{name}: cell {number}", python_text(code + "\n") if cell["cell_type"] == "code" else text
    else:
        yield name, content


def turns(text: str, patterns: dict[re.Pattern, str] = PATTERNS) -> Iterator[tuple[int, str, str]]:
    """Yields (line, turn, better wording) for each turn to avoid; a line's end counts as a space."""
    text = re.sub(r"`[^`\n]+`", lambda m: "`" * len(m[0]), text)  # quoted code is code
    words = list(re.finditer(r"\S+", text))
    joined = " ".join(word[0] for word in words)
    if not ANY.search(joined):
        return
    starts = list(itertools.accumulate((len(word[0]) + 1 for word in words), initial=0))
    for pattern, better in patterns.items():
        for match in pattern.finditer(joined):
            word = words[bisect.bisect_right(starts, match.start()) - 1]
            yield text.count("\n", 0, word.start()) + 1, match[0], better


def problems(path: Path) -> list[str]:
    """Returns one line for each turn to avoid in a file, with a better wording."""
    patterns = PATTERNS if "tokeniz" in str(path.relative_to(ROOT)) else PATTERNS | PIECES
    return [
        f"{where}:{line}: {turn!r}; write: {better}"
        for where, text in texts(path)
        for line, turn, better in sorted(turns(text, patterns))
    ]


def vague_names(path: Path) -> list[str]:
    """Returns one line for each variable or argument whose name says nothing about its value."""
    lines = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        stored = isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
        name = node.id if stored else node.arg if isinstance(node, ast.arg) else None  # type: ignore[attr-defined]
        if name in VAGUE_NAMES:
            lines.append(f"{path.relative_to(ROOT)}:{node.lineno}: {name!r}: name the value")  # type: ignore[attr-defined]
    return lines


def test_texts_are_plain_english():
    hits = [line for path in paths() for line in problems(path)]
    assert not hits, "\n" + "\n".join(hits)


def test_names_say_what_the_value_is():
    hits = [line for path in paths() if path.suffix == ".py" for line in vague_names(path)]
    assert not hits, "\n" + "\n".join(hits)


@pytest.mark.parametrize(
    ("source", "line"),
    [
        ('def f():\n    """At most so many rows."""\n', 2),
        ("x = 1\n# The table stands\n# here.\n", 2),
        ('raise ValueError(f"{x!r} is "\n    "no share")\n', 1),
        ("x = f'{a} is told by {b}'\n", 1),
        ("def test_it_is_no_store():\n    pass\n", 1),
        ("'''One.\n\n    Made anew.\n    '''\n", 3),
    ],
)
def test_a_turn_is_found_in_comments_docstrings_and_strings(source, line):
    assert [where for where, _, _ in turns(python_text(source))] == [line]


@pytest.mark.parametrize(
    "source",
    [
        "beside = 1 if anew else 2\n",
        "# NSP stands for next sentence prediction; there is no other, and it is no longer used.\n",
        "# Nothing else is needed, as long as elsewhere it is as many.\n",
        '"""Adds.\n\n>>> 1 if True else 2\n1\n"""\n',
        "x = f'{1 if y else z} rows'\n",
        """x = f"{a}{'' if b else f'<b>{c}</b>'}"\n""",
    ],
)
def test_code_and_plain_english_pass(source):
    assert not list(turns(python_text(source)))


if __name__ == "__main__":
    for file in paths(*sys.argv[1:]):
        for line in problems(file) + (vague_names(file) if file.suffix == ".py" else []):
            print(line)
