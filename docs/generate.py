"""Write what the docs take from the code: whole pages, the marked parts of others, and one picture.

python docs/generate.py
"""

from __future__ import annotations

import ast
import inspect
import json
import re
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

if TYPE_CHECKING:
    from layercut.base_settings import Settings

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "layercut"
DOCS = ROOT / "docs"
ARCHITECTURE = DOCS / "explanation" / "architecture.md"
PICTURE = DOCS / "images" / "packages.svg"
CRITERIA_PAGE = DOCS / "reference" / "criteria.md"
STUDY = DOCS / "experiments" / "smollm2.md"
ORDER = (
    "cli", "api", "verbs", "tools", "drafting", "quantising", "pruning", "study", "healing", "diagnostics", "selection",
    "report", "tasks", "engine", "sandbox", "evidence", "surgery", "models", "settings", "engines", "known_tasks",
    "base_settings", "progress", "runs", "text", "seed", "errors",
)  # fmt: skip
"""Packages in the tree and in the picture, from the top down."""
COLUMN = {"cli": -1.1, "tools": 1.9, "study": -1.1, "diagnostics": 1.1, "report": -1, "tasks": 1, "evidence": -1}
COLUMN |= {"quantising": 1.1, "engine": 0.7, "sandbox": 1.9}
"""Where a package stands in the picture, in boxes from the middle; in the middle if left out."""


def pages() -> dict[Path, str]:
    """Every file that is made or has a part that is made, with the text that it should have."""
    arrows, base = allowed_arrows()
    return {
        DOCS / "reference" / "cli.md": command_reference(),
        DOCS / "reference" / "settings.md": settings_page(),
        DOCS / "start" / "tutorial_python.md": notebook_page(),
        SOURCE / "__init__.pyi": stub(),
        PICTURE: picture(arrows, base),
        DOCS / "images" / "ranked_and_written.svg": ranked_and_written("task_accuracy"),
        ARCHITECTURE: with_parts(ARCHITECTURE, {"picture": picture_line()}),
        CRITERIA_PAGE: with_parts(CRITERIA_PAGE, {"criteria": criteria_table(), "sections": criteria_sections()}),
        **{
            page: with_parts(page, {name: table()})
            for page, name, table in (
                (DOCS / "reference" / "study.md", "keys", study_keys),
                (DOCS / "reference" / "tasks.md", "tasks", task_table),
            )
        },
    }


def with_parts(file: Path, parts: dict[str, str]) -> str:
    """The text of a page, its parts made again between their markers."""
    page = file.read_text(encoding="utf-8")
    for name, text in parts.items():
        marked = re.compile(rf"(<!-- {name}: generated -->\n).*?(<!-- end of {name} -->)", re.DOTALL)
        assert len(marked.findall(page)) == 1, f"{file}: one pair of markers for {name}"
        page = marked.sub(lambda found, text=text: f"{found[1]}\n{text}\n\n{found[2]}", page)
    return page


EXIT_CODES = (
    ("0", "success"),
    ("1", "an error, or a study of which something failed"),
    ("2", "a command that cannot be understood"),
    ("130", "stopped by Ctrl-C; what was measured is saved"),
)
VARIABLES = (
    ("`LAYERCUT_CACHE`", "where converted models, and what dry runs remember, are kept"),
    ("`LAYERCUT_CACHE_GIB`", "most GiB of converted models (30); beyond it those go that were used longest ago"),
    ("`LAYERCUT_TRACEBACK=1`", "show where an error arose"),
)


MANY, OF_MANY_VERBS = 5, "Options of many verbs"


