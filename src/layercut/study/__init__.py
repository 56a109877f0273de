"""Studies: plans, healing arms and tasks of one model in one resumable job."""
