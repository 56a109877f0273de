"""Healing a cut model: prompts, and the answers that the unpruned model gives to them."""
