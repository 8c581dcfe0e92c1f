"""Batches for pre-training, each a pure function of (stores, fields, seed, step)."""

from collections.abc import Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np

from bert_jax.config import Pretraining
from bert_jax.data.batch import Arrays, make_batch
from bert_jax.data.layouts import Chunks, Documents, FullRows, Layout, Spans, sentence_starts
from bert_jax.data.masking import Masking
from bert_jax.data.shuffling import RowRandom, bounded, hash_key, mix, permute
from bert_jax.data.sizes import BatchSizes, stages
from bert_jax.data.store import TokenStore
from bert_jax.errors import InputError
from bert_jax.tokenizers import Tokenizer

MIXTURE_PERIOD = 10_000  # rows after which the pattern of a mixture repeats; weights are rounded to 1 / this


class Segments(NamedTuple):
    """Runs of tokens, in the order of rows and within them; one or more make a sequence. All arrays are [segments]."""

    row: np.ndarray  # int64
    start: np.ndarray  # int64, first token within the store
    size: np.ndarray  # int64, tokens
    opens: np.ndarray  # bool: a new sequence begins
    token_type: np.ndarray  # int32


class Stage(NamedTuple):
    """A part of the run with one sequence length."""

    first_step: int
    length: int
    layouts: list[Layout]  # one for each store


