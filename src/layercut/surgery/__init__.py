"""Cut plans, and the model and checkpoint that are left when a plan is carried out."""