def command_reference() -> str:
    """The text of reference/cli.md: every verb, its words and its options."""
    from layercut.cli.main import verb_commands
    from layercut.text import markdown_table

    parts = [
        "# Command line",
        "",
        "Every verb and flag, made from `--help`. Results go to stdout, everything else to stderr.",
        "",
        *markdown_table(["exit code", "meaning"], EXIT_CODES),
        "",
        *markdown_table(["environment variable", "meaning"], VARIABLES),
        "",
    ]
    commands = verb_commands()
    counts = Counter(option_row(option) for command in commands.values() for option in command.params)
    shared = [row for row, count in counts.items() if count >= MANY]
    parts += [f"## {OF_MANY_VERBS}", "", *markdown_table(["flag", "meaning", "default"], shared), ""]
    for name, command in commands.items():
        example = re.sub(
            r"^Example: (.+)$", r"```bash\n\1\n```", inspect.cleandoc(command.help or ""), flags=re.MULTILINE
        )
        parts += [f"## layercut {name}", "", example, ""]
        groups = groups_of_options(name)
        for title, is_hidden in (
            ("", False),
            ("Shown by `--help-all`:", True),
        ):
            own, elsewhere = [], defaultdict[str, list[str]](list)
            for option in command.params:
                row = option_row(option)
                if bool(getattr(option, "hidden", False)) is not is_hidden:
                    continue
                if row in shared:
                    elsewhere[f"[{OF_MANY_VERBS}](#{slug_of(OF_MANY_VERBS)})"].append(row[0])
                elif is_hidden and (group := groups.get(option.name)) is not None:
                    elsewhere[f"[{group}](settings.md#{slug_of(group)})"].append(row[0])
                else:
                    own.append(row)
            parts += [title, ""] if title and (own or elsewhere) else []
            parts += [*markdown_table(["flag", "meaning", "default"], own), ""] if own else []
            parts += [f"- {link}: {', '.join(names)}" for link, names in elsewhere.items()]
            parts += [""] if elsewhere else []
    return "\n".join(parts) + "\n"


def groups_of_options(verb: str) -> dict[str, str]:
    """The heading, on the page of settings, of each option of a verb that sets a field of a settings class."""
    from layercut.verbs import verb_class
    from layercut.verbs.base import field_slots

    titles = {kind: title for title, kind in settings_classes()}
    found = {name: titles.get(slot.kind) for name, slot in field_slots(verb_class(verb)).items()}
    return {name: title for name, title in found.items() if title}


def slug_of(heading: str) -> str:
    """The anchor that MkDocs gives a heading."""
    return re.sub(r"[^\w]+", "-", heading.lower()).strip("-")


def option_row(parameter: Any) -> tuple[str, str, str]:
    """One line of the table of options."""
    if parameter.param_type_name == "argument":
        names = f"`{(parameter.metavar or parameter.name.upper()).strip('{}[]')}`"
    else:
        names = ", ".join(f"`{option}`" for option in (*parameter.opts, *parameter.secondary_opts))
    default = parameter.default
    empty = default is None or default is False or callable(default)
    shown = "required" if parameter.required else "" if empty else f"`{default}`"
    text = " ".join((parameter.help or "").split()).replace("<", "&lt;").replace("|", r"\|")
    return names, text, shown


TYPES = {
    "str": "str",
    "int": "int",
    "bool": "bool",
    "float": "float | str",  # a share may be written in percent
    "Path": "str | PathLike[str]",
    "LayerSpec": "str | PathLike[str] | Sequence[int] | CutPlan",
    "tuple[str, ...]": "str | Sequence[str]",
    "tuple[Path, ...]": "Sequence[str | PathLike[str]]",
    "tuple[str | TaskSettings, ...]": "str | Sequence[str | TaskSettings]",
    "Mapping[str, str]": "Mapping[str, str | PathLike[str]]",
    "Mapping[str, Any]": "Mapping[str, Any]",
    "Any": "Any",
}
"""What an argument of a Python function may be, by the type of its field."""
OWN_TYPES = {
    "model": "str | PathLike[str] | ModelSettings | PreTrainedModel",
    "teacher": "str | PathLike[str] | ModelSettings | PreTrainedModel",
    "study": "str | PathLike[str] | Mapping[str, Any] | StudySettings",
    "tokenizer": "Any",
    "progress": "bool",
    "say": "Callable[[str], None] | None",
}


