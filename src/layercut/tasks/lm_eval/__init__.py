"""Tasks of the LM Evaluation Harness (lm-eval): its own prompts and grades, answered by our engines.

The only package that imports lm-eval to ask its tasks. Gao et al., "The Language Model Evaluation Harness",
doi:10.5281/zenodo.12608602. See docs/how_to/lm_eval_and_peft.md.
"""
