"""Heal a pruned model: prompts, the original model's answers to them, and training on these."""
