"""ortlite's version, which modules of every layer may read."""

__all__ = ["__version__"]

__version__ = "0.2.0.dev0"
