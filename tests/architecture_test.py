"""The house: who may import whom, and how large things may grow.

    12 programs          train evaluate score generate launch report export prepare_* make_* inspect_corpus
    11 program
    10 experiment model_comparison following/
    9  configurables evaluation scoring generation launching reporting run_matrix
    8  tasks/            WHAT is learned
    7  groups/           how one group does SGD
    6  training/         Algorithm 1
    5  teaching/         WHERE teaching comes from
    4  exchange/ checkpoints
    3  models/ corpus/ inputs/ example_tables/ image_preparation/ groups.decisions health/ learning_curves
    2  tokenizer/ tables/ reproducibility/ distribution calibration recurrent_state
    1  losses schedules metrics click_metrics tokens weights optimizers/ runs leases pictures batches
       bindings jobs/ image_files/ redealing
    0  shapes files/ gpus settings quiet_start keras_private children

A module imports from strictly lower floors or from its own package. The rules are functions of source text,
so that each is also tried on a small house that breaks it.
"""

import ast
import collections
import functools
import pathlib
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence

import pytest

PACKAGE = "tf_codistill"
ROOT = pathlib.Path(__file__).parents[1]

FLOORS = (
    ("shapes", "files", "gpus", "settings", "terminal", "quiet_start", "keras_private", "children"),
    ("losses", "schedules", "metrics", "click_metrics", "optimizers", "tokens", "weights")
    + ("runs", "leases", "pictures", "batches", "bindings", "jobs", "image_files", "redealing"),
    ("tokenizer", "tables", "distribution", "reproducibility", "calibration", "recurrent_state"),
    ("models", "corpus", "inputs", "example_tables", "image_preparation")
    + ("groups.decisions", "health", "learning_curves"),
    ("exchange", "checkpoints", "trained"),
    ("teaching",),
    ("training",),
    ("groups",),
    ("tasks",),
    (
        "configurables",
        "evaluation",
        "injection",
        "launching",
        "reporting",
        "scoring",
        "generation",
        "run_matrix",
        "planning",
    ),
    ("experiment", "model_comparison", "following"),
    ("program", "retraining", "sweeps", "torturing"),
    ("train", "evaluate", "launch", "report", "prepare_corpus")
    + ("prepare_images", "prepare_clicks", "make_clicks", "make_flights", "make_digits", "inspect_corpus")
    + (
        "score",
        "generate",
        "export",
        "churn",
        "retrain",
        "sweep",
        "plan",
        "status",
        "torture",
        "serve_predictions",
        "teach",
    ),
)
FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
PROGRAMS = FLOORS[-1]

MODULE_LINES = 400
PACKAGE_MODULES = 12
PROGRAM_LINES = 79
FUNCTION_LINES = 60
USUAL_FUNCTION_LINES = 39
USUAL_SHARE = 0.9

# Rooms of whose kinds nobody asks which one it is: what they have in common, and how it is called elsewhere.
KINDS = {"tasks": ("Task", ("task",)), "teaching": ("Teaching", ("teaching", "teachers"))}

_LOOKS = ("isinstance", "issubclass", "hasattr", "getattr", "type")

House = Mapping[str, str]  # source by dotted module name below the package: {"exchange.store": "..."}


def read_house(root: pathlib.Path) -> House:
    """The sources of the package; ``tasks/__init__.py`` is the module ``tasks``, its own is left out."""
    house = {}
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        if name:
            house[name] = path.read_text(encoding="utf-8")
    return house


HOUSE = read_house(ROOT / PACKAGE)


def imports(house: House, module: str) -> Iterator[tuple[int, str]]:
    """Line and name below the package of what a module imports of the house, at its top or in a function."""
    for node in ast.walk(parsed(house[module])):
        if isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = _absolute(house, module, node)
            targets = [f"{base}.{alias.name}" for alias in node.names]
        else:
            continue
        for target in targets:
            first, _, rest = target.partition(".")
            while "." in rest and rest not in house:
                rest = rest.rpartition(".")[0]
            if first == PACKAGE and rest:
                yield node.lineno, rest


