"""Tasks that make their items, or bring them along."""
