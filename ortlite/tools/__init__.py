"""What is known of a model with and without a run: `info`, `check`, `bench` and `profile`."""
