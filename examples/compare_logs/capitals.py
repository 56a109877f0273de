"""A task of inspect_ai: the questions of examples/capitals.jsonl, right where the answer holds the name.

inspect eval examples/compare_logs/capitals.py --model hf/pruned -M model_path=FOLDER -M do_sample=false --log-dir logs
"""

from pathlib import Path

from inspect_ai import Task, task
from inspect_ai.dataset import FieldSpec, json_dataset
from inspect_ai.model import GenerateConfig
from inspect_ai.scorer import includes
from inspect_ai.solver import generate

QUESTIONS = Path(__file__).parents[1] / "capitals.jsonl"


@task
def capitals() -> Task:
    return Task(
        dataset=json_dataset(str(QUESTIONS), FieldSpec(input="prompt", target="answer")),
        solver=generate(),
        scorer=includes(),
        config=GenerateConfig(max_tokens=24),
    )
