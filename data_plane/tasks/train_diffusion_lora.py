"""Task `train_diffusion_lora`: pictures with captions become a LoRA of a Stable Diffusion model (1, 2 or XL), as ComfyUI and diffusers load it.

Large because one training (bring in, go on, step, look, store) is one sequence over one state.
"""

import hashlib
import io
import math
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
from msgspec import Meta

from dihedral.bridge.errors import StoreError
from dihedral.bridge.tasks.models import file_name
from dihedral.bridge.tasks.params import artifact
from dihedral.bridge.tasks.registry import TaskContext, TaskError, task
from dihedral.data_plane.diffusion import adapter, base, model, pictures
from dihedral.data_plane.diffusion.adapter import State
from dihedral.data_plane.diffusion.model import Tensor, Text
from dihedral.data_plane.diffusion.pictures import Picture, Size
from dihedral.schemas.strict import Strict
from dihedral.schemas.structs.artifact import ArtifactRef, ModelRef

BUCKET, PICTURES = "loras", "videos"
PACKAGES = ("torch", "diffusers", "peft", "transformers")
REPORTS = 1_000  # loss events of a run at most: the event log is bounded
JUDGEMENTS, FEWEST_STEPS, JUDGED = (
    20,
    5,
    8,
)  # looks of a run at the same noise, steps between two, pictures and times of each
DECAY, CLIP = 1e-2, 1.0  # AdamW's decay, and the largest norm of a gradient, as the usual trainers have them


Base = Annotated[ModelRef, artifact(".zip", "application/zip", format="diffusers")]
Part = Annotated[ArtifactRef, artifact("image/*", ".txt", ".zip", "text/plain", "application/zip", format="captioned")]


class TrainDiffusionLora(Strict, kw_only=True, rename="camel"):
    base: Annotated[
        Base,
        Meta(description="A model in diffusers' layout: a folder of the worker, by local, or a zip of one"),
    ]
    pictures: Annotated[
        list[Part],
        Meta(
            min_length=1,
            max_length=4_000,
            description="Pictures, their captions as texts of the same name, or a zip of both",
        ),
    ]
    captions: Annotated[list[str] | None, Meta(description="One for each picture, in order, in place of texts")] = None
    caption: Annotated[str, Meta(max_length=2_000, description="Of pictures that have none")] = ""
    rank: Annotated[int, Meta(ge=1, le=256, description="Rank of the adapter")] = 16
    alpha: Annotated[float, Meta(gt=0, le=1024, description="The change is scaled by alpha / rank")] = 16.0
    steps: Annotated[int, Meta(ge=1, le=100_000, description="Steps of AdamW")] = 500
    resolution: Annotated[
        int,
        Meta(ge=64, le=2048, description="Side of a square of as many pixels as each picture gets, in its own shape"),
    ] = 512
    batch: Annotated[int, Meta(ge=1, le=256, description="Pictures at a time")] = 1
    gradient_accumulation: Annotated[int, Meta(ge=1, le=256, description="Gradient accumulation steps")] = 1
    learning_rate: Annotated[float, Meta(gt=0, le=1, description="AdamW's step size")] = 1e-4
    sample_prompts: Annotated[
        list[str], Meta(max_length=4, description="What previews show; empty: the first caption")
    ] = msgspec.field(default_factory=list)
    sample_every: Annotated[int, Meta(ge=0, description="Steps between previews; 0: none")] = 100
    checkpoint_every: Annotated[
        int, Meta(ge=0, description="Steps between checkpoints; one more where it is interrupted")
    ] = 100
    seed: Annotated[int, Meta(ge=0, le=2**53, description="Of the first values, the order and the noise")] = 0


class Bucket(Strict, kw_only=True):
    width: int
    height: int
    pictures: int


