"""A script as people have it: Hugging Face's Trainer on a tiny Llama with a LoRA of PEFT. Nothing in it knows of Dihedral.

Needs torch, transformers, peft and accelerate beside the test packages.
"""

import argparse

import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

parser = argparse.ArgumentParser()
parser.add_argument("--output_dir", required=True)
parser.add_argument("--max_steps", type=int, default=20)
parser.add_argument("--resume_from_checkpoint")
given = parser.parse_args()

torch.manual_seed(0)
config = LlamaConfig(vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2)
model = get_peft_model(LlamaForCausalLM(config), LoraConfig(r=4, target_modules=["q_proj", "v_proj"]))
rows = [{"input_ids": torch.arange(n, n + 16) % 64, "labels": torch.arange(n, n + 16) % 64} for n in range(64)]
arguments = TrainingArguments(
    output_dir=given.output_dir, max_steps=given.max_steps, per_device_train_batch_size=4, learning_rate=5e-3, logging_steps=1,
    save_steps=5, use_cpu=True, report_to=[], seed=0,
)  # fmt: skip
trainer = Trainer(model=model, args=arguments, train_dataset=rows)
trainer.train(resume_from_checkpoint=given.resume_from_checkpoint)
trainer.save_model(given.output_dir)
