"""Run generated programs in isolation."""
