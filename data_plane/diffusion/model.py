"""A latent diffusion model with a UNet (Stable Diffusion 1, 2 and XL), read from a folder of diffusers' layout, and what training asks of it.

The parts are opened one by one, by classes that are named here: a `model_index.json` of a user could name any class, and only safetensors are read,
since other weights are programs. Nothing is downloaded.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dihedral.bridge.tasks.registry import TaskError
from dihedral.data_plane.diffusion.pictures import Size

Tensor = Any  # torch.Tensor; shapes stand in the docstrings
TARGETS = ["to_q", "to_k", "to_v", "to_out.0"]  # of each attention, as diffusers' own scripts adapt them
SAMPLING_STEPS, GUIDANCE = 20, 6.0  # of a preview
SHARDS = "*.safetensors"


class Text(NamedTuple):
    """hidden: (1, tokens, width). pooled: (1, width) of SDXL's second encoder, None otherwise. is_cut: it was longer than the encoder reads."""

    hidden: Tensor
    pooled: Tensor | None
    is_cut: bool


class Model(NamedTuple):
    unet: Any
    vae: Any
    encoders: list[tuple[Any, Any]]
    schedule: Any
    device: str

    @property
    def is_xl(self) -> bool:
        return len(self.encoders) == 2

    @property
    def divisor(self) -> int:
        """The pixels by which a side must be divisible."""
        return int(self.shrink * 2 ** (len(self.unet.config.block_out_channels) - 1))

    @property
    def shrink(self) -> int:
        """Pixels to a side of one latent."""
        return int(2 ** (len(self.vae.config.block_out_channels) - 1))


def device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def opened(folder: Path) -> Model:
    """Raises: TaskError `invalid_model`: the folder is no such model, or of a kind that is trained by other tools."""
    check(folder)
    import diffusers.utils.logging as of_diffusers
    import torch
    import transformers.utils.logging as of_transformers
    from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

    for each in (of_diffusers, of_transformers):
        each.disable_progress_bar()
        each.set_verbosity_error()

    where = device()
    narrow = torch.bfloat16 if where == "cuda" and torch.cuda.is_bf16_supported() else torch.float32
    only = {"local_files_only": True}
    weights = only | {"use_safetensors": True}
    try:
        encoders = [
            (CLIPTokenizer.from_pretrained(folder / f"tokenizer{end}", **only),
             kind.from_pretrained(folder / f"text_encoder{end}", dtype=narrow, **weights))
            for end, kind in (("", CLIPTextModel), ("_2", CLIPTextModelWithProjection))
            if (folder / f"text_encoder{end}").is_dir()
        ]  # fmt: skip
        model = Model(
            UNet2DConditionModel.from_pretrained(folder / "unet", torch_dtype=narrow, **weights),
            AutoencoderKL.from_pretrained(folder / "vae", torch_dtype=torch.float32, **weights),
            encoders,
            DDPMScheduler.from_pretrained(folder / "scheduler", **only),
            where,
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, AssertionError) as error:
        raise _invalid(f"{type(error).__name__}: {error}"[:600]) from error
    channels = model.unet.config.in_channels
    if channels != model.vae.config.latent_channels or model.unet.config.out_channels != channels:
        raise _invalid(f"its UNet takes {channels} channels (a model for inpainting or depth?); train the plain one")
    if (model.unet.config.addition_embed_type == "text_time") != model.is_xl:
        raise _invalid("its UNet and its text encoders are not of one model")
    for part in (model.unet, model.vae, *(encoder for _, encoder in encoders)):
        part.requires_grad_(False)
        part.eval()
        part.to(where)
    return model


def check(folder: Path) -> None:
    if not folder.is_dir():
        raise _invalid(
            f"{folder.name} is no folder: save a single file once as a folder, by StableDiffusionPipeline.from_single_file(FILE).save_pretrained(FOLDER)"
        )
    if (folder / "transformer").is_dir():
        raise _invalid(
            "it has a transformer (Flux, SD3 and the like); train those with run_tool, by a preset such as ai-toolkit"
        )
    for part in ("unet", "vae", "text_encoder", "tokenizer", "scheduler"):
        if not (folder / part).is_dir():
            raise _invalid(f"it has no folder {part}, as diffusers' layout has")
    for part in ("unet", "vae", "text_encoder"):
        if not any((folder / part).glob(SHARDS)):
            raise _invalid(f"{part} holds no .safetensors; other formats are not read, since they can run code")
    for each in folder.glob("*/config.json"):
        try:
            json.loads(each.read_bytes())
        except ValueError as error:
            raise _invalid(f"{each.parent.name}/config.json is no JSON: {error}") from None


# Inputs -------------------------------------------------------------------------------------------------------------