class TrainDiffusionLoraOutput(Strict, kw_only=True, rename="camel"):
    """adapter: kohya's keys, for ComfyUI, A1111 and diffusers. diffusers_adapter: the same change in diffusers' keys.

    Losses: of the same noise at the same times, before the training and at the step whose weights are kept (best_step). resumed_at: steps of earlier
    runs. sample: a picture of the first prompt, None where sampleEvery is 0.
    """

    adapter: ArtifactRef
    diffusers_adapter: ArtifactRef
    sample: ArtifactRef | None
    first_loss: float
    best_loss: float
    steps: int
    best_step: int
    pictures: int
    buckets: list[Bucket]
    parameters: int
    resumed_at: int
    device: str


def unavailable() -> str:
    """Returns what is missing here, empty where nothing is."""
    missing = [name for name in PACKAGES if find_spec(name) is None]
    return f"it needs {', '.join(missing)}: pip install 'dihedral[diffusion]'" if missing else ""


def half_batch(params: TrainDiffusionLora) -> TrainDiffusionLora | None:
    """Returns params with as many pictures to a step, half of them at a time."""
    if params.batch % 2 or params.gradient_accumulation > 128:
        return None
    return msgspec.structs.replace(
        params, batch=params.batch // 2, gradient_accumulation=params.gradient_accumulation * 2
    )


@task(
    id="train_diffusion_lora",
    label="Train a picture LoRA",
    description="Trains a LoRA of a Stable Diffusion model (1, 2, XL) on pictures with captions; stores it with kohya's and diffusers' keys in the bucket loras.",
    keywords=[
        "stable diffusion",
        "stable diffusion lora",
        "diffusion",
        "sdxl",
        "dreambooth",
        "subject lora",
        "train diffusion",
    ],
    kind="gpu",
    memory_mib=6144,
    memory_by=("base", "resolution", "batch", "rank"),
    smaller=half_batch,
    resumable=True,
    unavailable=unavailable,
    timeout_seconds=7 * 86_400,
    groups={
        "Model": ("base",),
        "Pictures": ("pictures", "captions", "caption", "resolution"),
        "Adapter": ("rank", "alpha"),
        "Training": ("steps", "batch", "gradientAccumulation", "learningRate", "seed", "checkpointEvery"),
        "Previews": ("samplePrompts", "sampleEvery"),
    },
    examples=[
        {
            "base": {"local": "stable-diffusion-v1-5"},
            "pictures": [{"bucket": "inputs", "key": "fox/1.png"}, {"bucket": "inputs", "key": "fox/1.txt"}],
            "caption": "a photo of sks fox",
            "rank": 16,
            "steps": 500,
        }
    ],
)
def train_diffusion_lora(params: TrainDiffusionLora, ctx: TaskContext) -> TrainDiffusionLoraOutput:
    """Raises: TaskError `missing_package`, `invalid_model`, `invalid_input`, `diverged`."""
    if reason := unavailable():
        raise TaskError(f"this worker cannot train pictures: {reason}", code="missing_package")
    run = Run(params, ctx)
    run.prepare()
    run.train()
    return run.outcome()


