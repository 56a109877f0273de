"""The main job: from a model and a goal to a checkpoint that keeps it, by the steps that exist."""
