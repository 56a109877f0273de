"""Running a model, uncut or under a plan: completions, log-likelihoods, hidden states."""
