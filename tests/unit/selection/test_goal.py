"""Tasks of a goal: by use or by name, one of both; and general requests."""

import pytest

from layercut.errors import InputError
from layercut.selection.goal import GoalSettings, general_tasks, goal_tasks


def test_a_use_names_its_tasks_and_its_proxy_and_tasks_name_themselves():
    by_use = goal_tasks(GoalSettings(use="math", max_new_tokens=9))
    assert [task.task for task in by_use.tasks] == ["arithmetic", "gsm_symbolic"]
    named = goal_tasks(GoalSettings(tasks=("copy", "brackets")))
    assert [task.task for task in named.tasks] == ["copy", "brackets"]
    assert named.note == "" and [part.task.name for part in named.parts(0)][:1] == ["copy"]


@pytest.mark.parametrize(
    ("given", "words"), [({}, "neither was given"), ({"use": "math", "tasks": ("copy",)}, "one of")]
)
def test_one_of_both_is_needed(given, words):
    with pytest.raises(InputError, match=words):
        GoalSettings(**given)


def test_general_requests_are_written_and_as_many_as_asked():
    parts = general_tasks(4)
    assert len(parts) == 2 and {part.readout for part in parts} == {"short"} and {part.limit for part in parts} == {4}
    assert all(len(part.task.samples("selection", part.limit)) == 4 for part in parts)
