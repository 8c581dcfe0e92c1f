"""An experiment: all choices of one run."""

from dataclasses import dataclass, field, fields

from bert_jax.config.compute import Compute
from bert_jax.config.model import BertConfig, check_group_boundary
from bert_jax.config.optimizer import AdamW, OptimizerFields
from bert_jax.config.ranges import check_ranges, check_schedule
from bert_jax.config.tasks import TaskFields
from bert_jax.errors import InputError

RESUMABLE = {"resumable": True}  # metadata of a field that may change when a run is continued


@dataclass(frozen=True)
class Experiment:
    """All choices of one run: what `bert_jax train` reads, and stores in the workdir as experiment.json."""

    task: TaskFields  # what is learned, and from which data
    model: BertConfig | None = None  # None = that of init_from
    tokenizer: str | None = None  # its folder; None = that of init_from, or of the token store
    init_from: str | None = None  # SOURCE of the first weights: workdir, checkpoint or hf:org/name; None = random
    # WORKDIR@STEP of another run: its weights, optimizer state and step, which this run continues in its own way.
    branch_from: str | None = None
    reinit_layers: int = 0  # number of top layers of init_from that start from random weights again, with the pooler
    optimizer: OptimizerFields = field(default_factory=AdamW)  # how the weights change
    compute: Compute = field(default_factory=Compute, metadata=RESUMABLE)  # how, and on which devices
    batch_size: int = 32  # rows in a step, over all devices
    batch_schedule: tuple[tuple[float, int], ...] = ()  # (share of the steps, rows) in turn; empty = batch_size
    eval_batch_size: int = field(default=0, metadata=RESUMABLE)  # rows evaluated at once; 0 = batch_size
    steps: int = 0  # training steps; 0 = as many as `epochs` or `minutes` allow
    epochs: float = 0.0  # passes over the training data, where steps is 0
    minutes: float = (
        0.0  # where steps and epochs are 0: time for the whole run on this machine, which is measured first
    )
    seed: int = 0  # of weights, data order, masking and dropout
    seeds: int = 1  # number of seeds to train with, from `seed` on; reports mean and spread
    log_every: int = 100  # steps between two lines of training figures
    eval_every: int = 1000  # steps between two evaluations; the last step is always evaluated; 0 = only then
    # Steps between two checkpoints; the last step is always saved.
    checkpoint_every: int = field(default=1000, metadata=RESUMABLE)
    keep_checkpoints: int = field(default=2, metadata=RESUMABLE)  # number of the latest checkpoints that stay
    keep_best: str = ""  # figure of the evaluation, such as f1 or loss: its best weights are kept, and loaded later
    patience: int = 0  # with keep_best: stop after this many evaluations without a better one; 0 = never
    # The run stops after this many steps in a row whose loss or gradient is not finite.
    max_skipped: int = field(default=10, metadata=RESUMABLE)

    def __post_init__(self):
        check_ranges(self, "")
        check_schedule("batch_schedule", self.batch_schedule)
        if self.branch_from and self.init_from:
            raise InputError("branch_from: takes all weights from its run; leave init_from out")
        if self.minutes and (self.steps or self.epochs):
            raise InputError("minutes: they decide the number of steps; leave out steps and epochs")
        if self.minutes and self.branch_from:
            raise InputError("minutes: they count from the first step; a run with branch_from needs steps or epochs")
        if self.patience and not self.keep_best:
            raise InputError("patience: name the figure that should get better in keep_best, such as loss")

    @property
    def mean_batch_size(self) -> float:
        """Rows in a step, on average over the run."""
        return sum(share * size for share, size in self.batch_schedule) or float(self.batch_size)

    @property
    def rows_evaluated(self) -> int:
        """Rows evaluated at once."""
        return self.eval_batch_size or self.batch_size

    def check(self, longest: int) -> None:
        """Checks what depends on the model; called once the model is known and before any data is read.

        Args:
          longest: tokens in the longest row that the model has positions for.

        Raises:
          InputError: a field of the task, the optimizer or the computation does not fit the model.
        """
        model, fields = self.model, self.optimizer
        assert model is not None
        self.compute.check(model)
        self.task.check_length(longest)
        check_group_boundary(model.num_layers - self.reinit_layers, model, f"reinit_layers {self.reinit_layers}")
        if fields.frozen_layers is not None:
            check_group_boundary(fields.frozen_layers, model, f"optimizer.frozen_layers {fields.frozen_layers}")
        if fields.unfreeze_share * (model.num_layers + 1) > 1:
            most = 1 / (model.num_layers + 1)
            raise InputError(
                f"optimizer.unfreeze_share: must be at most 1 / (num_layers + 1) = {most:.3g}, got "
                f"{fields.unfreeze_share}, with which the embeddings would never be trained"
            )


def is_resumable(path: str) -> bool:
    """Returns whether the field at `path`, such as "compute.remat", may change when a run is continued."""
    return path.split(".")[0] in {f.name for f in fields(Experiment) if f.metadata.get("resumable")}