def stub() -> str:
    """The text of src/layercut/__init__.pyi: editors and type checkers see every verb with its arguments."""
    import layercut
    from layercut.verbs import VERBS, verb_class

    verbs = {kind.FUNCTION or kind.VERB: kind for kind in map(verb_class, VERBS)}
    lines = [
        '"""Written by docs/generate.py from the fields of the verbs."""',
        "",
        "from collections.abc import Callable, Mapping, Sequence",
        "from os import PathLike",
        "from pathlib import Path",
        "from typing import Any",
        "",
        "from transformers import PreTrainedModel",
        "",
    ]
    public = {name: place for name, place in layercut._PUBLIC.items() if name not in verbs}
    lines += sorted(f"from {place} import {name} as {name}" for name, place in public.items())
    lines += ["", "__version__: str", ""]
    for name, kind in verbs.items():
        if name in layercut._PUBLIC:
            lines += [definition(name, kind), ""]
    ruff = [sys.executable, "-m", "ruff", "format", "--stdin-filename", "layercut.pyi", "-"]
    return subprocess.run(ruff, input="\n".join(lines), capture_output=True, text=True, check=True, cwd=ROOT).stdout


def definition(name: str, kind: Any) -> str:
    """The function of a verb as a stub has it."""
    import layercut
    from layercut.verbs.base import field_slots, plain_type

    signature, known = inspect.signature(getattr(layercut, name)), field_slots(kind)
    parts, star = [], False
    for parameter in signature.parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY and not star:
            parts, star = [*parts, "*"], True
        if (hint := OWN_TYPES.get(parameter.name)) is None:
            plain = plain_type(known[parameter.name].info.annotation)
            plain_text = re.sub(r"Annotated\[([\w.]+), .*?\)\]", r"\1", str(plain).replace("typing.", ""))
            named = plain.__name__ if isinstance(plain, type) and not get_args(plain) else plain_text
            hint = TYPES[re.sub(r"[\w.]+\.(\w+)", r"\1", named)]
        if parameter.default is parameter.empty:
            parts.append(f"{parameter.name}: {hint}")
        else:
            none = " | None" if parameter.default is None and hint != "Any" and "None" not in hint else ""
            parts.append(f"{parameter.name}: {hint}{none} = {parameter.default!r}")
    doc = (getattr(layercut, name).__doc__ or "").rstrip()
    inside = "".join(f"    {part},\n" for part in parts)
    return f'def {name}(\n{inside}) -> {signature.return_annotation}:\n    """{doc}\n    """'


def settings_page() -> str:
    """The text of reference/settings.md: every field of every settings class."""
    lines = [
        "# Settings",
        "",
        "Every setting of layercut, with its type, default and limits. A setting has the same name everywhere:",
        "`--batch-size 8` on the command line, `batch_size: 8` in a",
        "study file, and `batch_size=8` in Python. `python docs/generate.py` writes this page from the code.",
        "",
    ]
    for title, kind in settings_classes():
        first = " ".join((kind.__doc__ or "").partition("\n\n")[0].split()).replace("``", "`")
        lines += [f"## {title}", "", f"`{kind.__module__}.{kind.__name__}`. {first}", "", *setting_rows(kind), ""]
    return "\n".join(lines)


