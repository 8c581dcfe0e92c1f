"""The problems of rows, collected so that one message names the rows that are bad."""

from collections.abc import Iterable

from bert_jax.errors import InputError

MOST_REPORTED = 20  # bad rows that a message lists; the others are counted


class RowErrors:
    """Collects the problems of rows, so that one message lists them before training starts."""

    def __init__(self):
        self._problems: list[str] = []
        self.bad: dict[str, None] = {}  # `where` of the bad rows, in order

    def add(self, where: str, problem: str, others: Iterable[str] = ()) -> None:
        """Adds a problem of the row at `where`, which may be that of `others` too."""
        self._problems.append(f"{where}: {problem}")
        self.bad |= dict.fromkeys([where, *others])

    def add_all(self, more: "RowErrors") -> None:
        """Adds all problems of `more`."""
        self._problems += more._problems
        self.bad |= more.bad

    def take(self) -> "RowErrors":
        """Returns all problems so far, and forgets them."""
        taken = RowErrors()
        taken.add_all(self)
        self._problems, self.bad = [], {}
        return taken

    @property
    def count(self) -> int:
        """The number of bad rows."""
        return len(self.bad)

    def lines(self) -> list[str]:
        """Returns the first 20 problems, and how many more there are."""
        lines = self._problems[:MOST_REPORTED]
        more = len(self._problems) - len(lines)
        return [*lines, f"... and {more} more"] if more else lines

    def check(self) -> None:
        """Raises BadRowsError with the first 20 problems, one per line, if there are any."""
        if self._problems:
            raise BadRowsError(self)


class BadRowsError(InputError):
    """Some rows are bad; the others can be used."""

    def __init__(self, errors: RowErrors):
        super().__init__("\n".join(errors.lines()))
        self.errors = errors
