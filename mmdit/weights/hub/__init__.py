"""The Hugging Face Hub: repositories that networks are read from and written to, by `huggingface_hub`."""