def settings_classes() -> tuple[tuple[str, type[Settings]], ...]:
    """The classes that people set, with the heading each has on the page."""
    from layercut.diagnostics import DiagnoseSettings
    from layercut.drafting import DraftSettings
    from layercut.healing.prompt_sources import Answering, PromptSpec
    from layercut.healing.settings import ArmSettings, FilterSettings, TrainSettings
    from layercut.pruning.settings import PruneSettings
    from layercut.quantising import QuantiseSettings
    from layercut.selection.base import SearchSettings
    from layercut.settings import CalibrationSettings, DecodingSettings, ModelSettings, TaskSettings
    from layercut.study.settings import CriterionSettings, HealingArm, StudySettings

    return (
        ("Model", ModelSettings),
        ("Task", TaskSettings),
        ("Decoding", DecodingSettings),
        ("Calibration text", CalibrationSettings),
        ("Search by task scores", SearchSettings),
        ("Healing: training", TrainSettings),
        ("Healing: training data and checkpoint", ArmSettings),
        ("Healing: filters", FilterSettings),
        ("Healing: answers", Answering),
        ("Healing: prompt sources", PromptSpec),
        ("Prune", PruneSettings),
        ("Draft", DraftSettings),
        ("Quantise", QuantiseSettings),
        ("Diagnosis", DiagnoseSettings),
        ("Study", StudySettings),
        ("Study: criterion", CriterionSettings),
        ("Study: healing arm", HealingArm),
    )


def setting_rows(kind: type[Settings]) -> list[str]:
    """A table of the fields that a class itself declares; those of a parent class stand with the parent."""
    from layercut.base_settings import Settings

    inherited = {name for base in kind.__mro__[1:] if issubclass(base, Settings) for name in base.model_fields}
    listed = [one for _, one in settings_classes()]
    parents = [link_to(base).replace("settings.md", "") for base in kind.__mro__[1:] if base in listed]
    more = ["", f"And those of {' and '.join(parents)}."] if parents else []
    rows = [
        f"| `{name}` | {type_name(field.annotation)} | {default_text(field)} | {meaning(field)} |"
        for name, field in kind.model_fields.items()
        if name not in inherited
    ]
    return ["| setting | type | default | meaning |", "|---|---|---|---|", *rows, *more]


def type_name(annotation: Any) -> str:
    """A type as people write it."""
    if type(None) in get_args(annotation):
        return " or ".join(type_name(one) for one in get_args(annotation) if one is not type(None))
    if hasattr(annotation, "__metadata__"):  # Annotated
        return type_name(annotation.__origin__)
    name = str(getattr(annotation, "__name__", annotation))
    plain = {"str": "text", "int": "whole number", "float": "number", "bool": "true or false", "Path": "path"}
    plain |= {"tuple": "list", "Mapping": "mapping"}
    return plain.get(name, f"`{name}`")


def default_text(field: Any) -> str:
    """A default as it is written in a study file."""
    if field.is_required():
        return "required"
    value = field.get_default()
    if value is None or value in ((), {}, "") or not isinstance(value, str | int | float):
        return ""
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def meaning(field: Any) -> str:
    """The help of a field, and the numbers that it takes where the help does not name them."""
    from layercut.base_settings import choices_of, describe_bounds, field_limits

    text = " ".join((field.description or "").split()).replace("|", r"\|").replace("<", "&lt;")
    names = [name for name in choices_of(field) if name not in text]
    takes = f" One of {', '.join(f'`{name}`' for name in choices_of(field))}." if names else ""
    return text + takes + (f" {describe_bounds(field).capitalize()}." if field_limits(field) else "")


def study_keys() -> str:
    """The keys of each kind of entry in a study file, from the settings that they fill."""
    from layercut.healing.prompt_sources import PromptSpec
    from layercut.healing.settings import FilterSettings, TrainSettings
    from layercut.settings import CalibrationSettings, DecodingSettings, ModelSettings, TaskSettings
    from layercut.study.settings import CriterionSettings, HealingArm

    lines = ["| entry | its keys | defaults and limits |", "|---|---|---|"]
    for entry, *kinds in (
        ("beside `model`", ModelSettings),
        ("`tasks`, `objective`", TaskSettings),
        ("`criteria`", CriterionSettings),
        ("`calibration` of a criterion", CalibrationSettings),
        ("`healing`", HealingArm, TrainSettings, FilterSettings),
        ("`prompts` of a healing arm", PromptSpec),
        ("`decoding`", DecodingSettings),
    ):
        names = [name for name in kinds[0].model_fields if name not in ("train", "filters")]
        links = ", ".join(link_to(kind) for kind in kinds)
        lines.append(f"| {entry} | {', '.join(f'`{name}`' for name in names)} | {links} |")
    return "\n".join(lines)


