"""A loaded model, as `bert_jax.load` returns it: fill_mask, encode, score, predict and evaluate."""

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np

from bert_jax import files, pretrained, tasks
from bert_jax import params as named
from bert_jax.config import BertConfig, Compute, SentenceEmbedding, SequenceClassification, TaskFields, TextVectors
from bert_jax.config.ranges import Range, check_range
from bert_jax.data.batch import Arrays
from bert_jax.data.batches import Features, RowBatches, prefetch
from bert_jax.data.masked_copies import MaskedCopies
from bert_jax.data.row_errors import BadRowsError, RowErrors
from bert_jax.data.rows import Row, text_of
from bert_jax.data.summary import Summary
from bert_jax.devices import Devices, WrappedStep, computed
from bert_jax.errors import InputError
from bert_jax.heads import BertForPreTraining, text_vectors
from bert_jax.model import Bert, attention_probabilities
from bert_jax.runtime import set_up
from bert_jax.tokenizers import Tokenizer, split_at_mask
from bert_jax.training.evaluate import evaluate, run
from bert_jax.training.step import evaluate_step


class Encoded(NamedTuple):
    """Vectors of some texts; T_i counts the tokens of text i, [CLS] and [SEP] included. All float32."""

    tokens: list[list[str]]  # tokens of each text
    hidden: list[np.ndarray]  # last layer of each text, [T_i, D]
    mean: np.ndarray  # mean over each text's tokens of the last layer, [texts, D]
    pooled: np.ndarray | None  # [CLS] through the pooler, [texts, D]; None if the source has no pooler
    layers: list[np.ndarray] | None  # embeddings and every layer of each text, [L + 1, T_i, D], on request
    attentions: list[np.ndarray] | None  # attention probabilities of each text, [L, H, T_i, T_i], on request
    cut: list[int]  # how many tokens at the end of each text were left out, because it is too long
    vectors: np.ndarray | None = None  # of each text, [texts, D], as the source defines them; None if it does not


class Scores(NamedTuple):
    """Pseudo-log-likelihoods of some texts, in nats; T_i counts the tokens of text i, without special tokens."""

    totals: np.ndarray  # of each text, the sum over its tokens, float64 [texts]
    tokens: list[list[str]]  # tokens of each text
    log_probs: list[np.ndarray]  # of each token, given the rest of its text, float32 [T_i]


