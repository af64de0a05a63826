"""What `ortlite demo` shows: a trained model and scans of digits; and what else one can do with them."""
