"""Format numbers, units and foreign text for readers."""
