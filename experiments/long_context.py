"""Does a tiny model with rotary positions read 1,024 tokens after a short continuation, if it was trained on 128?

Expected: without a continuation, masked tokens beyond the first 128 are guessed less well than before. After it, with a
larger base of the rotary angles, the last quarter of 1,024 tokens is guessed as well as the first, within a point.

The model has ModernBERT's choices: of its three layers the first is global, the others see 32 tokens. The text must
have documents of more than 1,024 tokens, such as books. `read-...` are evaluations without training. The figures
`mlm_accuracy_part_1` to `mlm_accuracy_part_4` are those of the quarters (`task.position_parts`).

Time: 2,000 steps of 32 sequences of 32, then 128 tokens, and 300 of 4 sequences of 1,024: about 8 minutes on 2 CPU
cores.

    bert_jax train experiments/long_context.py --workdir runs/long_context

What 8,192 tokens cost at the published size:

    bert_jax plan experiments/long_context.py --only continued --model modernbert-base --task.sequence-length 8192 \\
        --batch-size 8 --accelerator h100

The store is made as in in_domain_or_general.py. At full scale, ModernBERT continued at 8,192 tokens with the base
160,000, after 1,024 tokens with 10,000.
"""

from dataclasses import replace

from bert_jax.config import AdamW, Experiment, Pretraining, preset

REPORT = {
    "picture": False,
    "figures": (
        "mlm_accuracy",
        "mlm_accuracy_part_1",
        "mlm_accuracy_part_2",
        "mlm_accuracy_part_3",
        "mlm_accuracy_part_4",
    ),
}
MODEL = preset("modernbert-tiny", vocab_size=0, rotary_theta=10_000.0, initializer_range=0.05)
RAISED = replace(MODEL, rotary_theta=160_000.0)
LONG = {"sequence_length": 1024, "short_sequences": 0.0, "eval_sequences": 200, "position_parts": 4}

short = Experiment(
    task=Pretraining(stores=("runs/stores/books",), length_schedule=((0.7, 32), (0.3, 128)), pairs="none"),
    model=MODEL,
    optimizer=AdamW(learning_rate=1e-3, warmup_share=0.05, b2=0.98),
    batch_size=32,
    steps=2000,
    log_every=100,
    eval_every=0,
    checkpoint_every=1000,
)
continued = replace(
    short,
    task=replace(short.task, length_schedule=(), **LONG),
    model=RAISED,
    init_from="run:short",
    optimizer=AdamW(learning_rate=5e-4, warmup_share=0.1, b2=0.98),
    batch_size=4,
    steps=300,
    log_every=20,
    checkpoint_every=100,
)
# One step that changes nothing, and an evaluation.
read = replace(continued, model=MODEL, optimizer=AdamW(learning_rate=0.0), steps=1)
sweep = {
    "short": short,
    "read-1024": read,
    "read-1024-with-a-larger-base": replace(read, model=RAISED),
    "continued": continued,
}