def link_to(kind: type[Settings]) -> str:
    """A link to the part of the page that holds a class of settings."""
    title = next(title for title, one in settings_classes() if one is kind)
    return f"[{title}](settings.md#{title.lower().replace(':', '').replace(' ', '-')})"


def criteria_table() -> str:
    """The criteria of the registry and what each reads."""
    from layercut.selection import CRITERIA

    lines = ["| criterion | reads | keeps layer 0 | summary |", "|---|---|---|---|"]
    for name, row in CRITERIA.items():
        module, _, function = row.function.partition(":")
        summary = _sentence(_docstring(SOURCE.parent / f"{module.replace('.', '/')}.py", function))
        reads = "task items" if row.needs_objective else "calibration text" if row.needs_text else "nothing"
        keeps = "yes" if row.protects_first_layer else "no"
        lines.append(f"| [`{name}`](#{name}) | {reads} | {keeps} | {summary}. |")
    return "\n".join(lines)


def criteria_sections() -> str:
    """A section for each criterion: its docstring, without the errors."""
    from layercut.selection import CRITERIA

    parts = []
    for name, row in CRITERIA.items():
        module, _, function = row.function.partition(":")
        docstring = _docstring(SOURCE.parent / f"{module.replace('.', '/')}.py", function)
        parts += [f"## {name}", as_markdown(docstring)]
    return "\n\n".join(parts)


def as_markdown(docstring: str) -> str:
    """A docstring as Markdown: code, examples, and lists of names with what they mean. Errors are left out."""
    parts = []
    for paragraph in docstring.split("\n\n"):
        head, _, rest = paragraph.partition("\n")
        if head == "Raises:":
            continue
        if paragraph.startswith(">>>"):
            parts.append(f"```python\n{paragraph}\n```")
        elif head == "Settings:":
            entries = re.split(r"\n(?=    \S)", f"\n{rest}")[1:]
            items = [" ".join(entry.split()) for entry in entries]
            named = [re.sub(r"^(\w+): ", r"`\1`: ", item) for item in items]
            parts += ["**Settings** (`--set NAME=VALUE`)", "\n".join(f"- {item}" for item in named)]
        else:
            parts.append(re.sub(r"\bDetails:", "**In `plan.json`, under `scores`**:", " ".join(paragraph.split())))
    text = re.sub(r"``(.+?)``", r"`\1`", "\n\n".join(parts))
    return re.sub(r"arXiv:(\d{4}\.\d{5})", r"[arXiv:\1](https://arxiv.org/abs/\1)", text)


def task_table() -> str:
    """The tasks of the registry."""
    from layercut.tasks import TASKS

    lines = ["| task | what the model does |", "|---|---|"]
    return "\n".join([*lines, *(f"| `{name}` | {task.summary} |" for name, task in TASKS.items())])


def notebook_page() -> str:
    """examples/tutorial.ipynb as a page: its text, its code, and what the code printed."""
    cells = json.loads((ROOT / "examples" / "tutorial.ipynb").read_text(encoding="utf-8"))["cells"]
    parts = []
    for cell in cells:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(source)
            continue
        parts.append(f"```python\n{source}\n```")
        printed = "".join("".join(one["text"]) for one in cell["outputs"] if one.get("name") == "stdout").strip("\n")
        if printed:
            parts.append(f"```text\n{printed}\n```")
    return "\n\n".join(parts) + "\n"


def allowed_arrows() -> tuple[dict[str, set[str]], set[str]]:
    """Which package may import which, and those that all may import, from tests/unit/test_architecture.py."""
    sys.path.insert(0, str(ROOT))
    from tests.unit.test_architecture import BASE, MAY_USE

    return MAY_USE, BASE


