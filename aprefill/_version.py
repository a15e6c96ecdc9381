"""The version, for the package's metadata, the user agent and `aprefill.__version__`."""

__version__ = "0.1.0"