class PretrainingBatches:
    """Makes batch `step` of a run by itself: nothing that came before is needed.

    Calling it returns int32 arrays input_ids, token_type_ids, position_ids, sequence_ids [B, T]; cls_positions [B, N];
    masked_positions, masked_labels [B, P] and float32 masked_weights [B, P]; and, where pairs are made, int32
    pair_labels and float32 pair_weights [B, N]. N is 1 unless rows are packed, P is max(1, round(T * mask_rate)) with
    the larger of the first and the last mask rate.
    Unused slots weigh 0. Label 1 means that B is from another document (nsp), or that A and B are swapped (sop).

    For evaluation, masks and order do not depend on the run's seed, each sequence comes once, and the last batch is
    filled up with rows of weight 0.
    """

    def __init__(
        self,
        fields: Pretraining,
        stores: Sequence[TokenStore],
        tokenizer: Tokenizer,
        *,
        batch_size: int | BatchSizes,
        steps: int,
        seed: int,
        split: str = "train",
        host: int = 0,
        hosts: int = 1,
    ):
        """Opens one split of the stores.

        Args:
          fields: what examples are like.
          stores: where tokens come from.
          tokenizer: the one the stores were made with.
          batch_size: rows of the whole batch, over all hosts; perhaps other ones at other steps.
          steps: length of the run, over which the schedule of sequence lengths is spread.
          seed: of order and masking; evaluation does not use it.
          split: "train", or "eval" for the held-out documents.
          host, hosts: of `hosts`, this one makes rows host * B / hosts and following.

        Raises:
          InputError: a field has a value that makes no sense; a store was made with another tokenizer; a split is
            empty.
        """
        check(fields, stores, tokenizer)
        sizes = BatchSizes.of(batch_size)
        for size in sizes.every:
            if size % hosts:
                raise InputError(f"batch_size {size} cannot be shared by {hosts} hosts; choose a multiple of {hosts}")
        self.notes: tuple[str, ...] = ()
        self._fields = fields
        self._tokenizer = tokenizer
        self._sizes, self._host, self._hosts = sizes, host, hosts
        self._train = split == "train"
        self._seed = (0, seed) if self._train else (1,)
        self._masking = Masking(fields, tokenizer)
        self._documents = [Documents(store, fields.held_out, split) for store in stores]
        for store, documents in zip(stores, self._documents, strict=True):
            check_documents(store, documents, fields, split)
        tokens = np.array([documents.num_tokens for documents in self._documents], float)
        self._weights = np.array(fields.weights, float) if fields.weights else tokens
        self._weights /= self._weights.sum()
        self._stages = self._make_stages(steps)
        self._pattern, self._ordinals, self._per_period = _mixture(self._weights)
        if self._train:
            self.num_examples = sum(layout.count for layout in self._stages[0].layouts)
            self.num_steps = steps
        else:
            available = [layout.count for layout in self._stages[-1].layouts]
            shares = np.maximum(1, np.rint(self._weights * fields.eval_sequences)).astype(int)
            self._eval_ends = np.cumsum(np.minimum(available, shares))
            self.num_examples = int(self._eval_ends[-1])
            self.num_steps = -(-self.num_examples // sizes.at(0))

    def _make_stages(self, steps: int) -> list[Stage]:
        schedule = self._fields.length_schedule or ((1.0, self._fields.sequence_length),)
        if not self._train:
            schedule = schedule[-1:]
        return [
            Stage(first_step, length, [self._layout(documents, length) for documents in self._documents])
            for first_step, length in stages(schedule, steps)
        ]

    def _layout(self, documents: Documents, length: int) -> Layout:
        frame = self._tokenizer.frame
        if self._fields.packing == "none":
            specials = frame.size(2 if self._pairs else 1)
            return Chunks(documents, length - specials, self._fields.short_sequences)
        separators = frame.size(1) if self._fields.packing == "packed" else len(frame.between)
        return FullRows(documents, length - frame.size(1), separators)

    def __call__(self, step: int) -> Arrays:
        """Returns this host's rows of batch `step`."""
        number = max(i for i, stage in enumerate(self._stages) if stage.first_step <= step)
        stage = self._stages[number]
        count = self._sizes.at(step) // self._hosts
        first = self._host * count
        before = self._sizes.before(step) - self._sizes.before(stage.first_step)
        store, index, present = self._choose(before + first + np.arange(count))
        random = RowRandom((*self._seed, number, step), first, count)
        pair_random = [random.bits(self._sequences(stage.length)) for _ in range(4)] if self._pairs else []
        parts = []
        for i in np.unique(store):
            mine = np.flatnonzero(store == i)
            parts.append((mine, self._rows_of_store(number, int(i), index[mine], [bits[mine] for bits in pair_random])))
        batch = parts[0][1] if len(parts) == 1 else _merge(parts, count)
        rate = self._masking.rate(step / max(self.num_steps - 1, 1) if self._train else 1.0)
        batch |= self._masking.apply(batch["input_ids"], (batch["sequence_ids"] > 0).sum(axis=1), random, rate)
        for name in ("masked_weights", "pair_weights"):
            if name in batch:
                batch[name] *= present[:, None]
        return batch

    @cached_property
    def unigram_accuracy(self) -> float:
        """Share of masked tokens that are the most frequent one among them: the best that a constant answer can do."""
        counts = np.zeros(0, np.int64)
        for step in range(self.num_steps):
            batch = self(step)
            more = np.bincount(batch["masked_labels"][batch["masked_weights"] > 0], minlength=len(counts))
            more[: len(counts)] += counts
            counts = more
        return float(counts.max(initial=0) / max(counts.sum(), 1))

    @property
    def _pairs(self) -> bool:
        return self._fields.pairs != "none"

    def _sequences(self, length: int) -> int:
        """N: a packed sequence has at least one token and the special ones."""
        return length // (1 + self._tokenizer.frame.size(1)) if self._fields.packing == "packed" else 1

    def _choose(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns of each row its store, its number among the rows of that store, and whether it counts."""
        if not self._train:
            present = rows < self.num_examples
            rows = np.where(present, rows, 0)
            store = np.searchsorted(self._eval_ends, rows, side="right")
            return store, rows - np.where(store > 0, self._eval_ends[store - 1], 0), present
        period, position = np.divmod(rows, len(self._pattern))
        store = self._pattern[position]
        return store, period * self._per_period[store] + self._ordinals[position], np.ones(len(rows), bool)

    def _rows_of_store(self, stage: int, store: int, index: np.ndarray, random: list[np.ndarray]) -> Arrays:
        length, layout = self._stages[stage].length, self._stages[stage].layouts[store]
        epoch, position = np.divmod(index, layout.count)
        keys = mix(hash_key(*self._seed, stage, store) + epoch.astype(np.uint64))
        spans = layout.locate(permute(position, layout.count, keys), keys)
        documents = self._documents[store]
        sequences = self._sequences(length)
        if not self._pairs:
            segments = singles(spans, joined=self._fields.packing == "concatenated")
            return assemble(segments, documents.store.tokens, len(index), length, sequences, self._tokenizer)
        if self._fields.packing == "packed":
            # The special tokens between A and B replace the last tokens of a span, which must still have two to split.
            between = self._tokenizer.frame.size(2) - self._tokenizer.frame.size(1)
            spans = Spans(*(array[spans.size > between + 1] for array in spans))
            spans = spans._replace(size=spans.size - between)
        ordinal = np.arange(len(spans.row)) - np.searchsorted(spans.row, spans.row)
        make = next_sentence_pairs if self._fields.pairs == "nsp" else sentence_order_pairs
        segments, labels, made = make(spans, documents, *(bits[spans.row, ordinal] for bits in random))
        batch = assemble(segments, documents.store.tokens, len(index), length, sequences, self._tokenizer)
        batch["pair_labels"] = np.zeros((len(index), sequences), np.int32)
        batch["pair_labels"][spans.row, ordinal] = labels
        batch["pair_weights"] = np.zeros((len(index), sequences), np.float32)
        batch["pair_weights"][spans.row, ordinal] = made
        return batch


def check(fields: Pretraining, stores: Sequence[TokenStore], tokenizer: Tokenizer) -> None:
    """Raises InputError where fields contradict each other or the stores."""
    if fields.pairs != "none":
        tokenizer.frame.check_pairs()
    lengths = [length for _, length in fields.length_schedule] or [fields.sequence_length]
    shortest = tokenizer.frame.size(2) + 2
    if min(lengths) < shortest:
        raise InputError(f"task: a sequence length of {min(lengths)} is too short; a pair needs at least {shortest}")
    if not stores:
        raise InputError("task.stores: name at least one token store")
    if fields.weights and (len(fields.weights) != len(stores) or min(fields.weights) <= 0):
        raise InputError(f"task.weights: {fields.weights}, expected one above 0 for each of {len(stores)} stores")
    for store in stores:
        if store.fingerprint != tokenizer.fingerprint:
            raise InputError(
                f"{store.folder}: was made with another tokenizer (fingerprint {store.fingerprint[:12]}) than the "
                f"experiment's ({tokenizer.fingerprint[:12]}); prepare the text again, or use {store.tokenizer_folder}"
            )


def check_documents(store: TokenStore, documents: Documents, fields: Pretraining, split: str) -> None:
    """Raises InputError where a split has too few documents for what the fields ask for."""
    which = "held out" if split == "eval" else "left for training"
    if not len(documents):
        raise InputError(
            f"{store.folder}: with task.held_out {fields.held_out}, none of its {store.num_documents:,} documents is "
            f"{which}; choose another share, or 0 to do without evaluation"
        )
    if fields.pairs == "nsp" and len(documents) < 2:
        raise InputError(
            f"{store.folder}: nsp takes sentences from other documents, and only one is {which}; "
            "set pairs sop or none, or change task.held_out"
        )


def _mixture(weights: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Spreads stores evenly over a period of rows.

    Returns:
      pattern, int64 [period]: the store of each row; ordinals, int64 [period]: how many rows of the same store come
      before it; per_period, int64 [stores].
    """
    if len(weights) == 1:
        return np.zeros(1, int), np.zeros(1, int), np.ones(1, int)
    exact = weights * MIXTURE_PERIOD
    counts = np.maximum(1, np.floor(exact)).astype(int)
    counts[np.argsort(counts - exact, kind="stable")[: max(0, MIXTURE_PERIOD - counts.sum())]] += 1
    pattern = np.repeat(np.arange(len(counts)), counts)
    ordinals = np.concatenate([np.arange(count) for count in counts])
    order = np.argsort((ordinals + 0.5) / counts[pattern], kind="stable")
    return pattern[order], ordinals[order], counts


def _merge(parts: list[tuple[np.ndarray, Arrays]], rows: int) -> Arrays:
    merged = {name: np.empty((rows, *array.shape[1:]), array.dtype) for name, array in parts[0][1].items()}
    for mine, arrays in parts:
        for name, array in arrays.items():
            merged[name][mine] = array
    return merged


def singles(spans: Spans, joined: bool) -> Segments:
    """Makes each span a sequence of its own, or, `joined`, each row one sequence of all its spans."""
    opens = np.ones(len(spans.row), bool)
    if joined:
        opens[1:] = spans.row[1:] != spans.row[:-1]
    return Segments(spans.row, spans.start, spans.size, opens, np.zeros(len(spans.row), np.int32))


def split_points(spans: Spans, store: TokenStore, bits: np.ndarray) -> np.ndarray:
    """Returns how many tokens of each span belong to A: up to a random one of its sentences, int64 [spans].

    Where no sentence begins inside a span, up to a random token. At least 1, and below the size where that is over 1.
    """
    span, at = sentence_starts(store, spans.start + 1, spans.start + spans.size)
    counts = np.bincount(span, minlength=len(spans.row))
    first = np.cumsum(counts) - counts
    chosen = np.append(at, 0)[np.minimum(first + bounded(bits, counts), len(at))] - spans.start
    anywhere = 1 + bounded(bits, np.maximum(spans.size - 1, 1))
    return np.where(counts > 0, chosen, anywhere)


def sentence_order_pairs(
    spans: Spans, documents: Documents, where: np.ndarray, coin: np.ndarray, *_: np.ndarray
) -> tuple[Segments, np.ndarray, np.ndarray]:
    """Splits each span in two, and swaps every second pair (Lan et al. 2020, section 3.1).

    Args:
      spans, documents: what to split.
      where, coin: uint32 [spans], random.

    Returns:
      The segments; labels, int64 [spans]: 1 = swapped; made, bool [spans]: false where one token cannot be split.
    """
    size_a = np.minimum(split_points(spans, documents.store, where), spans.size)
    made = spans.size > 1
    swapped = (coin >= 1 << 31) & made
    start_b, size_b = spans.start + size_a, spans.size - size_a
    segments = _pairs(
        spans.row,
        np.where(swapped, start_b, spans.start),
        np.where(swapped, size_b, size_a),
        np.where(swapped, spans.start, start_b),
        np.where(swapped, size_a, size_b),
    )
    return segments, swapped.astype(int), made


def next_sentence_pairs(
    spans: Spans,
    documents: Documents,
    where: np.ndarray,
    coin: np.ndarray,
    which_other: np.ndarray,
    where_other: np.ndarray,
) -> tuple[Segments, np.ndarray, np.ndarray]:
    """Splits each span in two, and replaces every second B by sentences of another document (Devlin et al. 2019).

    The other document is drawn with probability proportional to its tokens. The replacement begins with a sentence and
    is as long as what it replaces, unless the other document is shorter: the length gives no answer away.

    Args:
      spans, documents: what to split, and where to find replacements.
      where, coin, which_other, where_other: uint32 [spans], random.

    Returns:
      The segments; labels, int64 [spans]: 1 = B is from elsewhere; made, bool [spans]: true.
    """
    size_a = np.minimum(split_points(spans, documents.store, where), spans.size)
    start_b, size_b = spans.start + size_a, spans.size - size_a
    # A single token cannot be split: what follows it is always from elsewhere.
    replaced = (coin >= 1 << 31) | (size_b == 0)
    before, size = documents.before(spans.document), documents.sizes(spans.document)
    drawn = (which_other / 2.0**32 * (documents.num_tokens - size)).astype(np.int64)
    other = np.searchsorted(documents.ends, np.where(drawn >= before, drawn + size, drawn), side="right")
    other_size = documents.sizes(other)
    wanted = np.maximum(size_b, 1)
    at = documents.starts[other] + bounded(where_other, np.maximum(other_size - wanted, 0) + 1)
    at = sentence_before(documents.store, documents.starts[other], at)
    segments = _pairs(
        spans.row,
        spans.start,
        size_a,
        np.where(replaced, at, start_b),
        np.where(replaced, np.minimum(wanted, other_size), size_b),
    )
    return segments, replaced.astype(int), np.ones(len(replaced), bool)


def sentence_before(store: TokenStore, first: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Returns where the sentence begins that holds token `at`, not before token `first`; int64 each.

    Looks back a hundred tokens at most; where a sentence is longer, returns `at` itself.
    """
    run, start = sentence_starts(store, np.maximum(first, at - 100), at + 1)
    result = at.copy()
    result[run] = start  # the last one of a run stays
    return result


def _pairs(
    row: np.ndarray, start_a: np.ndarray, size_a: np.ndarray, start_b: np.ndarray, size_b: np.ndarray
) -> Segments:
    def alternate(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.stack([a, b], axis=1).reshape(-1)

    types = np.tile(np.array([0, 1], np.int32), len(row))
    return Segments(alternate(row, row), alternate(start_a, start_b), alternate(size_a, size_b), types == 0, types)


def assemble(
    segments: Segments, tokens: np.ndarray, rows: int, length: int, sequences: int, tokenizer: Tokenizer
) -> Arrays:
    """Writes segments into rows, with the special tokens of the tokenizer's frame.

    Args:
      segments: ordered by row, the first of each row opens a sequence; the segments of a row must fit into it.
      tokens: the store's.
      rows, length, sequences: B, T and N.
      tokenizer: gives the frame and [PAD].

    Returns:
      input_ids, token_type_ids, position_ids, sequence_ids, int32 [B, T]; cls_positions, int32 [B, N].
    """
    frame, opens = tokenizer.frame, segments.opens
    joined = ~np.roll(opens, -1)  # the next segment belongs to the same sequence; that after the last one opens one
    prefix = len(frame.start) * opens
    suffix = np.where(joined, len(frame.between), len(frame.end))
    size_in_row = prefix + segments.size + suffix
    # The batch as one line of runs: the segments of a row, then the row's padding, then the next row.
    at = np.arange(len(size_in_row)) + segments.row
    padding_at = np.cumsum(np.bincount(segments.row, minlength=rows)) + np.arange(rows)
    run_sizes = np.empty(len(size_in_row) + rows, np.int64)
    run_sizes[at] = size_in_row
    run_sizes[padding_at] = length - np.bincount(segments.row, size_in_row, rows).astype(np.int64)
    slot = (np.cumsum(run_sizes) - run_sizes)[at]
    opened = np.cumsum(opens)
    first_of_row = np.searchsorted(segments.row, segments.row)
    sequence = opened - opened[first_of_row] + 1
    opening_slot = np.maximum.accumulate(np.where(opens, slot, 0))

    def spread(values: np.ndarray, dtype: type) -> np.ndarray:
        of_runs: np.ndarray = np.zeros(len(run_sizes), dtype)
        of_runs[at] = values
        return np.repeat(of_runs, run_sizes)

    slots = np.arange(rows * length)
    sequence_ids = spread(sequence, np.int32)
    used = sequence_ids > 0
    source = spread(segments.start - prefix - slot, np.int64) + slots
    input_ids = np.take(tokens, source, mode="clip").astype(np.int32)
    stop = slot + size_in_row
    for where, special in (
        (slot[opens], frame.start),
        (stop[joined] - len(frame.between), frame.between),
        (stop[~joined] - len(frame.end), frame.end),
    ):
        input_ids[where[:, None] + np.arange(len(special))] = special
    input_ids[~used] = tokenizer.pad_id
    position_ids = slots.astype(np.int32) - spread(opening_slot, np.int32) + np.int32(frame.first_position)
    position_ids[~used] = 0
    cls_positions = np.zeros((rows, sequences), np.int32)
    cls_positions[segments.row[opens], sequence[opens] - 1] = slot[opens] % length
    return make_batch(
        input_ids.reshape(rows, length),
        token_type_ids=spread(segments.token_type * frame.segments, np.int32).reshape(rows, length),
        position_ids=position_ids.reshape(rows, length),
        sequence_ids=sequence_ids.reshape(rows, length),
        cls_positions=cls_positions,
    )