def drawn_arrows(arrows: dict[str, set[str]], base: set[str]) -> list[tuple[str, str]]:
    """The arrows of the picture. One that follows from two others is left out, and so are arrows to the base."""
    reached = {name: _reached(name, arrows) for name in arrows}
    drawn = []
    for name in (name for name in ORDER if name not in base):
        used = arrows[name] - base
        direct = {other for other in used if not any(other in reached[third] for third in used - {other})}
        drawn += [(name, other) for other in sorted(direct, key=ORDER.index)]
    return drawn


def _reached(name: str, arrows: dict[str, set[str]]) -> set[str]:
    found: set[str] = set()
    new = set(arrows[name])
    while new:
        found |= new
        new = {other for one in new for other in arrows[one]} - found
    return found


def picture_line() -> str:
    """The line of the page that shows the picture."""
    return "![The packages and their imports](../images/packages.svg)"


def picture(arrows: dict[str, set[str]], base: set[str]) -> str:
    """The packages as an SVG: a box for each, an arrow for each import that is drawn, from the top down."""
    drawn = drawn_arrows(arrows, base)
    names = [name for name in ORDER if name not in base]
    level = dict.fromkeys(names, 0)
    for name in names:  # ORDER runs from the top down, so one pass is enough
        for other in (used for user, used in drawn if user == name):
            level[other] = max(level[other], level[name] + 1)
    middle, wide, high, step = 360, 112, 34, 66
    place = {name: (middle + COLUMN.get(name, 0) * 150, 30 + level[name] * step) for name in names}
    bottom = 30 + (max(level.values()) + 1) * step
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {2 * middle} {bottom + 30}" font-family="sans-serif" '
        'font-size="15" text-anchor="middle">',
        "<title>The packages of layercut. An arrow means: imports.</title>",
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0 0L8 4L0 8z" fill="#5c6bc0"/></marker></defs>',
        f'<rect width="{2 * middle}" height="{bottom + 30}" rx="8" fill="#ffffff"/>',
    ]
    for user, used in drawn:
        (x, y), (to_x, to_y) = place[user], place[used]
        y, to_y = y + high / 2, to_y - high / 2
        down = to_y - step * 0.75 if level[used] > level[user] + 1 else y  # a long arrow goes down before it turns
        half = (down + to_y) / 2
        lines.append(
            f'<path d="M{x:g} {y:g}V{down:g}C{x:g} {half:g} {to_x:g} {half:g} {to_x:g} {to_y:g}" fill="none" '
            f'stroke="#5c6bc0" stroke-width="1.6" marker-end="url(#tip)"><title>{user} --&gt; {used}</title></path>'
        )
    for name, (x, y) in place.items():
        lines += _box(name, x, y, wide, high, "#e8eaf6")
    lines += _box(
        f"used by all: {', '.join(name for name in ORDER if name in base)}", middle, bottom, 560, high, "#eee"
    )
    return "\n".join([*lines, "</svg>", ""])


def _box(text: str, x: float, y: float, wide: float, high: float, colour: str) -> Iterator[str]:
    yield (
        f'<rect x="{x - wide / 2:g}" y="{y - high / 2:g}" width="{wide}" height="{high}" rx="6" fill="{colour}" '
        'stroke="#3f51b5"/>'
    )
    yield f'<text x="{x:g}" y="{y + 5:g}" fill="#1a237e">{text}</text>'


