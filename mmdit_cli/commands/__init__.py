"""One file a subcommand: read the request, call one function, show the result. Torch is imported when it runs."""