class Run:
    """One training. All that is random follows from seed and step, so a run that was interrupted ends as one that was not."""

    def __init__(self, params: TrainDiffusionLora, ctx: TaskContext) -> None:
        self._params = params
        self._ctx = ctx
        self._shown: Any = None  # the last sample
        self._resumed_at = 0
        self._state = adapter.new_state()

    def prepare(self) -> None:
        """Opens the base, brings pictures and captions into its spaces, and goes on from a checkpoint where there is one."""
        import torch

        params, ctx = self._params, self._ctx
        files = [(ctx.name_of(ref), ctx.fetch(ref)) for ref in params.pictures]
        found = pictures.captioned(files, params.captions, params.caption)
        folder = base.fetched(params.base, ctx)
        model.check(folder)
        ctx.check_cancelled()
        self._base_digest = digest_of(folder)
        self._model = model.opened(folder)
        self._take_in(found)
        self._weights = adapter.attached(self._model, params.rank, params.alpha, params.seed)
        if self._model.device == "cuda":
            self._model.unet.enable_gradient_checkpointing()
        self._optimizer = torch.optim.AdamW(self._weights.values(), lr=params.learning_rate, weight_decay=DECAY)
        self._digest = self._run_digest(found)
        kept = ctx.checkpoint(BUCKET)
        if kept and (before := adapter.restored(kept, self._weights, self._optimizer, self._digest)):
            self._state = before
            self._resumed_at = before.step
            ctx.log(f"goes on behind step {before.step}")

    def _take_in(self, found: list[Picture]) -> None:
        params, ctx, known = self._params, self._ctx, self._model
        among = pictures.buckets(params.resolution, pictures.step_of(params.resolution, known.divisor))
        self._sizes: list[Size] = []
        self._latents: list[tuple[Tensor, Tensor]] = []
        self._framing: list[tuple[Size, tuple[int, int], Size]] = []
        small = 0
        for number, picture in enumerate(found):
            framed = pictures.framed(picture, among)
            size = (framed.pixels.shape[1], framed.pixels.shape[0])
            small += framed.original[0] * framed.original[1] < size[0] * size[1]
            self._sizes.append(size)
            self._framing.append((framed.original, framed.cut, size))
            self._latents.append(model.encoded(known, framed.pixels))
            ctx.progress(0.05 * (number + 1) / len(found))
            ctx.check_cancelled()
        said = {text: model.text(known, text) for text in dict.fromkeys(picture.caption for picture in found)}
        self._texts: list[Text] = [said[picture.caption] for picture in found]
        self._empty = model.text(known, "")
        self._prompts = [(each, model.text(known, each)) for each in params.sample_prompts or [found[0].caption]]
        if small:
            ctx.log(
                f"{small} of {len(found)} pictures are smaller than {params.resolution}×{params.resolution}, and are enlarged"
            )
        if cut := sum(text.is_cut for text in said.values()):
            ctx.log(
                f"{cut} of {len(said)} captions are longer than the text encoder reads; the rest of them is not learnt"
            )
        shapes = ", ".join(f"{count} of {width}×{height}" for (width, height), count in counted(self._sizes).items())
        ctx.log(f"{len(found)} pictures: {shapes}")

    def _run_digest(self, found: list[Picture]) -> str:
        """Of batch and gradientAccumulation only the product counts, so that `half_batch` goes on from the checkpoint of what it halves."""
        params = self._params
        same = msgspec.structs.replace(
            params, batch=params.batch * params.gradient_accumulation, gradient_accumulation=1,
            checkpoint_every=0, sample_every=0, sample_prompts=[], base=ModelRef(), pictures=[], captions=None, caption="",
        )  # fmt: skip
        digest = hashlib.sha256(msgspec.json.encode(same) + self._base_digest.encode())
        self._data_digest = hashlib.sha256(
            b"".join(file_digest(each.path) + each.caption.encode() for each in found)
        ).hexdigest()
        digest.update(self._data_digest.encode())
        return digest.hexdigest()

    # Steps ----------------------------------------------------------------------------------------------------------

    def train(self) -> None:
        params, ctx = self._params, self._ctx
        every, judged = -(-params.steps // REPORTS), max(FEWEST_STEPS, -(-params.steps // JUDGEMENTS))
        if not self._state.step:
            self._judge(0)
            self._show(0)
        while self._state.step < params.steps:
            number = self._state.step + 1
            found = self._step(number)
            self._state = self._state._replace(step=number)
            if number % every == 0 or number == params.steps:
                ctx.data("loss", {"step": number, "loss": found})
            finishing = ctx.finish_early
            if finishing or number % judged == 0 or number == params.steps:
                self._judge(number)
            if params.sample_every and number % params.sample_every == 0 and number < params.steps and not finishing:
                self._show(number)
            ctx.progress(0.05 + 0.9 * number / params.steps)
            stops = ctx.cancelled
            if stops or (params.checkpoint_every and number % params.checkpoint_every == 0 and number < params.steps):
                kept = adapter.checkpoint_bytes(self._state, self._weights, self._optimizer, self._digest)
                ctx.keep_checkpoint(BUCKET, kept)
            if stops:
                ctx.check_cancelled()
            if finishing:
                ctx.log(f"finishes behind step {number} with the weights of step {self._state.best_step}")
                break

    def _step(self, number: int) -> float:
        """One step of AdamW on one batch; the gradient is that of the whole batch, however many pictures are computed at a time."""
        import torch

        params = self._params
        together = self._batch(number)
        dice = seeded(params.seed, number)
        whole = self._drawn(together, dice)
        summed = 0.0
        self._optimizer.zero_grad(set_to_none=True)
        for at in range(0, len(together), params.batch):
            part = slice(at, at + params.batch)
            found = self._loss(together[part], *(each[part] for each in whole)) * (len(together[part]) / len(together))
            found.backward()
            summed += float(found.detach())
        if not math.isfinite(summed):
            raise diverged(number)
        torch.nn.utils.clip_grad_norm_(self._weights.values(), CLIP)
        self._optimizer.step()
        return summed

    def _batch(self, number: int) -> list[int]:
        together = self._params.batch * self._params.gradient_accumulation
        in_epoch = sum(-(-count // together) for count in counted(self._sizes).values())
        epoch, place = divmod(number - 1, in_epoch)
        return pictures.groups(self._sizes, together, self._params.seed, epoch)[place]

    def _drawn(self, places: list[int], dice: Any) -> tuple[Tensor, Tensor, Tensor]:
        """(latents, noise, times) of these pictures, drawn on the CPU, so that every device computes with the same numbers."""
        import torch

        means = torch.stack([self._latents[place][0] for place in places])
        spread = torch.stack([self._latents[place][1] for place in places])
        latents = means + spread * torch.randn(means.shape, generator=dice)
        noise = torch.randn(means.shape, generator=dice)
        times = torch.randint(self._model.schedule.config.num_train_timesteps, (len(places),), generator=dice)
        return latents, noise, times

    def _loss(self, places: list[int], latents: Tensor, noise: Tensor, times: Tensor) -> Tensor:
        import torch

        hidden = torch.cat([self._texts[place].hidden for place in places])
        pooled = [each for place in places if (each := self._texts[place].pooled) is not None]
        ids = model.time_ids([self._framing[place] for place in places]) if pooled else None
        where = self._model.device
        return model.loss(
            self._model, latents.to(where), noise.to(where), times.to(where), hidden.to(where),
            torch.cat(pooled).to(where) if pooled else None, None if ids is None else ids.to(where),
        )  # fmt: skip

    def _judge(self, number: int) -> None:
        """Measures the loss with the same noise as at every other look, since that of a step depends on its noise more than on the weights."""
        import torch

        most = self._model.schedule.config.num_train_timesteps
        summed = 0.0
        for look in range(JUDGED):
            place = look * len(self._sizes) // JUDGED if len(self._sizes) > JUDGED else look % len(self._sizes)
            latents, noise, _ = self._drawn([place], seeded(self._params.seed, -1 - look))
            times = torch.tensor([int((look + 0.5) / JUDGED * most)])
            with torch.inference_mode():
                summed += float(self._loss([place], latents, noise, times)) / JUDGED
        if not math.isfinite(summed):
            raise (
                TaskError("the base answers with numbers that are none", code="invalid_model")
                if number == 0
                else diverged(number)
            )
        self._ctx.data("judgedLoss", {"step": number, "loss": summed})
        if number == 0:
            self._state = self._state._replace(first_loss=summed)
        if summed < self._state.best_loss or not self._state.best:
            self._state = self._state._replace(best_step=number, best_loss=summed, best=adapter.copied(self._weights))

    # Samples and results --------------------------------------------------------------------------------------------

    def _show(self, number: int) -> None:
        """Publishes one picture, of all prompts side by side. A preview that cannot be stored is no reason to end the training."""
        if not self._params.sample_every:
            return
        size = max(counted(self._sizes).items(), key=lambda each: each[1])[0]
        self._shown = np.concatenate(
            [
                model.sample(self._model, said, self._empty, size, self._params.seed + place, self._ctx.check_cancelled)
                for place, (_, said) in enumerate(self._prompts)
            ],
            axis=1,
        )
        try:
            kept = self._ctx.keep_preview(PICTURES, "preview.png", png(self._shown), "image/png")
        except StoreError as error:
            self._ctx.log(f"no preview: {error}", "warning")
        else:
            self._ctx.data("preview", {"bucket": kept.bucket, "key": kept.key, "frame": number})

    def outcome(self) -> TrainDiffusionLoraOutput:
        params, ctx, state = self._params, self._ctx, self._state
        adapter.put(self._weights, state.best)
        self._show(state.best_step)
        about = self._provenance(state)
        ours = ctx.store(BUCKET, "lora.safetensors", adapter.kohya_bytes(state.best, params.alpha, about))
        theirs = ctx.store(
            BUCKET, "pytorch_lora_weights.safetensors", adapter.diffusers_bytes(state.best, params.alpha, about)
        )
        seen = None if self._shown is None else ctx.store(PICTURES, "sample.png", png(self._shown), "image/png")
        ctx.drop_checkpoint(BUCKET)
        ctx.progress(1.0)
        return TrainDiffusionLoraOutput(
            adapter=ArtifactRef(bucket=ours.bucket, key=ours.key),
            diffusers_adapter=ArtifactRef(bucket=theirs.bucket, key=theirs.key),
            sample=None if seen is None else ArtifactRef(bucket=seen.bucket, key=seen.key),
            first_loss=state.first_loss,
            best_loss=state.best_loss,
            steps=state.step,
            best_step=state.best_step,
            pictures=len(self._sizes),
            buckets=[
                Bucket(width=size[0], height=size[1], pictures=count) for size, count in counted(self._sizes).items()
            ],
            parameters=sum(one.numel() for one in self._weights.values()),
            resumed_at=self._resumed_at,
            device=self._model.device,
        )

    def _provenance(self, state: State) -> dict[str, str]:
        """The metadata of both files, by kohya's names where it has one. Captions are left out: they would leak with the file."""
        params = self._params
        return {
            "ss_network_module": "networks.lora",
            "ss_network_dim": str(params.rank),
            "ss_network_alpha": str(params.alpha),
            "ss_base_model_version": "sdxl_base_v1-0" if self._model.is_xl else "sd_v1_or_v2",
            "ss_sd_model_name": file_name(params.base),
            "ss_steps": str(state.best_step),
            "ss_max_train_steps": str(params.steps),
            "ss_learning_rate": str(params.learning_rate),
            "ss_num_train_images": str(len(self._sizes)),
            "ss_resolution": f"({params.resolution}, {params.resolution})",
            "ss_seed": str(params.seed),
            "ss_optimizer": "AdamW",
            "dihedral_base_sha256": self._base_digest,
            "dihedral_dataset_sha256": self._data_digest,
            "dihedral_job": self._ctx.job_id,
            "dihedral_node": self._ctx.node_id,
            "dihedral_loss": f"{state.first_loss!r} -> {state.best_loss!r}",
        }


def seeded(seed: int, number: int) -> Any:
    import torch

    state = np.random.SeedSequence((seed, number + 2**20)).generate_state(2)
    return torch.Generator().manual_seed(int(state[0]) << 31 ^ int(state[1]))


def counted(sizes: list[Size]) -> dict[Size, int]:
    return {size: sizes.count(size) for size in sorted(set(sizes))}


def diverged(step: int) -> TaskError:
    return TaskError(f"the training diverged at step {step}: a smaller learningRate may help", code="diverged")


def png(picture: Any) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    return buffer.getvalue()


def digest_of(folder: Path) -> str:
    """Of the UNet's files, which are what is trained."""
    return hashlib.sha256(
        b"".join(file_digest(each) for each in sorted((folder / "unet").iterdir()) if each.is_file())
    ).hexdigest()


def file_digest(path: Path) -> bytes:
    with path.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").digest()
