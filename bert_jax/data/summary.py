"""What became of rows on their way to batches: how many were left out, and how many texts were cut."""

from dataclasses import dataclass, field

from bert_jax.data.row_errors import RowErrors


@dataclass
class Summary:
    """Counts of the rows of one source."""

    rows: int = 0  # rows that are used
    skipped: RowErrors = field(default_factory=RowErrors)  # the problems of those that are left out
    cut: int = 0  # rows whose text is longer than `limit`
    lost: int = 0  # tokens left out of them
    tokens: int = 0  # tokens of all rows that are used, with those left out
    limit: str = ""  # the field that sets how long a text may be, and its value

    def add(self, other: "Summary") -> None:
        """Adds the counts of more rows of the same source."""
        self.rows += other.rows
        self.skipped.add_all(other.skipped)
        self.cut += other.cut
        self.lost += other.lost
        self.tokens += other.tokens
        self.limit = other.limit

    def with_unread(self, errors: RowErrors | None) -> "Summary":
        """Returns the counts with the rows that could not be read at all."""
        if errors is not None:
            self.skipped.add_all(errors)
        return self

    def lines(self, source: str) -> list[str]:
        """Returns lines for the user, each with the name of the source; none if all rows are used whole."""
        lines = []
        if skipped := self.skipped.count:
            problems = "\n  ".join(self.skipped.lines())
            lines.append(f"{source}: {skipped:,} of {skipped + self.rows:,} rows were skipped:\n  {problems}")
        if self.cut:
            share = self.lost / self.tokens
            lines.append(
                f"{source}: {self.cut:,} of {self.rows:,} rows are longer than {self.limit} and were cut; "
                f"{share:.1%} of all tokens were lost"
            )
        return lines
