"""The run folder, its JSON lines, and the machine and versions it was made with."""
