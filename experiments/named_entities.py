"""What does BERT's recipe reach on named entities: CoNLL-2003 and NCBI-disease?

Expected: bert-base-cased reaches entity F1 of about 92 on CoNLL-2003's test set, and BioBERT 89.7 on NCBI-disease.

BERT's paper has 92.4 on CoNLL-2003, reading whole documents around each sentence. The files are columns by sentence, in
any of IOB1, IOB2 and BIOES.

Time: minutes on one GPU. With MiniLM on one CPU core, ten minutes a seed for NCBI-disease, twenty for CoNLL-2003.

    bert_jax train experiments/named_entities.py --workdir runs/named_entities --only conll2003 \\
        --task.folder data/conll2003
    bert_jax evaluate runs/named_entities/conll2003 --data conll:data/conll2003/eng.testb
"""

from typing import Any

from bert_jax.config import AdamW, Experiment, TokenClassification

REPORT = {"picture": False}


def entities(init_from: str, **fields: Any) -> Experiment:
    return Experiment(
        task=TokenClassification(packing=True, **fields),
        init_from=init_from,
        optimizer=AdamW(learning_rate=5e-5, warmup_share=0.1),
        batch_size=32,
        epochs=4,
        seeds=3,
    )


sweep = {
    "conll2003": entities(
        "hf:google-bert/bert-base-cased",
        folder="data/conll2003",
        train="conll:eng.train",
        eval="conll:eng.testa",
    ),
    "ncbi_disease": entities(
        "hf:dmis-lab/biobert-v1.1",
        folder="data/ncbi_disease",
        train="conll:train.tsv",
        eval="conll:devel.tsv",
    ),
}
