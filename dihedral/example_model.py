"""`python -m dihedral.example_model DIRECTORY`: a tiny language model of bytes, and lines to fine-tune it on.

Made by the project's training code from lines that a grammar writes; nothing is downloaded. It writes the files that `train_lora` takes:
config.json, model.safetensors (1.1 MB), tokenizer.json and lines.jsonl. The same command writes the same bytes on the same machine.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np

from dihedral.data_plane.language import dataset, files, training
from dihedral.data_plane.language.model import Model, new_weights
from dihedral.examples import lines

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 258,  # the bytes, <s> and </s>
    "hidden_size": 96,
    "intermediate_size": 192,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "tie_word_embeddings": True,
    "bos_token_id": 256,
    "eos_token_id": 257,
    "hidden_act": "silu",
    "attention_bias": False,
    "mlp_bias": False,
}
STEPS, LENGTH = 120, 96
PARAGRAPHS, LINES = 400, 200


def write(directory: Path, steps: int = STEPS, seed: int = 0) -> float:
    """Writes the four files (the folder is made where missing) and answers the last step's loss, nats a byte."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(CONFIG, indent=2) + "\n")
    (directory / "tokenizer.json").write_text(json.dumps(byte_tokenizer(), ensure_ascii=False, indent=1) + "\n")
    told = directory / "lines.jsonl"
    told.write_text("".join(json.dumps(line) + "\n" for line in lines.sailor(LINES, seed + 1)))

    config = files.read_config(directory / "config.json")
    tokenizer = files.read_tokenizer(directory / "tokenizer.json", config)
    documents = [dataset.Document(text=text) for text in lines.plain(PARAGRAPHS, seed)]
    data = dataset.rows(told, documents, tokenizer, config.end_ids, LENGTH)
    weights = new_weights(config, seed)
    plan = training.Plan(steps, 16, 1, 4e-3, "cosine", min(20, steps - 1), 1.0, 0.0, seed)
    state = training.new_state(weights, np)
    for reached in training.train(Model(config, weights, {}, 0.0), data, plan, state, np):
        state = reached
    (directory / "model.safetensors").write_bytes(files.tensor_bytes(weights, {"format": "pt"}))
    return state.last_loss


def byte_tokenizer() -> dict[str, object]:
    """Returns tokenizer.json of a tokenizer whose tokens are bytes: byte-level BPE without a single merge."""
    specials = [
        {"id": 256 + index, "content": content, "special": True, "normalized": False}
        | {"single_word": False, "lstrip": False, "rstrip": False}
        for index, content in enumerate(("<s>", "</s>"))
    ]
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    return {
        "version": "1.0",
        "added_tokens": specials,
        "pre_tokenizer": level,
        "decoder": level,
        "model": {"type": "BPE", "vocab": {letter: byte for byte, letter in enumerate(_letters())}, "merges": []},
    }


def _letters() -> list[str]:
    """The letter that stands for each byte in a byte-level vocabulary: itself where it can be seen, else one from 256 on."""
    visible = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    others = iter(range(256, 512))
    return [chr(byte) if byte in visible else chr(next(others)) for byte in range(256)]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Makes a tiny language model and lines to fine-tune it on.")
    parser.add_argument("directory", type=Path)
    parser.add_argument("--steps", type=int, default=STEPS)
    options = parser.parse_args()
    if options.steps < 1:
        parser.error("--steps must be at least 1")
    print(f"the last loss is {write(options.directory, options.steps):.3f} nats a byte", file=sys.stderr)