@dataclass(frozen=True)
class PretrainedBert:
    """A loaded model: immutable, compiled once for each bucket of shapes."""

    config: BertConfig
    params: Any  # nested dicts of arrays: {"bert": ..., HEAD: ...}
    tokenizer: Tokenizer
    task: TaskFields | None  # what it was trained for, if that is known
    batch_size: int = 32  # texts computed at once
    compute: Compute = Compute()
    task_problem: str = ""  # why the task of the source cannot be used
    assumes_fields: bool = False  # whether the task's fields of rows are defaults, which the source does not say
    max_length: int | None = None  # tokens of the longest text to encode; None = the model's longest sequence
    notes: tuple[str, ...] = ()  # what was read in another way than the files have it, as sentences
    vectors: TextVectors | None = None  # how a text becomes one vector, if the source defines it
    vectors_problem: str = ""  # why that cannot be done as the source's files define it

    def with_fields(self, **values: Any) -> "PretrainedBert":
        """Returns the same model with other values of its task's fields, such as text_b="hypothesis".

        Names of labels rename the outputs, in their order.

        Raises:
          InputError: the task has no such field, only training reads it, or the model has another number of outputs.
        """
        task = self._task.fields
        known = {field.name for field in dataclasses.fields(task)}
        for name in values:
            if name in task.for_training:
                raise InputError(f"task.{name}: only training reads it; name rows with --data or --input")
            if name not in known:
                raise InputError(f"task.{name}: no such field; the task has {', '.join(sorted(known))}")
        changed = dataclasses.replace(task, **values)
        for head in self.params.keys() & {named.SEQUENCE, named.TOKEN}:
            outputs = named.num_classes(self.params, head)
            needed = 1 if changed.problem_type == "regression" else len(changed.output_names)
            if needed != outputs:
                raise InputError(f"task: needs {needed} outputs with these fields, and the model has {outputs}")
        assumes_fields = self.assumes_fields and not {"text", "text_b"} & values.keys()
        if isinstance(changed, SentenceEmbedding):
            return dataclasses.replace(self, task=changed, vectors=changed, max_length=changed.max_length)
        return dataclasses.replace(self, task=changed, assumes_fields=assumes_fields)

    def fill_mask(self, text: str, top_k: int = 5) -> list[Any]:
        """Returns the `top_k` most likely tokens for [MASK] in `text`, as (token, probability), most likely first.

        [MASK] is spelt as the vocabulary spells it, `tokenizer.names["mask"]`: RoBERTa's is <mask>. If there are
        several, it returns one such list for each.

        Raises:
          InputError: there is no [MASK] in the text, the text is too long, or the source has no MLM head.
        """
        self._check_mlm("fill_mask")
        parts = self.tokenizer.encode_ids(split_at_mask(self.tokenizer, text))
        if len(parts) == 1:
            mask = self.tokenizer.names["mask"]
            raise InputError(f"fill_mask: no {mask} in {text!r}; put it in the text where a token is to be predicted")
        text_ids = [*parts[0]]
        for part in parts[1:]:
            text_ids += [self.tokenizer.mask_id, *part]
        ids, _ = self.tokenizer.frame.join(text_ids)
        if len(ids) > self._longest:
            raise InputError(f"fill_mask: the text has {len(ids)} tokens, and the model takes at most {self._longest}")
        batch = self._batches([ids])(0)
        masks = np.flatnonzero(batch["input_ids"][0] == self.tokenizer.mask_id)
        # One slot for each position, so that another number of masks compiles nothing again.
        slots = np.zeros_like(batch["input_ids"])
        slots[0, : len(masks)] = masks
        logits = np.asarray(self._mlm(self.params, batch | {"masked_positions": slots}))[0, : len(masks)]
        answers = []
        for row in logits:
            probabilities = np.exp(row - row.max())
            probabilities /= probabilities.sum()
            # A model may have spare rows, which are the rows of no token.
            best = np.argsort(-probabilities[: self.tokenizer.vocab_size], kind="stable")[:top_k]
            answers.append(list(zip(self.tokenizer.pieces(best), probabilities[best].tolist(), strict=True)))
        return answers[0] if len(answers) == 1 else answers

    def encode(
        self,
        texts: Sequence[str],
        *,
        max_length: int | None = None,
        prompt: str | None = None,
        layers: bool = False,
        attentions: bool = False,
    ) -> Encoded:
        """Returns the vectors of `texts`, each cut to `max_length` tokens, special ones included.

        Args:
          max_length: by default that of the source, if its files have one (as those of sentence-transformers have),
            otherwise the model's longest sequence.
          prompt: name of one of the source's prompts, such as "query"; its text is put before each text. By default
            the source's default prompt, if it has one.
        """
        if isinstance(texts, str):
            raise InputError("encode: give a list of texts, not one string")
        frame = self.tokenizer.frame
        if max_length is not None:
            check_range("encode: max_length", max_length, Range(frame.size(1) + 1, self._longest))
        room = (max_length or self.max_length or self._longest) - frame.size(1)
        before = (self.vectors or TextVectors()).prompt(prompt)
        whole = self.tokenizer.encode_ids([before + text for text in texts] if before else texts)
        ids = [frame.join(i[:room])[0] for i in whole]
        width, count = self.config.hidden_size, len(texts)
        hidden: list[Any] = [None] * count
        every: list[Any] = [None] * count
        maps: list[Any] = [None] * count
        pooled = np.zeros((count, width), np.float32) if named.has_pooler(self.params) else None
        vectors = None if self.vectors is None else np.zeros((count, width), np.float32)
        encode, params = self._encode, self.params[named.ENCODER]  # made once, before threads ask for it
        for arrays, rows in self._results(lambda batch: encode(params, batch, layers, attentions), ids):
            last, pools, units, states, attention = jax.tree.map(lambda x: x.astype(np.float32), arrays)
            for slot, row in enumerate(rows):
                length = len(ids[row])
                hidden[row] = last[slot, :length]
                if layers:
                    every[row] = np.stack([state[slot, :length] for state in states])
                if attentions:
                    maps[row] = np.stack([probs[slot, :, :length, :length] for probs in attention])
                if pooled is not None:
                    pooled[row] = pools[slot, 0]
                if vectors is not None:
                    vectors[row] = units[slot, 0]
        return Encoded(
            tokens=[self.tokenizer.pieces(i) for i in ids],
            hidden=hidden,
            mean=np.array([h.mean(0) for h in hidden], np.float32).reshape(count, width),
            pooled=pooled,
            layers=every if layers else None,
            attentions=maps if attentions else None,
            cut=[max(len(i) - room, 0) for i in whole],
            vectors=vectors,
        )

    def score(self, inputs: Sequence[str | dict[str, Any] | Row], *, within_word: bool = False) -> Scores:
        """Returns how likely the model finds each text, or each row's "text": its pseudo-log-likelihood.

        It is the sum of the log-probabilities of the text's tokens, each computed with that token masked (Salazar et
        al. 2020, "Masked language model scoring"). So a text of n tokens takes n forward passes, in batches.

        Args:
          within_word: mask also the tokens that follow in the same word. Otherwise the rest of a rare word gives its
            tokens away, and the word seems likelier than it is (Kauf & Ivanova 2023, "A better way to do masked
            language model scoring").

        Raises:
          InputError: the source has no MLM head, a row has no text, or a text is too long for the model.
        """
        self._check_mlm("score")
        table, errors = _input_rows(inputs, "text", "score"), RowErrors()
        ids = self.tokenizer.encode_ids([text_of(row, "text", errors) for row in table])
        room = self._longest - self.tokenizer.frame.size(1)
        for row, text_ids in zip(table, ids, strict=True):
            if len(text_ids) > room:
                errors.add(row.where, f"the text has {len(text_ids)} tokens, and the model takes at most {room}")
        errors.check()
        if not ids:
            return Scores(np.zeros(0), [], [])
        copies = MaskedCopies(ids, self.tokenizer, within_word=within_word)
        flat = np.zeros(copies.num_examples, np.float32)
        made = prefetch(copies, 0, copies.num_steps)
        for step, log_probs in enumerate(computed(partial(self._likelihood, self.params), made)):
            copies.put(flat, step, log_probs)
        each = [flat[start:end] for start, end in itertools.pairwise(copies.starts)]
        totals = np.array([log_probs.sum(dtype=np.float64) for log_probs in each])
        return Scores(totals, [self.tokenizer.pieces(text_ids) for text_ids in ids], each)

    def predict(self, inputs: Sequence[str | dict[str, Any] | Row]) -> list[dict[str, Any]]:
        """Returns the task's answer to each input: a text, or a row with the fields that the task reads.

        Raises:
          InputError: `inputs` is not a list, the source was trained for no task, or a row lacks a field.
        """
        table = _input_rows(inputs, self._task.fields.text_field, "predict")
        return self.answer(table)[0] if table else []

    def answer(self, rows: Sequence[Row], skip: bool = False) -> tuple[list[dict[str, Any]], Summary]:
        """Returns the task's answers to rows, and what became of these; with `skip`, bad rows get no answer.

        Raises:
          InputError: see `predict`.
        """
        task = self._task
        if not isinstance(task, tasks.Answering):
            raise InputError("a pre-training run fills masks; it has no task to predict with")
        self.check_second_text(rows)
        try:
            batches = task.predict_batches(rows, batch_size=self._rows(len(rows)), skip=skip)
        except BadRowsError as error:
            if not skip:
                raise
            return [], Summary(skipped=error.errors)  # all of them
        _, _, predictions = run(partial(self._predict.over, self.params), batches)
        return task.decode(predictions, batches.features, batches.table), batches.summary

    def evaluate(self, data: str | None = None, say: Callable[[str], None] = print) -> dict[str, Any]:
        """Returns what `tasks.Evaluation` names, and the number of "rows", on all of `data` or on the run's own rows.

        Args:
          say: is called with a line for the user if rows were left out or cut, and each minute with how far it is.

        Raises:
          InputError: the source was trained for no task, or there is nothing to evaluate on.
        """
        from bert_jax.training.progress import in_lines  # here, because its bar takes time to import

        batches = self._task.eval_batches(batch_size=self.batch_size, data=data)
        if batches is None:
            raise InputError("evaluate: the run has no rows to evaluate on; give --data FILE")
        if isinstance(batches, RowBatches):
            self.check_second_text(batches.table)
        for note in batches.notes:
            say(note)
        rows = len(batches.table) if isinstance(batches, RowBatches) else batches.num_examples
        progress = in_lines("evaluating", say)
        return {"rows": rows} | evaluate(
            self._task, partial(self._predict.over, self.params), batches, progress
        )._asdict()

    def _check_mlm(self, name: str) -> None:
        if named.MLM not in self.params:
            raise InputError(f"{name} needs an MLM head, which this source lacks; load a pre-training run")

    def check_second_text(self, rows: Sequence[Row]) -> None:
        """Raises InputError if rows have a second text, and the source does not say whether the model reads pairs."""
        task = self._task.fields
        if not self.assumes_fields or not isinstance(task, SequenceClassification) or task.text_b is not None:
            return
        for row in rows:
            if unread := tasks.second_text(row, task):
                raise InputError(
                    f"{row.where}: field {unread!r} is not read, because the model's files do not say whether it reads "
                    f"pairs; to give it both texts, set task.text_b ({unread}); to give it {task.text!r} alone, set "
                    f"task.text ({task.text})"
                )

    @property
    def _longest(self) -> int:
        """Tokens of the longest sequence, special ones included."""
        return self.tokenizer.frame.longest(self.config.max_position_embeddings)

    def _rows(self, count: int) -> int:
        """Rows in a batch for `count` inputs: a power of two, so that few shapes are compiled."""
        return min(self.batch_size, 1 << (count - 1).bit_length())

    def _batches(self, ids: list[np.ndarray]) -> RowBatches:
        """Batches of one or more sequences."""
        flat = np.concatenate(ids)
        starts = np.concatenate([[0], np.cumsum([len(i) for i in ids])])
        features = Features(flat, np.zeros_like(flat), starts, {}, first_position=self.tokenizer.frame.first_position)
        return RowBatches(features, ids, batch_size=self._rows(len(ids)), max_length=self._longest)

    def _results(self, step: Callable[[Arrays], Any], ids: list[np.ndarray]) -> Iterator[tuple[Any, list[int]]]:
        """Yields step(batch) for batches of the sequences, and which of them each row holds."""
        if not ids:
            return
        batches = self._batches(ids)
        for number, result in enumerate(computed(step, map(batches, range(batches.num_steps)))):
            yield result, [int(row) for row in batches.rows(number) if row >= 0]

    @cached_property
    def _task(self) -> tasks.Task:
        if self.task_problem:
            raise InputError(self.task_problem)
        if self.task is None:
            raise InputError(
                "predict and evaluate need a source trained for a task; fine-tune one with `bert_jax train`, or give "
                "one with an MLM head, which fills masks"
            )
        return tasks.make(self.task, self.config, self.tokenizer, self.compute)

    @cached_property
    def _predict(self) -> WrappedStep:
        return Devices("single", self.batch_size).wrap(evaluate_step, returns_state=False, loss_fn=self._task.loss_fn)

    @cached_property
    def _mlm(self) -> Callable:
        model = BertForPreTraining(self.config, pairs=False, compute=self.compute)
        return jax.jit(lambda params, batch: cast(dict, model.apply({"params": params}, batch))[named.MLM])

    @cached_property
    def _likelihood(self) -> Callable:
        def run(params: Any, batch: dict[str, jax.Array]) -> jax.Array:
            """Log-probability of the token at the masked position of each row, float32 [B]."""
            logits_BV = self._mlm(params, batch)[:, 0]
            label_B = jnp.take_along_axis(logits_BV, batch["masked_labels"], axis=1)[:, 0]
            return label_B - jax.nn.logsumexp(logits_BV, axis=1)

        return jax.jit(run)

    @cached_property
    def _encode(self) -> Callable:
        config, model = self.config, Bert(self.config, self.compute)

        def run(params: Any, batch: dict[str, jax.Array], layers: bool, attentions: bool) -> Any:
            """Last layer, pooled [CLS], vectors, every layer, attentions; those not requested are not computed."""
            x_BTD, variables = cast(Any, model.apply({"params": params}, batch, mutable="intermediates"))
            intermediates = variables["intermediates"]
            probs = attention_probabilities(config, intermediates) if attentions else []
            pooled: Any = None
            if named.POOLER in params:
                pooled = model.apply(
                    {"params": params}, x_BTD, batch["cls_positions"], batch["sequence_ids"], method="pool"
                )
            vectors = None if self.vectors is None else text_vectors(self.vectors, x_BTD, batch, pooled)
            return x_BTD, pooled, vectors, intermediates["hidden"] if layers else (), probs

        return jax.jit(run, static_argnums=(2, 3))


