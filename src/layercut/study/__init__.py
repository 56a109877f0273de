"""Running the steps: one model under plans, tasks and criteria, each piece resumable."""
