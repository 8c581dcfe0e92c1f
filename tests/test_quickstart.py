"""The quickstart, and the sample texts that it reads."""

import sysconfig

import pytest

from bert_jax import quickstart, samples


def test_a_quickstart_that_is_stopped_while_it_pretrains_tunes_nothing(tmp_path, monkeypatch):
    documents = [samples.Document("JAX", "Returns a long description of nothing in particular.")]
    monkeypatch.setattr(samples, "documents", lambda workers: documents)
    monkeypatch.setattr(quickstart, "write_tfds", lambda folder, sets: folder)
    (tmp_path / "tokenizer").mkdir()  # as if the vocabulary had been made
    monkeypatch.setattr(quickstart, "prepare", lambda *_, **workers: None)
    trained = []

    def train(experiment, workdir, say):
        trained.append(workdir.name)
        return {"step": experiment.steps // 2, "metrics": {"mlm_accuracy": 0.1, "unigram_accuracy": 0.1}}

    monkeypatch.setattr(quickstart, "train", train)
    with pytest.raises(SystemExit, match="Stopped; run the same command to continue"):
        quickstart.quickstart(tmp_path, minutes=0.1, seed=0)
    assert trained == ["pretrain"]


def test_the_sample_texts_do_not_depend_on_the_number_of_processes(tmp_path, monkeypatch):
    for number in range(3):
        text = f"Adds the number {number} to all that was there before, and returns it, as it was asked to do."
        (tmp_path / f"module_{number}.py").write_text(f'"""{text}"""\n\n\ndef add():\n    """{text}"""\n')
    (tmp_path / "broken.py").write_text("def (")
    half = "Returns the half 3 of what it reads, and zero if it has read nothing at all before this."
    (tmp_path / "module_3.py").write_text(f'def half():\n    """{half}"""\n')
    monkeypatch.setattr(samples, "LIBRARIES", {})
    monkeypatch.setattr(sysconfig, "get_paths", lambda: {"stdlib": str(tmp_path), "purelib": str(tmp_path)})
    alone = samples.documents()
    assert [document.text.split()[3] for document in alone] == ["0", "1", "2", "3"]
    assert [document.name for document in alone] == ["module_0", "module_1", "module_2", "half"]
    assert samples.documents(workers=2) == alone


def test_fewer_labels_leave_the_test_set_as_it_is():
    documents = [
        samples.Document(library, f"{word} things that {word} other things, {n} times, if kind {kind} is asked.")
        for kind, library in enumerate(samples.LABELS)
        for n, word in enumerate([f"verb{chr(97 + i // 26)}{chr(97 + i % 26)}" for i in range(60)])
    ]
    many, few = samples.labelled_sets(documents), samples.labelled_sets(documents, 5)
    assert few["test"] == many["test"] != []
    assert len(few["train"]) == 5 * len(samples.LABELS)
    assert all(document in many["train"] for document in few["train"])
