"""The Hugging Face Hub: networks read from its repositories and written to them, by `huggingface_hub`."""