def text(model: Model, said: str) -> Text:
    import torch

    hidden, pooled, is_cut = [], None, False
    with torch.inference_mode():
        for tokenizer, encoder in model.encoders:
            longest = min(tokenizer.model_max_length, encoder.config.max_position_embeddings)
            ids = tokenizer(
                said, padding="max_length", max_length=longest, truncation=True, return_tensors="pt"
            ).input_ids
            is_cut |= len(tokenizer(said, truncation=True, max_length=longest + 1).input_ids) > longest
            answer = encoder(ids.to(model.device), output_hidden_states=model.is_xl)
            hidden.append(answer.hidden_states[-2] if model.is_xl else answer[0])
            pooled = answer[0] if model.is_xl else None
    return Text(
        torch.cat(hidden, -1).float().cpu().clone(), None if pooled is None else pooled.float().cpu().clone(), is_cut
    )


def encoded(model: Model, pixels: Any) -> tuple[Tensor, Tensor]:
    """(mean, deviation) of the latents, (channels, height, width) each, of pixels (height, width, 3) in −1..1."""
    import torch

    with torch.inference_mode():
        image = torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))[None].to(model.device)
        found = model.vae.encode(image).latent_dist
        scale = model.vae.config.scaling_factor
        return (found.mean[0] * scale).cpu().clone(), (found.std[0] * scale).cpu().clone()


def predicted(
    model: Model, noisy: Tensor, times: Tensor, hidden: Tensor, pooled: Tensor | None, ids: Tensor | None
) -> Tensor:
    """What the UNet takes out of `noisy` (n, channels, height, width). ids: (n, 6): original height, width, cut top, left, height, width; of SDXL."""
    import torch

    dtype = next(model.unet.parameters()).dtype
    more = None if pooled is None else {"text_embeds": pooled.to(dtype), "time_ids": ids}
    with torch.autocast("cuda", dtype, enabled=model.device == "cuda" and dtype != torch.float32):
        return model.unet(noisy.to(dtype), times, hidden.to(dtype), added_cond_kwargs=more).sample.float()


def loss(
    model: Model,
    latents: Tensor,
    noise: Tensor,
    times: Tensor,
    hidden: Tensor,
    pooled: Tensor | None,
    ids: Tensor | None,
) -> Tensor:
    """The mean square by which the prediction misses what was mixed in, of whichever kind the model predicts."""
    import torch

    noisy = model.schedule.add_noise(latents, noise, times)
    kind = model.schedule.config.prediction_type
    target = (
        model.schedule.get_velocity(latents, noise, times)
        if kind == "v_prediction"
        else latents
        if kind == "sample"
        else noise
    )
    return torch.nn.functional.mse_loss(predicted(model, noisy, times, hidden, pooled, ids), target)


# Samples ------------------------------------------------------------------------------------------------------------


def sample(model: Model, said: Text, empty: Text, size: Size, seed: int, check: Callable[[], None]) -> Any:
    """A picture (height, width, 3) uint8 for the text, by DDIM; the same noise for one seed. `check`: called at each step, to end it by raising."""
    import torch
    from diffusers import DDIMScheduler

    schedule = DDIMScheduler.from_config(model.schedule.config, clip_sample=False, set_alpha_to_one=False)
    schedule.set_timesteps(SAMPLING_STEPS)
    width, height = size
    shape = (1, model.unet.config.in_channels, height // model.shrink, width // model.shrink)
    latents = (
        torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(model.device) * schedule.init_noise_sigma
    )
    hidden = torch.cat([empty.hidden, said.hidden]).to(model.device)
    pooled = (
        None if said.pooled is None or empty.pooled is None else torch.cat([empty.pooled, said.pooled]).to(model.device)
    )
    ids = None if pooled is None else time_ids([((width, height), (0, 0), size)] * 2).to(model.device)
    with torch.inference_mode():
        for time in schedule.timesteps:
            check()
            both = predicted(model, torch.cat([latents] * 2), time.to(model.device), hidden, pooled, ids)
            without, with_text = both.chunk(2)
            latents = schedule.step(without + GUIDANCE * (with_text - without), time, latents).prev_sample
        pixels = model.vae.decode(latents / model.vae.config.scaling_factor).sample[0]
    return ((pixels / 2 + 0.5).clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy()


def time_ids(framing: Sequence[tuple[Size, tuple[int, int], Size]]) -> Tensor:
    """(n, 6) of (original size, what was cut off, size)."""
    import torch

    return torch.tensor(
        [
            [float(each) for each in (original[1], original[0], cut[1], cut[0], size[1], size[0])]
            for original, cut, size in framing
        ]
    )


def _invalid(reason: str) -> TaskError:
    return TaskError(f"the base is no model that can be trained here: {reason}", code="invalid_model")
