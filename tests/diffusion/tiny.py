"""Stable Diffusion in small, built from classes with random weights: 1.2 million parameters, some 5 MB. No package ships one."""

import json
from pathlib import Path


def write(folder: Path, seed: int = 0, *, xl: bool = False) -> Path:
    """Writes the model in diffusers' layout, and returns the folder."""
    import torch
    from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    torch.manual_seed(seed)
    ends = ("", "_2") if xl else ("",)
    for end in ends:
        tokenizer(folder / f"tokenizer{end}")
        config = CLIPTextConfig(
            vocab_size=514, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, max_position_embeddings=77,
            projection_dim=32, bos_token_id=512, eos_token_id=513, pad_token_id=513,
        )  # fmt: skip
        kind = CLIPTextModelWithProjection if end else CLIPTextModel
        kind(config).save_pretrained(folder / f"text_encoder{end}")
    more = (
        {
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 8,
            "projection_class_embeddings_input_dim": 8 * 6 + 32,
        }
        if xl
        else {}
    )
    UNet2DConditionModel(
        sample_size=32, in_channels=4, out_channels=4, layers_per_block=1, block_out_channels=(32, 64), norm_num_groups=8,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=64 if xl else 32, attention_head_dim=4, **more,
    ).save_pretrained(folder / "unet")  # fmt: skip
    AutoencoderKL(
        in_channels=3, out_channels=3, latent_channels=4, block_out_channels=(32, 32), norm_num_groups=8, layers_per_block=1,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2, sample_size=64,
    ).save_pretrained(folder / "vae")  # fmt: skip
    DDPMScheduler(
        num_train_timesteps=1000, beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, clip_sample=False
    ).save_pretrained(folder / "scheduler")
    return folder


def tokenizer(folder: Path) -> None:
    """Every byte a token, alone and at the end of a word."""
    folder.mkdir(parents=True)
    kept = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = [chr(each) for each in kept] + [chr(256 + number) for number in range(256 - len(kept))]
    words = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({word: number for number, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    about = {
        "model_max_length": 77, "bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>",
        "pad_token": "<|endoftext|>", "tokenizer_class": "CLIPTokenizer",
    }  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(about))