def _absolute(house: House, module: str, node: ast.ImportFrom) -> str:
    if not node.level:
        return node.module or ""
    is_package = any(name.startswith(module + ".") for name in house)
    parts = [PACKAGE, *module.split(".")]
    base = parts[: len(parts) - node.level + is_package]
    return ".".join([*base, node.module] if node.module else base)


def room_of(module: str) -> str:
    """What has a floor of its own: a module that FLOORS names, or its package."""
    return module if module in FLOOR_OF else module.partition(".")[0]


def homeless(house: House) -> list[str]:
    return [f"{m} has no floor in FLOORS" for m in house if room_of(m) not in FLOOR_OF]


def wrong_imports(house: House) -> list[str]:
    """Imports of a floor that is not strictly lower, outside the module's own room."""
    found = []
    for module in house:
        room = room_of(module)
        for line, target in imports(house, module):
            other = room_of(target)
            if other != room and FLOOR_OF.get(other, 99) >= FLOOR_OF.get(room, -1):
                floors = f"floor {FLOOR_OF.get(room)} imports floor {FLOOR_OF.get(other)}"
                found.append(f"{module}, line {line}: import of {target} ({floors})")
    return found


def cycles(house: House) -> list[str]:
    """Rings of modules that import each other, each told once, starting anywhere."""
    found, done = [], set()

    def visit(module: str, trail: tuple[str, ...]) -> None:
        if module in trail:
            found.append(" -> ".join([*trail[trail.index(module) :], module]))
        elif module in house and module not in done:
            for _, target in imports(house, module):
                visit(target, (*trail, module))
            done.add(module)

    for module in house:
        visit(module, ())
    return found


@functools.cache
def parsed(source: str) -> ast.Module:
    return ast.parse(source)


