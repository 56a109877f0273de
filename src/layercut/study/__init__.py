"""Studies: many models, plans, healing arms and tasks in one resumable job."""
