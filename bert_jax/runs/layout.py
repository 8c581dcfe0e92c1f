"""The names of the files and folders in a workdir. Pure: it imports nothing, so that everyone can import it."""

EXPERIMENT = "experiment.json"  # the experiment, with everything filled in; what makes a folder a workdir
TOKENIZER = "tokenizer"  # folder with the run's tokenizer
CHECKPOINTS = "checkpoints"  # folder with a checkpoint per saved step
BEST = "best"  # the same for the best evaluation, with `keep_best`
METRICS = "metrics.jsonl"  # figures by step: equal for equal seeds, on any machine
SPEED = "speed.jsonl"  # figures by step that depend on the machine
RESULT = "result.json"  # the last evaluation
RESULTS = "results"  # folder with the evaluations of other files, by `bert_jax evaluate --data`
ENVIRONMENT = "environment.json"  # libraries, git revision and devices, from which step on
TENSORBOARD = "tensorboard"  # folder with TensorBoard events
PROFILE = "profile"  # folder with the trace that --profile takes
LOCK = ".lock"  # locked by the process that trains here
SEEDS = "seeds.json"  # in a folder of seed runs: their mean and spread
NOTES = "notes.json"  # in any folder: tables and texts for the top of its report


def seed_run(seed: int | str) -> str:
    """Returns the name of the folder of one seed, in the workdir of an experiment with several seeds."""
    return f"seed-{seed}"


def batch_of_step(step: int) -> str:
    """Returns the name of the file that keeps the batch of a step whose gradient was not finite."""
    return f"batch_of_step_{step}.npz"
