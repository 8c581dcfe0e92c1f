"""Batches of pre-training examples, checked on stores whose tokens are numbered by their position."""

import dataclasses
import subprocess
import sys
import tracemalloc
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from bert_jax.config import preset
from bert_jax.data.batch import make_batch
from bert_jax.data.examples import PretrainingBatches
from bert_jax.data.sizes import BatchSizes, stages
from bert_jax.data.store import LONG_SENTENCE, TokenStore
from bert_jax.errors import InputError
from bert_jax.model import Bert
from helpers.stores import (
    DOCUMENT_OF,
    PLAIN,
    SIZES,
    SPECIALS,
    STORE,
    TOKENIZER,
    batches,
    make_store,
    make_tokenizer,
    unmasked,
)
from helpers.weights import compiled, random_weights


def sequences_of(batch):
    """Yields (row, first column, ids of the sequence), special tokens included."""
    for row, ids in enumerate(unmasked(batch)):
        for number in range(1, batch["sequence_ids"][row].max(initial=0) + 1):
            (columns,) = np.nonzero(batch["sequence_ids"][row] == number)
            yield row, columns[0], ids[columns]


def segments_of(sequence) -> list[np.ndarray]:
    """The runs of ordinary tokens between special ones."""
    assert sequence[0] == TOKENIZER.cls_id
    assert sequence[-1] == TOKENIZER.sep_id
    return np.split(sequence[1:-1], np.flatnonzero(sequence[1:-1] == TOKENIZER.sep_id))


def ordinary(segment) -> np.ndarray:
    return segment[segment >= SPECIALS] - SPECIALS


