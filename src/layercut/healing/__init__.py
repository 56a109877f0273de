"""Healing a pruned model: prompts, and the answers that the unpruned model gives to them."""