def functions(source: str) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(parsed(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def num_lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    return (node.end_lineno or node.lineno) - node.lineno + 1


def long_modules(house: House) -> list[str]:
    lines = {module: len(source.splitlines()) for module, source in house.items()}
    limit = {module: PROGRAM_LINES if module in PROGRAMS else MODULE_LINES for module in house}
    return [f"{m} has {n} lines, at most {limit[m]}" for m, n in lines.items() if n > limit[m]]


def long_functions(house: House) -> list[str]:
    return [
        f"{module}, line {node.lineno}: {node.name} has {num_lines(node)} lines, at most {FUNCTION_LINES}"
        for module, source in house.items()
        for node in functions(source)
        if num_lines(node) > FUNCTION_LINES
    ]


def share_of_usual_functions(house: House) -> float:
    sizes = [num_lines(node) for source in house.values() for node in functions(source)]
    return sum(size <= USUAL_FUNCTION_LINES for size in sizes) / len(sizes)


def public_definitions(source: str) -> Iterator[tuple[str, ast.AST]]:
    """Name and node of the module, its public classes and functions, and their public methods."""
    tree = parsed(source)
    yield "module", tree
    kinds = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    for node in tree.body:
        if isinstance(node, kinds) and not node.name.startswith("_"):
            yield node.name, node
            for member in node.body if isinstance(node, ast.ClassDef) else ():
                if isinstance(member, kinds) and not member.name.startswith("_"):
                    yield f"{node.name}.{member.name}", member


def undocumented(house: House) -> list[str]:
    return [
        f"{module}: {name} has no docstring"
        for module, source in house.items()
        for name, node in public_definitions(source)
        if not ast.get_docstring(node)
    ]


def unannotated(house: House) -> list[str]:
    found = []
    for module, source in house.items():
        for name, node in public_definitions(source):
            members = node.body if isinstance(node, ast.ClassDef) else [node]
            for function in members:
                is_init = isinstance(function, ast.FunctionDef) and function.name == "__init__"
                if (function is node or is_init) and isinstance(function, ast.FunctionDef):
                    missing = _without_annotation(function)
                    found += [f"{module}: {name}, {argument} has no annotation" for argument in missing]
    return found


def _without_annotation(function: ast.FunctionDef) -> list[str]:
    a = function.args
    arguments = [*a.posonlyargs, *a.args, *a.kwonlyargs, *filter(None, (a.vararg, a.kwarg))]
    missing = [arg.arg for arg in arguments if not arg.annotation and arg.arg not in ("self", "cls")]
    return missing + ([] if function.returns else ["return"])


def bad_names(house: House) -> list[str]:
    last = {module: module.rpartition(".")[2] for module in house}
    taken = {"utils", "util", "helpers", "common", "misc"} | set(sys.stdlib_module_names)
    return [f"{module}: a module cannot be called {name}" for module, name in last.items() if name in taken]


def defined_twice(house: House) -> list[str]:
    """Public classes of one name in several modules."""
    modules: dict[str, list[str]] = {}
    for module, source in house.items():
        for node in ast.parse(source).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                modules.setdefault(node.name, []).append(module)
    twice = [name for name, found in modules.items() if len(found) > 1]
    return [f"class {name} is in {' and '.join(modules[name])}" for name in twice]


def crowded_packages(house: House) -> list[str]:
    """Packages with more modules than one can keep in mind: such a one gets rooms of its own."""
    packages = collections.Counter(
        module.rpartition(".")[0] for module in house if f"{module}." not in " ".join(house)
    )
    return [
        f"{package} has {number} modules; expected at most {PACKAGE_MODULES}, make a room of some"
        for package, number in packages.items()
        if package and number > PACKAGE_MODULES
    ]


def asserts(house: House) -> list[str]:
    return [
        f"{module}, line {node.lineno}: assert in library code; raise ValueError"
        for module, source in house.items()
        for node in ast.walk(parsed(source))
        if isinstance(node, ast.Assert)
    ]


def configurable_programs(house: House) -> list[str]:
    """Programs with a gin configurable of their own: run with ``-m`` it would be registered twice."""
    return [
        f"{module}, line {node.lineno}: {node.attr} in a program"
        for module, source in house.items()
        if module in PROGRAMS
        for node in ast.walk(parsed(source))
        if isinstance(node, ast.Attribute) and node.attr in ("configurable", "register")
    ]


def asks_for_kinds(house: House) -> list[str]:
    """Above their rooms: a look at which kind of task or teaching it is, or what only one kind has."""
    found = []
    for room, (base, variables) in KINDS.items():
        defined = {node.name: node for node in _classes(house, room)}
        kinds, members = defined.keys() - {base}, set(_members(defined.get(base)))
        for module, source in house.items():
            if FLOOR_OF[room_of(module)] > FLOOR_OF[room] and module != "configurables":
                asks = _asks(parsed(source), kinds, variables, members)
                found += [f"{module}, line {line}: {what}" for line, what in asks]
    return found


def _asks(
    tree: ast.Module, kinds: set[str], variables: Sequence[str], members: set[str]
) -> Iterator[tuple[int, str]]:
    docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and _last_name(node.value) in variables:
            if node.attr not in members:
                yield node.lineno, f"{_last_name(node.value)}.{node.attr} is of one kind alone"
        elif isinstance(node, ast.Call) and _last_name(node.func) in _LOOKS:
            if named := {*map(_last_name, ast.walk(node))} & {*kinds, *variables}:
                yield node.lineno, f"{_last_name(node.func)} of {', '.join(sorted(named))}"
        elif isinstance(node, ast.Constant) and node.value in kinds and id(node) not in docstrings:
            yield node.lineno, f"the name {node.value!r}"
        elif isinstance(node, ast.Compare | ast.match_case) and {*map(_last_name, ast.walk(node))} & kinds:
            yield getattr(node, "lineno", 0), "a comparison with a kind"


def _classes(house: House, room: str) -> Iterator[ast.ClassDef]:
    for module, source in house.items():
        for node in parsed(source).body if room_of(module) == room else ():
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                yield node


def _members(node: ast.ClassDef | None) -> Iterator[str]:
    for part in node.body if node else ():
        if isinstance(part, ast.FunctionDef):
            yield part.name
        elif isinstance(part, ast.AnnAssign) and isinstance(part.target, ast.Name):
            yield part.target.id


def _last_name(node: ast.AST) -> str:
    """How an expression is called: ``task`` for ``self._task``, ``teachers`` for ``model.teachers``."""
    name = node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""
    return name.lstrip("_")


RULES = {
    rule.__name__: rule
    for rule in (
        homeless,
        wrong_imports,
        cycles,
        long_modules,
        long_functions,
        undocumented,
        unannotated,
        bad_names,
        defined_twice,
        crowded_packages,
        asserts,
        configurable_programs,
        asks_for_kinds,
    )
}

DOC = '"""Doc."""\n'
BROKEN = {
    "homeless": {"attic": DOC},
    "wrong_imports": {"losses": DOC + "def f() -> None:\n    'Doc.'\n    from tf_codistill import metrics\n"},
    "cycles": {"tasks": DOC, "tasks.a": DOC + "from . import b\n", "tasks.b": DOC + "from .a import x\n"},
    "long_modules": {"train": DOC + "x = 1\n" * 79},
    "long_functions": {"files": DOC + "def _f():\n" + "    x = 1\n" * 60},
    "undocumented": {"files": DOC + "class A:\n    'Doc.'\n    def f(self) -> None: ...\n"},
    "unannotated": {"files": DOC + "class A:\n    'Doc.'\n    def __init__(self, x) -> None: ...\n"},
    "bad_names": {"corpus.queue": DOC},
    "defined_twice": {"files": DOC + "class A: ...\n", "runs": DOC + "class A: ...\n"},
    "crowded_packages": {"losses": DOC, **{f"losses.m{number}": DOC for number in range(13)}},
    "asserts": {"files": DOC + "assert True\n"},
    "configurable_programs": {"train": DOC + "import gin\n@gin.configurable\ndef _f(): ...\n"},
    "asks_for_kinds": {
        "tasks.base": DOC + "class Task:\n    'Doc.'\n    def loss(self): ...\n",
        "experiment": DOC + "def f(task):\n    return [task.loss(), task.num_lanes]\n",
    },
}
EXAMPLE = {
    "files": DOC,
    "runs": DOC + "from tf_codistill import files\n",
    "exchange": DOC,
    "exchange.topology": DOC,
    "exchange.store": DOC + "import tf_codistill.files\nfrom tf_codistill.exchange import topology\n",
    "groups": DOC,
    "groups.decisions": DOC,
    "training": DOC,
    "training.distillation": DOC + "from tf_codistill.exchange.store import read\nimport os\n",
    "groups.synchronous": DOC + "from tf_codistill.groups import decisions\n",
    "train": DOC + "from tf_codistill import program, runs\nfrom tf_codistill.groups import synchronous\n",
    "program": DOC + "def run(main: int, *, secs: float) -> None:\n    'Doc.'\n",
}


@pytest.mark.parametrize("rule", RULES)
def test_the_house_keeps_the_rule(rule):
    assert not RULES[rule](HOUSE), "\n".join(RULES[rule](HOUSE))


@pytest.mark.parametrize("rule", RULES)
def test_a_house_that_breaks_the_rule_is_found(rule):
    assert len(RULES[rule](BROKEN[rule])) == 1
    assert RULES[rule](EXAMPLE) == []


@pytest.mark.parametrize(
    ("module", "source", "told"),
    [
        ("exchange.store", "from tf_codistill.training import meters", "import of training (floor 4 imports"),
        ("corpus.wet", "import tf_codistill.inputs.language", "import of inputs (floor 3 imports floor 3)"),
        ("models.cell", "from ..program import run", "import of program (floor 3 imports floor 11)"),
    ],
)
def test_offending_imports_are_told(module, source, told):
    rooms = {"training": DOC, "inputs": DOC, "program": DOC, module.partition(".")[0]: DOC}
    (found,) = wrong_imports({**rooms, module: source})
    assert found.startswith(f"{module}, line 1: {told}")


ROOMS = {
    "tasks.base": "class Task:\n    units: str\n    def loss(self): ...\n",
    "tasks.language": "class LanguageTask(Task): ...\n",
    "teaching.base": "class Teaching:\n    def names(self): ...\n",
    "teaching.saved": "class SavedTeachers(Teaching):\n    def read(self): ...\n",
}


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("if isinstance(x, LanguageTask): y()", "isinstance of LanguageTask"),
        ("if isinstance(teachers, (A, B)): y()", "isinstance of teachers"),
        ("x = hasattr(self._task, 'corpora')", "hasattr of task"),
        ("x = getattr(model.teachers, name)", "getattr of teachers"),
        ("self.model.teachers.read(0)", "teachers.read is of one kind alone"),
        ("x = type(y) is saved.SavedTeachers", "a comparison with a kind"),
        ("x = y.__name__ == 'SavedTeachers'", "the name 'SavedTeachers'"),
        ("match x:\n    case SavedTeachers(): ...", "a comparison with a kind"),
        ("task.loss(task.units); teachers.names(); teaching: Teaching = SavedTeachers", ""),
    ],
)
def test_whoever_asks_for_a_kind_is_found(source: str, told: str) -> None:
    assert asks_for_kinds({**ROOMS, "teaching.fellows": source, "configurables": source}) == []
    found = " ".join(asks_for_kinds({**ROOMS, "experiment": source}))
    assert told in found
    assert bool(found) == bool(told)


