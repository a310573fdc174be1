"""Language models of the Llama architecture: read from Hugging Face files, trained by the kernels, adapters written for PEFT."""
