"""The house checks itself: rules of the code base that a reader relies on."""

import ast
import inspect
import re
import tomllib
from pathlib import Path

import pytest
import reference

import definetti_np
from definetti_np.engine.operators import OPERATIONS

ROOT = Path(__file__).parents[1]
LIBRARY = sorted((ROOT / "definetti_np").glob("*.py")) + sorted((ROOT / "definetti_np").glob("[!k]*/*.py"))
KERNELS = sorted((ROOT / "kernels").glob("[!_]*.py"))
POLICY = [ROOT / "kernels" / "_jit.py", ROOT / "kernels" / "_cache.py"]
TREES = {path: ast.parse(path.read_text("utf-8")) for path in [*LIBRARY, *KERNELS, *POLICY]}

# Imports go from a floor to floors below it, or stay on it; a folder is one room of its floor.
FLOORS = [
    "__main__ cli",
    "training status",
    "run",
    "reports",
    "diagnostics",
    "settings reuse schedules validation warm_start predictor model loading ensembles trainer",
    "scanner",
    "invariance network layers",
    "posteriors",
    "ops simulation",
    "engine files genomes logs progress",
    "kernels losses seeds summary",
    "history provenance specs context heads augment multiset interruption cores process numba_threads simulators "
    "checks errors",
]
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms.split()}
WITHOUT_NUMBA = set(
    "simulation files genomes specs context heads augment multiset losses seeds logs progress training settings reuse "
    "schedules warm_start validation reports history provenance run".split()
)
WITHOUT_NUMBA |= {"simulators"}


def room_of(path):
    """The folder of the package that a file lies in, or its own name."""
    return path.relative_to(ROOT / "definetti_np").parts[0].removesuffix(".py")


def imports_of(path):
    """(module, such as "engine.tensor", whether it is imported at the top) for the project's modules in a file."""
    folder = path.relative_to(ROOT / "definetti_np").parts[:-1]
    found = []
    for node in ast.walk(TREES[path]):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = [*folder[: len(folder) + 1 - node.level], *filter(None, [node.module])]
            modules = [[*base, alias.name] for alias in node.names] if is_folder(base) else [base]
            found += [(".".join(m), node in TREES[path].body) for m in modules]
    return found


def is_folder(parts):
    return ROOT.joinpath("definetti_np", *parts).is_dir()


def public_functions(path):
    return [n.name for n in TREES[path].body if isinstance(n, ast.FunctionDef) and not n.name.startswith("_")]


def name_of(path):
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", LIBRARY, ids=name_of)
def test_library__imports_go_down(path):
    if path == ROOT / "definetti_np" / "__init__.py":
        assert imports_of(path) == []
        return
    assert room_of(path) in FLOOR, "a new module needs its floor"
    for module, _ in imports_of(path):
        room = module.split(".")[0]
        assert FLOOR[room] >= FLOOR[room_of(path)], f"{name_of(path)} imports {module}, which is above it"


def reachable(room):
    """The rooms that importing every module of a room imports."""
    seen, todo = set(), [room]
    while todo:
        current = todo.pop()
        seen.add(current)
        files = [path for path in LIBRARY if room_of(path) == current]
        rooms = {module.split(".")[0] for path in files for module, at_top in imports_of(path) if at_top}
        todo += rooms - seen
    return seen


@pytest.mark.parametrize("room", sorted(WITHOUT_NUMBA))
def test_simulation_side__reaches_no_kernel(room):
    assert not {"kernels", "engine", "ops"} & reachable(room)


@pytest.mark.parametrize("path", KERNELS, ids=lambda path: path.stem)
def test_kernels__import_numpy_and_the_compile_policy_alone(path):
    for node in ast.walk(TREES[path]):
        if isinstance(node, ast.Import):
            assert [alias.name for alias in node.names] == ["numpy"]
        if isinstance(node, ast.ImportFrom):
            assert (node.level, node.module) in ((1, "_jit"), (1, "_tile"))


@pytest.mark.parametrize("path", KERNELS, ids=lambda path: path.stem)
def test_kernels__jitted_functions_go_through_the_compile_policy(path):
    for node in ast.walk(TREES[path]):
        if isinstance(node, ast.FunctionDef):
            decorators = [ast.unparse(d) for d in node.decorator_list]
            assert decorators in ([], ["Kernel"], ["jit"])
            assert bool(decorators) == node.name.startswith("_"), "compiled functions are private, contracts public"


