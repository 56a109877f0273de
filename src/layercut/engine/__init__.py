"""Run a model, whole or under a plan: completions, log-likelihoods, hidden states."""
