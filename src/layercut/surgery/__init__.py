"""Cut plans, and the model and checkpoint that result from a plan."""
