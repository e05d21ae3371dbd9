"""A self-hosted one-to-one chat server that starts with one command and loses nothing."""

__version__ = "0.1.0"