def test_most_functions_are_short():
    share = share_of_usual_functions(HOUSE)
    assert share >= USUAL_SHARE, f"{share:.0%} of the functions have less than 40 lines"
    assert share_of_usual_functions({"files": "def f():\n" + "    x = 1\n" * 39}) == 0


def test_what_is_imported_from_outside_is_there():
    """The package loads its names lazily, so that mypy takes any for one of its own."""
    missing = []
    for path in (
        path for folder in ("benchmarks", "examples", "docs") for path in (ROOT / folder).glob("*.py")
    ):
        for node in ast.walk(parsed(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == PACKAGE:
                base = node.module.removeprefix(PACKAGE).removeprefix(".")
                missing += [
                    f"{path.name}, line {node.lineno}: {name.name}"
                    for name in node.names
                    if f"{base}.{name.name}".removeprefix(".") not in HOUSE
                    and not (base in HOUSE and re.search(rf"\b{name.name}\b", HOUSE[base]))
                ]
    assert not missing


def test_gin_is_no_package():
    """A module below gin/ would shadow the package gin for whoever runs from the repository."""
    assert not list((ROOT / "gin").rglob("*.py"))


def test_every_test_folder_is_a_package():
    folders = {path.parent for path in (ROOT / "tests").rglob("*_test.py")}
    assert not [str(folder) for folder in folders if not (folder / "__init__.py").exists()]


def test_importing_the_package_is_cheap():
    loaded = (
        "import sys, tf_codistill; print(sorted({'tensorflow', 'keras', 'absl.flags'} & sys.modules.keys()))"
    )
    output = subprocess.run(
        [sys.executable, "-c", loaded], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert output.stdout.strip() == "[]"


def test_filters_do_without_what_speaks_to_servers() -> None:
    """Worker processes import them by the thousand."""
    code = (
        "import sys, tf_codistill.corpus.filters, tf_codistill.corpus.paragraph_ids.selection;"
        "sys.exit(bool({'requests', 'tensorflow'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
