"""The options of the training script, and what each is by default."""

import argparse
import dataclasses
import typing
from pathlib import Path

DATA = Path(__file__).resolve().parent.parent / "data" / "shakespeare.txt"

# A resumed run repeats the interrupted one's losses only if these have not changed.
FIXED_BY_CHECKPOINT = (
    "layers",
    "heads",
    "width",
    "context",
    "batch",
    "steps",
    "learning_rate",
    "warm_up",
    "weight_decay",
    "seed",
    "precision",
)


@dataclasses.dataclass(frozen=True)
class Settings:
    """One value per option; see `python examples/train_gpt.py --help`."""

    text: Path
    out: Path
    resume: bool
    baseline: bool
    compare: bool
    compare_steps: int
    layers: int
    heads: int
    width: int
    context: int
    batch: int
    read_ahead: int
    precision: str
    threads: int | None
    steps: int
    stop_at: int | None
    seed: int
    learning_rate: float
    warm_up: int
    weight_decay: float
    validate_every: int
    validation_sequences: int
    report_every: int
    sample_tokens: int
    temperature: float

    @property
    def last_step(self) -> int:
        """Where this run ends: `steps`, or `stop_at` when that comes first."""
        return self.steps if self.stop_at is None else min(self.steps, self.stop_at)

    def as_json(self) -> dict[str, object]:
        """The options as JSON can hold them."""
        return {
            name: str(value) if isinstance(value, Path) else value
            for name, value in dataclasses.asdict(self).items()
        }


def parse_settings(arguments: list[str] | None = None) -> Settings:
    """Reads the command line; a wrong option ends the process with exit code 2."""
    parser = _parser()
    settings = Settings(**vars(parser.parse_args(arguments)))
    if settings.width % settings.heads:
        parser.error(
            f"--heads must divide --width, but width is {settings.width} and heads {settings.heads}"
        )
    return settings


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Trains a character GPT on a text, data-parallel over all ranks.",
        epilog="Start it with: python -m pyparallel run -n 2 examples/train_gpt.py [options]",
        allow_abbrev=False,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    job = parser.add_argument_group("what to do")
    job.add_argument("--text", type=Path, default=DATA, help="UTF-8 file to learn")
    job.add_argument("--out", type=Path, default=Path("runs/train_gpt"), help="folder for results")
    job.add_argument("--resume", action="store_true", help="go on from the checkpoint in --out")
    variant = job.add_mutually_exclusive_group()
    variant.add_argument("--baseline", action="store_true", help="use torch's own parts instead")
    variant.add_argument(
        "--compare", action="store_true", help="measure both, step by step in turn"
    )
    job.add_argument("--compare-steps", type=_count, default=400, help="steps of each in --compare")
    _add_model(parser.add_argument_group("the model"))
    _add_training(parser.add_argument_group("the training"))
    _add_reports(parser.add_argument_group("the reports"))
    return parser


def _add_model(model: typing.Any) -> None:
    model.add_argument("--layers", type=_count, default=4, help="blocks")
    model.add_argument("--heads", type=_count, default=4, help="attention heads of a block")
    model.add_argument("--width", type=_count, default=128, help="features of a position")
    model.add_argument("--context", type=_count, default=64, help="positions of a sequence")
    model.add_argument(
        "--precision", choices=("float32", "bfloat16"), default="float32", help="of the products"
    )


def _add_training(training: typing.Any) -> None:
    training.add_argument("--batch", type=_count, default=8, help="sequences per rank and step")
    training.add_argument(
        "--read-ahead", type=_whole, default=2, help="batches drawn ahead of the step; 0 for none"
    )
    training.add_argument("--steps", type=_count, default=1600, help="steps of the whole training")
    training.add_argument("--stop-at", type=_count, help="stop early at this step, to resume later")
    training.add_argument("--learning-rate", type=_positive, default=4e-3, help="largest rate")
    training.add_argument("--warm-up", type=_count, default=100, help="steps to the largest rate")
    training.add_argument("--weight-decay", type=_not_negative, default=0.1, help="of AdamW")
    training.add_argument("--seed", type=int, default=1, help="of model, batches and sample")
    training.add_argument("--threads", type=_count, help="CPU threads per rank (launcher's choice)")


def _add_reports(reports: typing.Any) -> None:
    reports.add_argument("--report-every", type=_count, default=10, help="steps per average")
    reports.add_argument(
        "--validate-every", type=_count, default=200, help="steps between validations, each saved"
    )
    reports.add_argument(
        "--validation-sequences", type=_count, default=2048, help="at most, spread over the text"
    )
    reports.add_argument("--sample-tokens", type=_count, default=400, help="characters to write")
    reports.add_argument("--temperature", type=_not_negative, default=0.8, help="of the sample")


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, but is {number}")
    return number


def _whole(text: str) -> int:
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError(f"must not be negative, but is {number}")
    return number


def _positive(text: str) -> float:
    number = float(text)
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"must be positive and finite, but is {text}")
    return number


def _not_negative(text: str) -> float:
    number = float(text)
    if not 0 <= number < float("inf"):
        raise argparse.ArgumentTypeError(f"must be finite and not negative, but is {text}")
    return number