def one_epoch(made: PretrainingBatches, batch_size: int) -> np.ndarray:
    """All ordinary tokens of one epoch, as indices into the store."""
    rows = made.num_examples
    assert rows % batch_size == 0
    ids = np.concatenate([unmasked(made(step)).ravel() for step in range(rows // batch_size)])
    return ids[ids >= SPECIALS] - SPECIALS


@pytest.mark.parametrize("packing", ["none", "packed", "concatenated"])
@pytest.mark.parametrize("short_sequences", [0.0, 0.1, 0.6])
def test_every_token_is_read_once_an_epoch(packing, short_sequences):
    fields = dataclasses.replace(PLAIN, packing=packing, short_sequences=short_sequences)
    tokens = one_epoch(batches(fields, batch_size=1), batch_size=1)
    np.testing.assert_array_equal(np.sort(tokens), np.arange(sum(SIZES)))


def test_the_second_epoch_has_another_order_and_other_short_sequences():
    made = batches(dataclasses.replace(PLAIN, short_sequences=0.5), batch_size=1)
    first = [tuple(unmasked(made(step)).ravel()) for step in range(made.num_examples)]
    second = [tuple(unmasked(made(step + made.num_examples)).ravel()) for step in range(made.num_examples)]
    assert first != second
    assert set(first) != set(second)


def test_another_epoch_shortens_other_sequences():
    store = make_store([14 * 200])
    fields = dataclasses.replace(PLAIN, short_sequences=0.1, random_token_share=0.0)
    made = batches(fields, [store], make_tokenizer(SPECIALS + store.num_tokens), batch_size=1)
    cut = []
    for epoch in range(2):
        steps = range(epoch * made.num_examples, (epoch + 1) * made.num_examples)
        begins = [ordinary(unmasked(made(step))[0]).min() for step in steps]
        cut.append({begin // 14 for begin in begins if begin % 14})
    assert len(cut[0]) == len(cut[1]) == pytest.approx(10, abs=1)
    assert cut[0] != cut[1]


def test_short_sequences_have_their_share():
    store = make_store([126 * 1000])
    made = batches(
        dataclasses.replace(PLAIN, sequence_length=128, short_sequences=0.1),
        [store],
        make_tokenizer(SPECIALS + store.num_tokens),
        batch_size=64,
    )
    used = np.concatenate([(made(step)["sequence_ids"] > 0).sum(axis=1) for step in range(made.num_examples // 64)])
    assert np.mean(used < 128) == pytest.approx(0.1, abs=0.01)
    assert len(np.unique(used)) > 40


def test_sequences_hold_one_document_and_are_numbered():
    for batch in map(batches(dataclasses.replace(PLAIN, packing="packed")), range(20)):
        for row, column, sequence in sequences_of(batch):
            (segment,) = segments_of(sequence)
            tokens = ordinary(segment)
            assert len(set(DOCUMENT_OF[tokens])) == 1
            np.testing.assert_array_equal(np.diff(tokens), 1)
            columns = slice(column, column + len(sequence))
            np.testing.assert_array_equal(batch["position_ids"][row, columns], np.arange(len(sequence)))
            assert column in batch["cls_positions"][row]
        padding = batch["sequence_ids"] == 0
        assert (batch["input_ids"][padding] == TOKENIZER.pad_id).all()


def test_packed_rows_are_full():
    made = batches(dataclasses.replace(PLAIN, packing="packed"), batch_size=1)
    used = [np.count_nonzero(made(step)["sequence_ids"]) for step in range(made.num_examples)]
    # Up to two slots are lost where a row ends next to the end of a document; the last row ends with the text.
    assert sorted(used)[1] >= PLAIN.sequence_length - 4
    assert np.mean(used) > 0.95 * PLAIN.sequence_length


@pytest.mark.parametrize("pairs", ["none", "nsp"])
def test_packed_sequences_give_what_they_give_alone(pairs):
    """No attention between the documents of a row: a sequence cut out into a row of its own is encoded the same."""
    store = make_store([5, 3, 9, 2, 4, 6, 8, 1, 7])
    fields = dataclasses.replace(PLAIN, packing="packed", pairs=pairs, sequence_length=32)
    packed = batches(fields, [store], make_tokenizer(SPECIALS + store.num_tokens), batch_size=2)(0)
    assert (packed["sequence_ids"].max(axis=1) >= 2).all()
    model = Bert(preset("bert-tiny", vocab_size=SPECIALS + store.num_tokens, max_position_embeddings=32, num_layers=1))
    names = ("input_ids", "token_type_ids", "position_ids", "sequence_ids")
    params = {"params": random_weights(model, {name: packed[name] for name in names})}
    together = compiled(model)(params, {name: packed[name] for name in names})
    for row, column, sequence in sequences_of(packed):
        columns = slice(column, column + len(sequence))
        cut = {name: np.pad(packed[name][row, columns], (0, 32 - len(sequence)))[None] for name in names}
        cut["sequence_ids"] = np.minimum(cut["sequence_ids"], 1)
        alone = make_batch(**cut)
        np.testing.assert_allclose(
            together[row, columns], compiled(model)(params, alone)[0, : len(sequence)], atol=1e-5
        )


def test_concatenated_rows_are_one_sequence_with_separators_between_documents():
    seen = 0
    for batch in map(batches(dataclasses.replace(PLAIN, packing="concatenated")), range(20)):
        assert batch["sequence_ids"].max() == 1
        for _, _, sequence in sequences_of(batch):
            documents = [DOCUMENT_OF[ordinary(segment)] for segment in segments_of(sequence)]
            assert all(len(set(document)) <= 1 for document in documents)
            seen += len(documents) > 1
    assert seen


@pytest.mark.parametrize("packing", ["none", "packed"])
@pytest.mark.parametrize("pairs", ["nsp", "sop"])
def test_pair_labels_are_true_and_balanced(pairs, packing):
    fields = dataclasses.replace(PLAIN, pairs=pairs, packing=packing, sequence_length=32)
    made = batches(fields, batch_size=64)
    labels = []
    begins = set(sentence_begins(STORE))
    for batch in map(made, range(30)):
        sequences = [0] * 64
        for row, _, sequence in sequences_of(batch):
            slot, sequences[row] = sequences[row], sequences[row] + 1
            if not batch["pair_weights"][row, slot]:
                continue
            a, b = (ordinary(segment) for segment in segments_of(sequence))
            label = batch["pair_labels"][row, slot]
            labels.append(label)
            if not len(a):
                continue
            if pairs == "nsp":
                follows = b[0] == a[-1] + 1 and DOCUMENT_OF[a[-1]] == DOCUMENT_OF[b[0]]
                assert follows if label == 0 else DOCUMENT_OF[a[0]] != DOCUMENT_OF[b[0]]
                assert len(set(DOCUMENT_OF[a])) == len(set(DOCUMENT_OF[b])) == 1
            else:
                assert (b[0] == a[-1] + 1) if label == 0 else (a[0] == b[-1] + 1)
                assert len(set(DOCUMENT_OF[np.concatenate([a, b])])) == 1
            # The second segment begins with a sentence wherever it can.
            second = (a if pairs == "sop" and label else b)[0]
            might = range(second - 100, second) if pairs == "nsp" and label else range(min(a[0], b[0]) + 1, second)
            assert second in begins or not begins & set(might)
            np.testing.assert_array_equal(
                batch["token_type_ids"][row][batch["sequence_ids"][row] == slot + 1],
                [0] * (len(a) + 2) + [1] * (len(b) + 1),
            )
    assert np.mean(labels) == pytest.approx(0.5, abs=0.05)


def sentence_begins(store):
    begins, at = [], 0
    for previous, length in zip([0, *store.sentence_lengths], store.sentence_lengths, strict=False):
        if previous != LONG_SENTENCE:
            begins.append(at)
        at += int(length)
    return begins


def test_the_length_of_b_does_not_give_the_nsp_label_away():
    store = make_store([122] * 400)
    fields = dataclasses.replace(PLAIN, pairs="nsp", sequence_length=64, short_sequences=0.0)
    made = batches(fields, [store], make_tokenizer(SPECIALS + store.num_tokens), batch_size=512)
    sizes = {0: [], 1: []}
    for batch in map(made, range(10)):
        for label, types in zip(batch["pair_labels"][:, 0], batch["token_type_ids"], strict=True):
            sizes[label].append(types.sum())
    assert np.mean(sizes[0]) == pytest.approx(np.mean(sizes[1]), rel=0.03)


@pytest.mark.parametrize(
    "changes",
    [{}, {"pairs": "nsp"}, {"packing": "packed", "pairs": "sop"}, {"mask_unit": "ngram", "packing": "packed"}],
)
def test_hosts_make_the_batch_of_one_host_together(changes):
    fields = dataclasses.replace(PLAIN, **changes)
    stores = [STORE, make_store(SIZES, seed=5)]
    for step in (0, 7):
        whole = batches(fields, stores)(step)
        parts = [batches(fields, stores, host=host, hosts=4)(step) for host in range(4)]
        for name in whole:
            np.testing.assert_array_equal(whole[name], np.concatenate([part[name] for part in parts]))


def test_a_fresh_process_makes_the_same_batch():
    program = """
import sys; sys.path.insert(0, sys.argv[1])
import dataclasses
from helpers.stores import PLAIN, batches
fields = dataclasses.replace(PLAIN, pairs="nsp", mask_unit="word")
print(sum(int(a.astype("int64").sum()) * k for k, a in enumerate(batches(fields)(31).values(), 1)))
"""
    here = str(Path(__file__).parent)
    out = subprocess.run([sys.executable, "-c", program, here], capture_output=True, text=True, check=True).stdout
    made = batches(dataclasses.replace(PLAIN, pairs="nsp", mask_unit="word"))
    made(3)
    assert int(out) == sum(int(a.astype("int64").sum()) * k for k, a in enumerate(made(31).values(), 1))


def test_the_seed_changes_training_and_not_evaluation():
    fields = dataclasses.replace(PLAIN, held_out=0.5)
    assert (batches(fields, seed=1)(0)["input_ids"] != batches(fields, seed=2)(0)["input_ids"]).any()
    a, b = (batches(fields, seed=seed, split="eval", steps=1)(0) for seed in (1, 2))
    for name in a:
        np.testing.assert_array_equal(a[name], b[name])


def test_no_document_is_in_both_splits_of_any_store():
    fields = dataclasses.replace(PLAIN, held_out=0.5, random_token_share=0.0)
    stores = [STORE, dataclasses.replace(STORE, folder=Path("copy"))]
    read = {
        split: {int(t) for step in range(60) for t in unmasked(batches(fields, stores, split=split)(step)).ravel()}
        for split in ("train", "eval")
    }
    documents = {split: {DOCUMENT_OF[t - SPECIALS] for t in tokens if t >= SPECIALS} for split, tokens in read.items()}
    assert documents["train"]
    assert documents["eval"]
    assert documents["train"] | documents["eval"] == set(range(len(SIZES)))
    assert not documents["train"] & documents["eval"]


def test_evaluation_reads_each_sequence_once_and_fills_the_last_batch_with_weightless_rows():
    fields = dataclasses.replace(PLAIN, held_out=1.0, pairs="sop", short_sequences=0.0)
    made = batches(fields, split="eval", batch_size=32)
    rows, weights = [], []
    for step in range(made.num_steps):
        batch = made(step)
        assert batch["input_ids"].shape == (32, 16)
        weights += list(batch["masked_weights"].sum(axis=1))
        present = batch["masked_weights"].any(axis=1)
        rows += [tuple(sorted(row)) for row in unmasked(batch)[present]]
        assert not batch["pair_weights"][~present].any()
        assert batch["sequence_ids"].any(axis=1).all()  # a row of padding alone would be all -inf in the attention
    assert len(rows) == len(set(rows)) == made.num_examples
    assert not any(weights[made.num_examples :])
    limited = batches(dataclasses.replace(fields, eval_sequences=7), split="eval", batch_size=32)
    assert limited.num_examples == 7
    assert limited.num_steps == 1


def test_mixtures_have_their_proportions_and_every_store_its_own_epochs():
    stores = [make_store(SIZES, first_token=SPECIALS), make_store(SIZES, first_token=SPECIALS + sum(SIZES))]
    tokenizer = make_tokenizer(SPECIALS + 2 * sum(SIZES))
    fields = dataclasses.replace(PLAIN, weights=(0.3, 0.7), short_sequences=0.0)
    made = batches(fields, stores, tokenizer, batch_size=10)
    from_second = [(unmasked(made(step)).max(axis=1) >= SPECIALS + sum(SIZES)).sum() for step in range(100)]
    assert set(from_second) <= {6, 7, 8}
    assert np.mean(from_second) == pytest.approx(7, abs=0.02)
    one = batches(dataclasses.replace(PLAIN, short_sequences=0.0), [stores[0]], tokenizer).num_examples
    ids = np.concatenate([unmasked(made(step)) for step in range(50)])
    first = [tuple(row) for row in ids[ids.max(axis=1) < SPECIALS + sum(SIZES)]]
    assert len(set(first[:one])) == one


def test_by_default_stores_are_mixed_by_their_tokens():
    stores = [make_store([300]), make_store([900])]
    made = batches(PLAIN, stores, make_tokenizer(2000), batch_size=100)
    assert list(made._per_period) == [2500, 7500]


def test_the_schedule_of_lengths_changes_them_on_time():
    fields = dataclasses.replace(PLAIN, length_schedule=((0.9, 16), (0.1, 32)))
    made = batches(fields, steps=100)
    assert [made(step)["input_ids"].shape[1] for step in (0, 89, 90, 99)] == [16, 16, 32, 32]
    assert made(90)["masked_positions"].shape[1] == round(32 * 0.15)
    assert batches(dataclasses.replace(fields, held_out=0.5), split="eval", steps=1)(0)["input_ids"].shape[1] == 32


def test_batches_of_other_sizes_have_the_same_rows_in_the_same_order():
    fields = dataclasses.replace(PLAIN, short_sequences=0.0, length_schedule=((0.5, 16), (0.5, 32)))
    sizes = BatchSizes(tuple(stages(((0.25, 4), (0.75, 8)), 8)))
    assert [sizes.at(step) for step in range(8)] == [4, 4, 8, 8, 8, 8, 8, 8]
    assert [sizes.before(step) for step in (0, 1, 2, 3, 8)] == [0, 4, 8, 16, 56]
    growing, constant = batches(fields, steps=8, batch_size=sizes), batches(fields, steps=48, batch_size=1)

    def rows(made, steps):
        return [row.tolist() for step in steps for row in unmasked(made(step))]

    # 4, 4, 8 and 8 rows of 16 tokens, then 32 rows of 32 tokens.
    assert rows(growing, range(4)) == rows(constant, range(24))
    assert rows(growing, range(4, 6)) == rows(constant, range(24, 40))
    # A stage of the lengths begins with its own first row, whatever came before it.
    assert rows(growing, [4]) == rows(batches(fields, steps=2, batch_size=8), [1])
    halves = [batches(fields, steps=8, batch_size=sizes, host=host, hosts=2) for host in (0, 1)]
    for step in (1, 2, 7):
        parts = [half(step)["input_ids"] for half in halves]
        np.testing.assert_array_equal(np.concatenate(parts), growing(step)["input_ids"])
    with pytest.raises(InputError, match="batch_size 4 cannot be shared by 8 hosts"):
        batches(fields, steps=8, batch_size=sizes, hosts=8)


@pytest.mark.parametrize(("first", "last"), [(0.5, 0.1), (0.1, 0.5)])
def test_the_mask_rate_changes_evenly_and_evaluation_uses_the_last_one(first, last):
    fields = dataclasses.replace(PLAIN, held_out=0.5, short_sequences=0.0, mask_rate=first, last_mask_rate=last)
    made = batches(fields, steps=21)

    shares = [masked_share(made(step)) for step in range(21)]
    np.testing.assert_allclose(shares, np.linspace(first, last, 21), atol=0.06)
    assert {made(step)["masked_weights"].shape for step in (0, 10, 20)} == {(8, 8)}
    constant = dataclasses.replace(fields, mask_rate=last, last_mask_rate=None)
    evaluated, expected = (masked_share(batches(f, split="eval")(0)) for f in (fields, constant))
    assert evaluated == expected


def masked_share(batch) -> float:
    return float(batch["masked_weights"].sum() / (batch["sequence_ids"] > 0).sum())


def test_a_corpus_smaller_than_a_batch_is_read_several_times():
    store = make_store([1, 4])
    batch = batches(dataclasses.replace(PLAIN, short_sequences=0.0), [store], make_tokenizer(10), batch_size=64)(0)
    assert sorted(np.unique(unmasked(batch), axis=0).max(axis=1)) == [SPECIALS, SPECIALS + 4]


@pytest.mark.parametrize(
    ("pairs", "packing", "words"),
    [
        ("none", "none", {1}),
        ("none", "packed", {3, 4, 5}),
        ("nsp", "none", {2}),  # of two documents
        ("nsp", "packed", {0}),  # packed pairs are cut from one document, and this one cannot be cut
        ("sop", "none", {1}),
        ("sop", "packed", {0}),
    ],
)
def test_documents_of_one_word_are_read_where_they_suffice_and_no_true_pair_is_made_of_them(pairs, packing, words):
    store = make_store([1] * 50)
    fields = dataclasses.replace(PLAIN, pairs=pairs, packing=packing, short_sequences=0.0)
    batch = batches(fields, [store], make_tokenizer(100), batch_size=64)(0)
    assert set((unmasked(batch) >= SPECIALS).sum(axis=1)) == words
    assert (batch["masked_weights"].sum(axis=1) > 0).all() == (words != {0})
    if (pairs, packing) == ("nsp", "none"):
        assert (batch["pair_labels"] == 1).all()
    elif pairs != "none":
        assert not batch["pair_weights"].any()


@pytest.fixture(scope="module")
def huge_store() -> TokenStore:
    """A document of ten million tokens and one of two hundred, in sentences of 20; each id fills 200 positions."""
    ends = np.array([0, 10_000_000, 10_000_200])
    return dataclasses.replace(
        STORE,
        tokens=np.repeat(np.arange(SPECIALS, SPECIALS + ends[-1] // 200, dtype=np.uint16), 200),
        sentence_lengths=np.full(ends[-1] // 20, 20, np.uint8),
        document_starts=ends,
        document_hashes=np.arange(2, dtype=np.uint64),
    )


@pytest.mark.parametrize(
    "changes",
    [{}, {"packing": "packed"}, {"packing": "concatenated"}, {"pairs": "nsp"}, {"pairs": "sop"}],
    ids=lambda changes: "-".join(changes.values()) or "plain",
)
def test_a_document_of_ten_million_tokens_is_read_in_parts(huge_store, changes):
    fields = dataclasses.replace(PLAIN, sequence_length=128, **changes)
    tokenizer = make_tokenizer(60_000)
    tracemalloc.start()
    made = batches(fields, [huge_store], tokenizer)
    read = [made(step) for step in range(0, made.num_examples // 8, made.num_examples // 40)]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 10_000_000
    first = []
    for batch in read:
        for _, _, sequence in sequences_of(batch):
            for segment in filter(len, map(ordinary, segments_of(sequence))):
                assert np.isin(np.diff(segment), (0, 1)).all()
                first.append(segment[0])
    assert set(np.array(first) // 10_000) >= set(range(5))  # every fifth of the document is reached


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"packing": "concatenated", "pairs": "nsp"}, "concatenated"),
        ({"mask_rate": 1.5}, "mask_rate"),
        ({"last_mask_rate": 1.5}, "last_mask_rate"),
        ({"mask_token_share": 0.8, "random_token_share": 0.3}, "add up"),
        ({"weights": (0.5, 0.5)}, "weights"),
        ({"sequence_length": 4}, "too short"),
        ({"length_schedule": ((0.5, 16), (0.4, 32))}, "length_schedule"),
        ({"held_out": 1.0}, "left for training"),
    ],
)
def test_fields_that_make_no_sense_are_named(changes, message):
    with pytest.raises(InputError, match=message):
        batches(dataclasses.replace(PLAIN, **changes))


def test_another_tokenizer_than_the_stores_is_refused():
    other = SimpleNamespace(**vars(TOKENIZER) | {"fingerprint": "other"})
    with pytest.raises(InputError, match="another tokenizer"):
        batches(PLAIN, tokenizer=other)


def test_nsp_needs_a_second_document():
    with pytest.raises(InputError, match="nsp takes sentences from other documents"):
        batches(dataclasses.replace(PLAIN, pairs="nsp"), [make_store([50])])


def test_too_small_a_held_out_share_is_refused():
    with pytest.raises(InputError, match="held_out"):
        batches(dataclasses.replace(PLAIN, held_out=1e-9), split="eval")


def test_an_uneven_number_of_rows_for_hosts_is_refused():
    with pytest.raises(InputError, match="multiple of 3"):
        batches(PLAIN, hosts=3)
