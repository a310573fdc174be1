"""Task `train_lora`: teaches a language model of the Llama architecture a voice of its own, as a PEFT adapter."""

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta
from tokenizers import Tokenizer

from dihedral.bridge.tasks.params import artifact
from dihedral.bridge.tasks.registry import TaskContext, TaskError, task
from dihedral.data_plane.device import ArrayModule, array_module
from dihedral.data_plane.language import base as base_model
from dihedral.data_plane.language import dataset, files, samples, training
from dihedral.data_plane.language.model import Model, new_adapter
from dihedral.schemas.strict import Strict
from dihedral.schemas.structs.artifact import ArtifactRef, ModelRef
from dihedral.schemas.structs.capability import Check, CheckRepair

BUCKET = "loras"
MOST_LETTERS = 500  # of a prompt or a line in the output
JUDGEMENTS = 20  # looks of a run at what is held out
REPORTS = 1000  # loss events of a run at most, each of one step: the event log is bounded

Weights = Annotated[ModelRef, artifact(".safetensors", ".json", format="weights")]
TargetModule = Literal["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


class TrainLora(Strict, kw_only=True, rename="camel"):
    weights: Annotated[
        Weights | Annotated[list[Weights], Meta(min_length=1, max_length=1001)],
        Meta(
            description="The base's safetensors, every part, and model.safetensors.index.json if there is one; or a local folder that holds all of it"
        ),
    ]
    config: Annotated[
        Annotated[ModelRef, artifact(".json", format="config")] | None,
        Meta(title="Configuration", description="The base's config.json; null: that of the folder"),
    ] = None
    tokenizer: Annotated[
        Annotated[ModelRef, artifact(".json", format="tokenizer")] | None,
        Meta(description="Its tokenizer.json; null: that of the folder"),
    ] = None
    dataset: Annotated[
        Annotated[ArtifactRef, artifact("text/*", ".txt", ".jsonl", ".json", ".csv", ".parquet", format="dataset")],
        Meta(
            title="Data set",
            description="Text, or JSON lines: text, prompt and completion, instruction and output, or messages",
        ),
    ]
    rank: Annotated[int, Meta(ge=1, le=256, description="Rank of the adapter")] = 8
    alpha: Annotated[
        float, Meta(gt=0, le=1024, title="Alpha (scale)", description="The change is scaled by alpha / rank")
    ] = 16.0
    target_modules: Annotated[list[TargetModule], Meta(min_length=1, max_length=7, description="Modules to adapt")] = (
        msgspec.field(default_factory=lambda: ["q_proj", "v_proj"])
    )
    steps: Annotated[int, Meta(ge=1, le=1_000_000, description="Steps of AdamW")] = 100
    batch: Annotated[int, Meta(ge=1, le=1024, title="Batch size", description="Sequences at a time")] = 4
    gradient_accumulation: Annotated[int, Meta(ge=1, le=1024, description="Gradient accumulation steps")] = 1
    sequence_length: Annotated[int, Meta(ge=2, le=131_072, description="Tokens of a sequence")] = 256
    learning_rate: Annotated[float, Meta(gt=0, le=1, description="The largest step size")] = 2e-4
    schedule: Annotated[
        training.Schedule, Meta(title="Learning-rate schedule", description="LR schedule after warm-up")
    ] = "linear"
    warmup_steps: Annotated[
        int, Meta(ge=0, le=1_000_000, title="Warm-up steps", description="Steps in which it rises")
    ] = 0
    clip: Annotated[float, Meta(ge=0, title="Max gradient norm", description="Max gradient norm (0 = off)")] = 1.0
    weight_decay: Annotated[float, Meta(ge=0, le=1, description="AdamW's decay")] = 0.0
    storage: Annotated[
        files.Storage,
        Meta(title="Precision (dtype)", description="Of base, activations; auto: the embedding's on a GPU"),
    ] = "auto"
    validation: Annotated[
        float,
        Meta(
            ge=0,
            le=0.5,
            title="Held-out share",
            description="Share of the rows that is held out, of 20 rows and more; 0: none",
        ),
    ] = 0.1
    checkpoint_every: Annotated[
        int,
        Meta(
            ge=0,
            title="Steps between checkpoints",
            description="Steps between checkpoints; one more where it is interrupted",
        ),
    ] = 50
    seed: Annotated[int, Meta(ge=0, title="Random seed", description="Of the first values and the order")] = 0


class Lines(Strict, kw_only=True):
    """What the model writes behind one prompt, with the same dice, before training and behind it."""

    prompt: str
    before: list[str]
    after: list[str]


class TrainLoraOutput(Strict, kw_only=True, rename="camel"):
    """Losses: of the first and the last step, nats a token. tokens: that were learnt from. resumed_at: steps of earlier runs.

    best_step: whose weights are kept: those of the least loss on the rows that are held out, of the last step where none are (held_out_loss null).
    """

    adapter: Annotated[ArtifactRef, Meta(extra_json_schema={"x-kind": ["language adapter"]})]
    adapter_config: ArtifactRef
    first_loss: float
    last_loss: float
    steps: int
    best_step: int
    held_out_loss: float | None
    tokens: int
    parameters: int
    resumed_at: int
    lines: Lines
    device: str


def half_batch(params: TrainLora) -> TrainLora | None:
    """Returns params with as many sequences to a step, half of them at a time."""
    if params.batch % 2 or params.gradient_accumulation > 512:
        return None
    return msgspec.structs.replace(
        params, batch=params.batch // 2, gradient_accumulation=params.gradient_accumulation * 2
    )


@task(
    checks=[
        Check(
            id="learned",
            label="a smaller loss than at the start",
            value="/lastLoss",
            most="output/firstLoss",
            repair=CheckRepair(param="learningRate", factor=0.3),
        )
    ],
    id="train_lora",
    label="Train a language adapter",
    description="Trains a LoRA adapter of a Llama-architecture language model and stores it as PEFT files in the bucket loras.",
    kind="gpu",
    memory_mib=2048,
    time_by=("weights", "steps", "batch", "gradientAccumulation", "sequenceLength", "storage"),
    keywords=[
        "fine-tune",
        "finetune",
        "fine tune",
        "lora",
        "language model",
        "llm",
        "train model",
        "tune model",
        "teach model",
        "language lora",
        "train lora",
        "adapter",
    ],
    memory_by=("weights", "storage", "batch", "sequenceLength"),
    warm=("config", "weights", "storage"),
    smaller=half_batch,
    resumable=True,
    timeout_seconds=7 * 86_400,
    examples=[
        {
            "config": {"bucket": "inputs", "key": "base/config.json"},
            "weights": [{"bucket": "inputs", "key": "base/model.safetensors"}],
            "tokenizer": {"bucket": "inputs", "key": "base/tokenizer.json"},
            "dataset": {"bucket": "inputs", "key": "base/lines.jsonl"},
            "rank": 8,
            "steps": 100,
        }
    ],
    groups={
        "Model": ("config", "weights", "tokenizer"),
        "Data": ("dataset", "sequenceLength", "validation"),
        "Adapter": ("rank", "alpha", "targetModules"),
        "Training": (
            "steps",
            "batch",
            "gradientAccumulation",
            "learningRate",
            "schedule",
            "warmupSteps",
            "clip",
            "weightDecay",
        ),
        "Running": ("storage", "checkpointEvery", "seed"),
    },
)
def train_lora(params: TrainLora, ctx: TaskContext) -> TrainLoraOutput:
    """Raises: TaskError `invalid_model`, `tokenizer_mismatch`, `invalid_dataset`, `invalid_input`, `diverged`, `missing_package`."""
    xp, device, _ = array_module()
    source = base_model.fetch(ctx, params.config, params.tokenizer, params.weights)
    lines = ctx.fetch(params.dataset)
    config = files.read_config(source.config)
    if params.sequence_length > config.longest:
        raise TaskError(
            f"sequenceLength is {params.sequence_length}, the model was made for {config.longest} tokens",
            code="invalid_input",
        )
    tokenizer = files.read_tokenizer(source.tokenizer, config)
    named = params.dataset.key.rpartition("/")[2]
    whole = dataset.rows(lines, dataset.read(lines, named), tokenizer, config.end_ids, params.sequence_length)
    data, held_out = whole.split(params.validation, params.seed)
    ctx.check_cancelled()
    contents = {file: _digest(file) for file in (source.config, source.tokenizer, lines, *source.weights)}
    version = b"".join(contents[file] for file in (source.config, *source.weights)).hex()
    base = ctx.warm(lambda: files.read_weights(source.weights, config, params.storage, xp), version)
    adapter = new_adapter(config, params.target_modules, params.rank, params.seed, xp)
    model = Model(config, base, adapter, params.alpha / params.rank)
    prompt = samples.prompt_of(next(dataset.read(lines, named)))
    first_lines = written("before", Model(config, base, {}, 0.0), tokenizer, prompt, params, ctx, xp)
    digest = run_digest(params, contents.values())
    state = training.new_state(adapter, xp)
    kept = ctx.checkpoint(BUCKET)
    best: training.Best | None = None
    if kept and (before := training.restored(kept, state, digest, xp)):
        state, best = before
    resumed_at = state.step
    if resumed_at:
        ctx.log(f"goes on behind step {resumed_at}")
    every = -(-params.steps // REPORTS)
    judged = -(-params.steps // JUDGEMENTS)
    for reached in training.train(model, data, plan(params), state, xp):
        state = reached
        if state.step % every == 0 or state.step == params.steps:
            ctx.data("loss", {"step": state.step, "loss": state.last_loss})
        finishing = ctx.finish_early
        if held_out.asked and (finishing or state.step % judged == 0 or state.step == params.steps):
            loss = training.held_out_loss(model, held_out, params.batch, adapter, xp)
            ctx.data("heldOutLoss", {"step": state.step, "loss": loss})
            if best is None or loss < best.loss:
                best = training.Best(state.step, loss, {name: weight.copy() for name, weight in adapter.items()})
        ctx.progress(0.99 * state.step / params.steps)
        stops = ctx.cancelled
        if stops or (params.checkpoint_every and state.step % params.checkpoint_every == 0):
            ctx.keep_checkpoint(BUCKET, training.checkpoint_bytes(state, digest, best))
        if stops:
            ctx.check_cancelled()
        if finishing:
            break
    last_lines = written(
        "after", model._replace(adapter=best.weights if best else adapter), tokenizer, prompt, params, ctx, xp
    )
    described = files.adapter_config_bytes(set(params.target_modules), params.rank, params.alpha, source.name)
    stored = ctx.store(
        BUCKET,
        "adapter_model.safetensors",
        files.adapter_bytes(best.weights if best else adapter),
        "application/octet-stream",
    )
    beside = ctx.store(BUCKET, "adapter_config.json", described, "application/json")
    ctx.drop_checkpoint(BUCKET)
    ctx.progress(1.0)
    return TrainLoraOutput(
        adapter=ArtifactRef(bucket=stored.bucket, key=stored.key),
        adapter_config=ArtifactRef(bucket=beside.bucket, key=beside.key),
        first_loss=state.first_loss,
        last_loss=state.last_loss,
        steps=state.step,
        best_step=best.step if best else state.step,
        held_out_loss=best.loss if best else None,
        tokens=state.tokens,
        parameters=sum(part.size for part in adapter.values()),
        resumed_at=resumed_at,
        lines=Lines(prompt=prompt[:MOST_LETTERS], before=first_lines, after=last_lines),
        device=device,
    )


def written(
    when: str, model: Model, tokenizer: Tokenizer, prompt: str, params: TrainLora, ctx: TaskContext, xp: ArrayModule
) -> list[str]:
    """A few lines of the model, also published and logged."""
    found = [
        line[:MOST_LETTERS] for line in samples.lines(model, tokenizer, prompt, params.seed, ctx.check_cancelled, xp)
    ]
    ctx.data("lines", {"when": when, "prompt": prompt[:MOST_LETTERS], "lines": found})
    for line in found:
        ctx.log(f"{when}: {prompt[-80:].strip()} … {line}")
    return found


def plan(params: TrainLora) -> training.Plan:
    return training.Plan(
        steps=params.steps,
        batch=params.batch,
        accumulation=params.gradient_accumulation,
        rate=params.learning_rate,
        schedule=params.schedule,
        warmup=params.warmup_steps,
        clip=params.clip,
        decay=params.weight_decay,
        seed=params.seed,
    )


def run_digest(params: TrainLora, contents: Iterable[bytes]) -> str:
    """Returns a digest of all that decides what a step computes: the params and the contents of the files. Of batch and gradientAccumulation only the
    product counts, so that `half_batch` goes on from the checkpoint of what it halves.
    """
    together = params.batch * params.gradient_accumulation
    same = msgspec.structs.replace(params, batch=together, gradient_accumulation=1, checkpoint_every=0)
    digest = hashlib.sha256(msgspec.json.encode(same))
    for content in contents:
        digest.update(content)
    return digest.hexdigest()


def _digest(file: Path) -> bytes:
    with open(file, "rb") as opened:
        return hashlib.file_digest(opened, "sha256").digest()
