"""How sources are spelt."""

import pytest

from bert_jax.sources import Source, parse


@pytest.mark.parametrize(
    ("text", "source"),
    [
        ("runs/bert", Source("path", "runs/bert")),
        ("runs/bert@12", Source("path", "runs/bert", 12)),
        ("runs/bert@mean:3", Source("path", "runs/bert", mean=3)),
        ("runs/bert@mean:", Source("path", "runs/bert@mean:")),
        ("run:first@mean:2", Source("run", "first", mean=2)),
        ("runs/a@b/bert@best", Source("path", "runs/a@b/bert@best")),
        ("@12", Source("path", "@12")),
        ("gs://bucket/bert@12", Source("path", "gs://bucket/bert", 12)),
        ("hf:org/name", Source("hub", "org/name")),
        ("run:first", Source("run", "first")),
        ("run:lr@1e-4@100", Source("run", "lr@1e-4", 100)),
        ("tfds:glue/sst2:train", Source("tfds", "glue/sst2", split="train")),
        ("tfds:glue/sst2:2.0.0:train[:80%]", Source("tfds", "glue/sst2:2.0.0", split="train[:80%]")),
        ("tfds:glue/sst2:2.0.0", Source("tfds", "glue/sst2:2.0.0")),
        ("tfds:glue", Source("tfds", "glue")),
    ],
)
def test_every_kind_of_source_is_split_into_its_parts(text, source):
    assert parse(text) == source


def test_a_workdir_whose_own_name_ends_in_a_number_is_not_split():
    assert parse("runs/bert@12", {"runs/bert", "runs/bert@12"}.__contains__) == Source("path", "runs/bert@12")
    assert parse("runs/bert@12", {"runs/bert"}.__contains__) == Source("path", "runs/bert", 12)
    assert parse("model.ckpt@12", set().__contains__) == Source("path", "model.ckpt@12")