def ranked_and_written(criterion: str) -> str:
    """Retention by depth of three tasks, ranked and written, as an SVG; the numbers are those of STUDY's table."""
    text = STUDY.read_text(encoding="utf-8")
    depths = {0: [(100.0, 100.0, 100.0)] * 6}
    for row in re.findall(rf"^\| {criterion}-(\d+) \|(.*)\|$", text, re.MULTILINE):
        cells = re.findall(r"(-?\d+) \[(-?\d+), (-?\d+)\]", row[1])[:6]
        depths[int(row[0])] = [(float(value), float(low), float(high)) for value, low, high in cells]
    assert len(depths) > 1 and all(len(values) == 6 for values in depths.values()), STUDY
    wide, high, deepest = 230, 190, max(depths)
    lines = [
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 780 306" font-family="sans-serif" font-size="14">',
        "<title>Retention above chance by number of removed layers, ranked and written</title>",
        '<rect width="780" height="306" rx="8" fill="#ffffff"/>',
        '<g fill="#0b62c4"><rect x="56" y="14" width="14" height="14" rx="3"/><text x="76" y="26">ranked</text></g>',
        '<g fill="#c2570c"><rect x="146" y="14" width="14" height="14" rx="3"/><text x="166" y="26">written</text></g>',
        '<text x="250" y="26" fill="#444">retention above chance, % with 95 % intervals</text>',
        '<text x="400" y="298" fill="#444" text-anchor="middle">layers removed, of 30</text>',
    ]
    for panel, name in enumerate(("sums", "brackets", "word lists")):
        left, top = 56 + panel * (wide + 14), 66

        def across(depth: int, left: int = left) -> float:
            return left + 16 + (wide - 46) * depth / deepest

        def down(value: float, top: int = top) -> float:
            return top + high * (120 - min(max(value, -10.0), 120)) / 130

        lines.append(
            f'<text x="{left + wide / 2:g}" y="{top - 12}" text-anchor="middle" font-weight="bold">{name}</text>'
        )
        for value in (0, 50, 100):
            y = down(value)
            lines.append(f'<path d="M{left} {y:.1f}h{wide - 14}" stroke="#ccc"/>')
            if panel == 0:
                lines.append(f'<text x="{left - 8}" y="{y + 5:.1f}" text-anchor="end" fill="#444">{value}</text>')
        for depth in depths:
            lines.append(f'<text x="{across(depth):.1f}" y="{down(-10) + 16:.1f}" text-anchor="middle">{depth}</text>')
        for readout, colour in enumerate(("#0b62c4", "#c2570c")):
            points = {depth: values[2 * panel + readout] for depth, values in sorted(depths.items())}
            shift = 4 * readout - 2
            path = "L".join(f"{across(depth) + shift:.1f} {down(value):.1f}" for depth, (value, _, _) in points.items())
            lines.append(f'<path d="M{path}" fill="none" stroke="{colour}" stroke-width="2.5"/>')
            for depth, (value, low, upper) in points.items():
                x = across(depth) + shift
                lines.append(
                    f'<path d="M{x:.1f} {down(low):.1f}V{down(upper):.1f}" stroke="{colour}" stroke-width="1.5"/>'
                )
                lines.append(f'<circle cx="{x:.1f}" cy="{down(value):.1f}" r="4" fill="{colour}"/>')
    return "\n".join([*lines, "</svg>", ""])


def _docstring(path: Path, function: str | None = None) -> str:
    module = ast.parse(path.read_text(encoding="utf-8"))
    if function is None:
        return ast.get_docstring(module) or ""
    (node,) = (one for one in module.body if isinstance(one, ast.FunctionDef) and one.name == function)
    return ast.get_docstring(node) or ""


def _sentence(docstring: str) -> str:
    """The first sentence, as Markdown, without its full stop."""
    sentence = " ".join(docstring.partition("\n\n")[0].split()).partition(". ")[0]
    text = re.sub(r"``(.+?)``", r"`\1`", sentence.rstrip("."))
    return "".join(part if part.startswith("`") else re.sub(r"([<>*_])", r"\\\1", part) for part in _by_code(text))


def _by_code(text: str) -> list[str]:
    """Pieces of text, each all code or none."""
    return re.split(r"(`[^`]*`)", text)


def main() -> None:
    """Write every file."""
    for file, text in pages().items():
        file.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