def load(source: files.PathLike, *, strict: bool = True) -> PretrainedBert:
    """Opens a SOURCE: a run's workdir, a Hugging Face folder, hf:org/name, a TensorFlow checkpoint.

    Args:
      strict: whether an unknown tensor is an error; otherwise it is left out.

    Raises:
      InputError: it does not exist, or is incomplete or broken.
    """
    set_up()
    opened = pretrained.open_source(source, strict=strict)
    params, set_aside = opened.read_params()
    return PretrainedBert(
        config=opened.config,
        params=jax.device_put(params),
        tokenizer=opened.tokenizer,
        task=opened.task,
        compute=opened.compute,
        task_problem=opened.task_problem,
        assumes_fields=opened.assumes_fields,
        max_length=opened.max_length,
        notes=(*opened.tokenizer.notes, *set_aside.notes, *opened.notes),
        vectors=opened.vectors,
        vectors_problem=opened.vectors_problem,
    )


def _input_rows(inputs: Sequence[str | dict[str, Any] | Row], field: str, name: str) -> list[Row]:
    """Returns the inputs of the method `name` as rows; a text is the value of `field`."""
    if isinstance(inputs, str | bytes | dict | Row):
        raise InputError(
            f"{name}: give a list of texts or rows, not one {'text' if isinstance(inputs, str | bytes) else 'row'}"
        )
    return [_input_row(item, field, f"input {number}") for number, item in enumerate(inputs, 1)]


def _input_row(item: Any, field: str, where: str) -> Row:
    if isinstance(item, Row):
        return item
    if not isinstance(item, str | dict):
        raise InputError(f"{where}: expected a text, or a row such as {{{field!r}: ...}}, got {item!r}")
    return Row({field: item} if isinstance(item, str) else item, where)
