"""Pre-train BERT-base as published: MLM with next sentences, a million steps of 256 rows.

Expected: on English Wikipedia and BooksCorpus, about 3.3 billion words, fine-tuning reaches the paper's scores on GLUE
(Devlin et al. 2019, table 1): MNLI 84.6, SST-2 93.5, CoLA 52.1.

The recipe "bert" has all of it: 90 % of the steps with 128 tokens and the rest with 512, 15 % of the tokens masked,
dropout 0.1, AdamW at 1e-4 with 10,000 steps of warmup. One thing differs: other tokens are masked in every pass, where
Google's code made ten masked copies. pretrain.py learns more from a small budget.

Time: four days on 16 TPU chips, as published. Nobody has run it here; `bert_jax plan` estimates it for your machine.

    bert_jax train experiments/bert_base.py --workdir runs/bert_base --task.stores runs/store --compute.dtype bfloat16
"""

from bert_jax.config import recipe

experiment = recipe("bert", stores=("runs/store",))
