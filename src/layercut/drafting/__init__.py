"""Drafts for speculative decoding: pruned models that propose tokens, which the original model checks."""
