"""Checks of what pruning and healing may break in silence, each a task of its own: ``suite:side_effects``."""
