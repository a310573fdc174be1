"""Image diffusion models: pictures with captions in, a LoRA adapter out. Needs the extra `diffusion`; nothing of it is imported before a run."""
