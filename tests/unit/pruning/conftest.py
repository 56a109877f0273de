"""Every test here shares the problems of generated tasks."""

from tests.support.items import problems_are_made_once  # noqa: F401
