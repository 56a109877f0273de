"""The command line: flags made from the fields of verbs, output, exit codes. The verbs are in ``layercut.verbs``."""