@pytest.mark.parametrize("path", KERNELS, ids=lambda path: path.stem)
def test_kernels__have_a_legend_a_contract_and_a_twin(path):
    assert re.search(r"^[A-Z]    ", ast.get_docstring(TREES[path]), re.MULTILINE), "an axis legend"
    tests = (ROOT / "tests" / "test_kernels.py").read_text("utf-8")
    rooms = ("dense_conv", "window_products", "pooling", "losses", "densities")
    gradients = "".join(ast.unparse(TREES[ROOT / "definetti_np" / "ops" / f"{room}.py"]) for room in rooms)
    for node in TREES[path].body:
        name = getattr(node, "name", "_")
        if name.startswith("_") or (node.returns is not None and ast.unparse(node.returns) != "None"):
            continue  # what returns something is no kernel
        assert len(node.args.args) <= 8
        assert hasattr(reference, name), "a twin"
        assert f"reference.{name}(" in tests
        assert f"{path.stem}.{name}(" in tests or f"{path.stem[:-1]}_kernels.{name}(" in tests
        if name.endswith("_forward"):
            assert f".{name}(" in gradients, "it is part of an operation, whose gradient is checked"


def test_operations__each_has_a_gradient_test():
    tests = "".join((ROOT / "tests" / f"test_{name}.py").read_text("utf-8") for name in ("gradients", "ops"))
    for name in definetti_np.ops.__all__:
        symbol = {"getitem": r"\[:, 1:\]", "constant": "ops.constant"}.get(name, rf'ops\.{name}\b|"{name}"')
        assert re.search(symbol, tests), f"no test of {name}"


def test_operations__dir_shows_operations_only():
    assert set(dir(definetti_np.ops)) == set(OPERATIONS)


def test_operations__pooling_and_layers_do_not_import_each_other():
    imports = {
        name: {m for m, _ in imports_of(ROOT / "definetti_np/ops" / f"{name}.py")} for name in ("pooling", "dense_conv")
    }
    assert "ops.pooling" not in imports["dense_conv"]
    assert "ops.dense_conv" not in imports["pooling"]


@pytest.mark.parametrize("path", TREES, ids=name_of)
def test_library__says_nothing_and_imports_nothing_forbidden(path):
    for node in ast.walk(TREES[path]):
        if isinstance(node, ast.Call):
            assert ast.unparse(node.func) != "print", "use the logger"
        if isinstance(node, ast.Import):
            assert not {alias.name.split(".")[0] for alias in node.names} & {"kernels", "pickle"}
        if isinstance(node, ast.ImportFrom):
            assert node.level or node.module.split(".")[0] not in ("kernels", "pickle", "definetti_np")
        assert not isinstance(node, ast.Assert), "raise an error that the user can act on"


def documented_parameters(docstring):
    section = re.search(r"\nParameters\n-+\n(.*?)(\n\n[A-Z][a-z]+\n-+\n|$)", inspect.cleandoc(docstring), re.DOTALL)
    if section is None:
        return None
    names = re.findall(r"^(\S.*?)$", section[1], re.MULTILINE)
    return [name for line in names for name in line.split(", ")]


def test_docstrings__name_the_parameters_of_the_signature():
    checked = 0
    for name in definetti_np.__all__:
        thing = getattr(definetti_np, name)
        functions = [
            thing,
            *(f for _, f in inspect.getmembers(thing, inspect.isfunction) if not f.__name__.startswith("_")),
        ]
        for function in functions:
            documented = documented_parameters(function.__doc__ or "")
            if documented is not None:
                parameters = [p for p in inspect.signature(function).parameters if p != "self"]
                assert documented == parameters, function
                checked += 1
    assert checked >= 5


@pytest.mark.parametrize("path", [p for p in TREES if p.stem != "__init__"], ids=name_of)
def test_library__everything_public_has_a_docstring(path):
    assert ast.get_docstring(TREES[path])
    for node in TREES[path].body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
            assert ast.get_docstring(node), f"{node.name} in {path.name}"


def test_types__are_checked_in_every_module():
    configuration = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["mypy"]
    assert configuration["files"] == ["definetti_np"]
    for entry in configuration["overrides"]:
        assert set(entry) - {"module"} <= {"ignore_missing_imports", "check_untyped_defs"}
        assert "check_untyped_defs" not in entry or entry["module"] == ["definetti_np.kernels.*"]


def public_signatures(path):
    """(name, definition) of each function of a file, and each method of its classes, that a user or a module calls."""
    for node in TREES[path].body:
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            yield node.name, node
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            for method in node.body:
                if isinstance(method, ast.FunctionDef) and (
                    not method.name.startswith("_") or method.name in ("__init__", "__call__")
                ):
                    yield f"{node.name}.{method.name}", method


@pytest.mark.parametrize("path", TREES, ids=name_of)
def test_library__everything_public_is_annotated(path):
    for name, function in public_signatures(path):
        arguments = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
        arguments += filter(None, [function.args.vararg, function.args.kwarg])
        bare = [a.arg for a in arguments if a.annotation is None and a.arg not in ("self", "cls")]
        assert not bare, f"{name} does not say what these are"
        assert function.returns is not None or function.name == "__init__", f"{name} does not say what it returns"
