"""The walls of the house, read from its source: who may import whom, what is imported late, what is never called."""

from __future__ import annotations

import ast
import functools
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("builder", "tasks", "pages")
TASK_NAMES = ("recognition", "lesion_detection", "tumor_diagnosis", "image_enhancement")

# The design's table as amended by docs/decisions/0001. A module that is not listed is refused: give it its place first.
ENGINE = {
    # what can be chosen, and the document of choices
    "catalog": "",
    "parts": "catalog",
    "spec": "catalog parts",
    # networks
    "blocks": "",
    "fits": "catalog",
    "receptive": "",
    "weights": "catalog execute forkserver",
    "network": "catalog parts spec blocks fits receptive weights",
    "surgery": "network spec blocks",
    "stepping": "",
    "graph": "spec network",
    "layered": "",
    "drawing": "parts spec network graph layered",
    # files of strangers to scans
    "scan": "",
    "dicom_file": "scan",
    "grey": "scan dicom_file",
    "places": "scan",
    "attributes": "",
    "dicom_attributes": "attributes dicom_file scan",
    "dicom": "scan dicom_attributes dicom_file grey places",
    "series": "scan dicom places",
    "pictures": "scan",
    "volumes": "scan",
    "segmentation": "scan dicom_file places dicom series",
    "scans": "scan dicom_file dicom series segmentation pictures volumes",
    "sandbox": "forkserver scan",
    "forkserver": "scan scans",
    # scans to datasets
    "archives": "",
    "tables": "attributes",
    "medmnist": "archives",
    "gathering": "archives",
    "boxfiles": "archives gathering",
    "arrangement": "gathering boxfiles tables",
    "layouts": "gathering arrangement",
    "boxed_sources": "archives gathering arrangement boxfiles layouts tables",
    "masks": "scan",
    "labelling": "boxfiles gathering labels scan",
    "sources": "archives tables gathering arrangement boxfiles boxed_sources layouts medmnist task",
    "duplicates": "",
    "splits": "",
    "labels": "",
    "shortcuts": "",
    "fingerprint": "attributes labels shortcuts splits",
    "voxels": "spec",
    "cutting": "",
    "prepared": "scan spec voxels",
    "data": "scan spec prepared fingerprint labels",
    "writing": "scan data fingerprint",
    "decoding": "scan sandbox data arrangement gathering masks",
    "sides": "scan data duplicates splits",
    "told_later": "attributes data labels tables writing",
    "intake": "attributes scan data fingerprint labels arrangement boxfiles labelling gathering sources medmnist "
    "decoding sides tables writing",
    "scan_files": "scan",
    "label_export": "data labels scan scan_files",
    # what is taught, and what is wrong with it
    "targets": "parts data spec cutting voxels scan grain",
    "losses": "parts spec",
    "task": "catalog parts spec scan data targets augment views measures",
    "repairs": "catalog parts spec network",
    "search": "catalog parts spec network task runs execute locks",
    "check": "catalog parts spec network task data repairs weights augment_safety ways search leaks shares",
    # runs as facts
    "growing": "",
    "probes": "",
    "events": "growing probes",
    "diagnosis": "events parts network probes spec task",
    "cures": "diagnosis parts network spec",
    "locks": "",
    "runs": "events locks spec",
    "cluster": "runs",
    "cluster_start": "cluster runs",
    "execute": "runs cluster locks",
    "wastebin": "runs",
    "notes": "runs",
    "turns": "runs",
    "supervisor": "runs execute wastebin cluster needs",
    "needs": "cluster runs spec data network",
    "placed": "cluster execute runs supervisor team worker",
    "team": "cluster runs",
    "spreads": "runs task",
    "film": "batches runs spec spreads targets task",
    "board": "runs graph film",
    "beside": "execute locks runs",
    "tensorboards": "beside execute leaks runs",
    "faults": "runs",
    # training
    "checkpoint": "",
    "augment": "shading",
    "shading": "",
    "views": "augment",
    "augment_safety": "parts spec data task views augment shading",
    "augment_preview": "parts spec data augment cutting",
    "grain": "",
    "degrade": "parts scan grain",
    "restoration": "",
    "schedule": "parts spec",
    "shares": "parts spec",
    "optim": "parts spec schedule shares",
    "averaging": "parts spec schedule",
    "batches": "data spec targets",
    "health": "spec network",
    "tripwire": "",
    "memory": "",
    "parallel": "",
    "ways": "",
    "parting": "data runs",
    "folds": "data splits",
    "rounds": "data parting runs spec",
    "folding": "task data branch evaluate folds leaks measures rounds runs spec",
    "curve_fit": "",
    "forecast": "task data curve_fit evaluate folding folds leaks measures parts rounds runs spec",
    "seeds": "task data evaluate folding folds forecast measures rounds runs spec",
    "gathered": "folding forecast rounds seeds",
    "discarding": "nested rounds runs search seeds wastebin",
    "nested": "task data evaluate folding folds leaks measures parting runs search spec",
    "branch": "spec runs checkpoint parting",
    "carrying": "checkpoint optim",
    "learner": "parts spec network data augment targets task runs checkpoint optim averaging shares batches film "
    "measures memory health tripwire views ways branch carrying parallel weights",
    "train": "spec network data augment task runs checkpoint batches learner memory parallel",
    # results
    "measures": "",
    "strokes": "labels",
    "outputs": "scan",
    "terms": "measures runs",
    "likeness": "",
    "nearness": "scan data predict cutting likeness parting targets task",
    "gate": "calibrate scan data parting predict nearness measures runs",
    "calibrate": "terms measures evaluate runs",
    "asking": "scan data gathering sources decoding predict outputs voxels",
    "feedback": "labels data series sources intake asking evaluate",
    "takeout": "scan outputs series derived",
    "predict": "scans sandbox gathering spec network data task runs checkpoint tiling views cutting voxels terms leaks",
    "tiling": "",
    "restored": "scan spec",
    "derived_files": "volumes",
    "outlined": "scan volumes derived_files",
    "derived": "scan dicom series derived_files",
    "opinion": "scans predict",
    "dicomweb": "",
    "service": "asking beside dicomweb faults gate nearness operating predict runs sandbox scan takeout terms",
    "compare": "task data runs evaluate measures leaks parting",
    "siblings": "branch evaluate parting runs spec",
    "hardest": "spec task data checkpoint learner",
    "evaluate": "spec task data runs predict measures views parting leaks subgroups",
    "leaks": "data fingerprint parting runs spec",
    "outside": "",
    "subgroups": "attributes data fingerprint measures",
    "traces": "measures outside",
    "audit": "attributes baseline data duplicates fingerprint leaks outside runs sides splits traces",
    "operating": "evaluate measures runs",
    "marked": "data labels measures parting predict runs",
    "reader": "calibrate data evaluate marked parting runs task",
    "reading_report": "marked measures reader",
    "lettering": "",
    "error_groups": "attributes baseline data evaluate fingerprint measures parting runs sides task",
    "blanking": "data lettering measures parting predict runs targets task",
    "saliency": "predict spec task",
    "hallucination": "calibrate degrade measures opinion parting predict restored runs scan task",
    "sanity": "blanking data measures parting predict runs saliency targets task",
    "hindsight": "",
    "baseline": "spec network data evaluate measures runs",
    "evidence": "catalog parts spec network task data runs evaluate operating blanking baseline measures drawing "
    "leaks parting audit calibrate gate hallucination reader reading_report sanity saliency terms subgroups "
    "error_groups",
    "preflight": "parts spec data task batches learner",
    "finder": "spec data task learner",
    "gap": "parts spec network task dropping",
    "dropping": "catalog parts spec network",
    "landscape": "parts spec",
    "look": "parts spec network stepping scans data prepared predict batches cutting",
    "lessons": "parts spec task targets losses measures degrade grain",
    "listing": "catalog parts spec network schedule task batches blocks lessons shares targets",
    "tracing": "",
    "foreign": "parts spec network weights",
    "recurrence": "foreign",
    "recognised": "parts spec network foreign",
    "onnx_recognised": "recognised tracing onnx_operators",
    "keras_recognised": "recognised tracing keras_text weights",
    "keras_reading": "parts spec foreign recurrence recognised",
    "onnx_reading": "spec foreign recurrence recognised",
    "keras_import": "foreign recognised keras_recognised keras_reading",
    "onnx_import": "foreign recognised onnx_recognised onnx_reading",
    "foreign_child": "foreign keras_import onnx_import weights",
    "readme": "parts spec network task predict runs lessons operating",
    "keras_text": "listing tracing",
    "pytorch_export": "parts spec network task lessons likeness listing nearness predict prepared batches weights",
    "keras_export": "network listing predict task tracing keras_text recognised",
    "onnx_operators": "tracing",
    "onnx_export": "spec network listing predict task tracing onnx_operators recognised",
    "program_export": "network listing predict task tracing",
    "export": "spec network nearness task scans data prepared predict runs tracing drawing readme pytorch_export "
    "keras_export onnx_export program_export operating",
}
TASKS = (
    "catalog parts spec network scan data targets augment views task blocks measures losses batches degrade "
    "restoration restored cutting voxels"
)
ANYTHING = None  # worker: the one composition root
# Pages and the command line ask; they neither train nor see what is inside a reader, a loop or an import.
LOOP = (
    "train supervisor worker learner batches optim averaging board augment shading memory health tripwire carrying "
    "hardest"
)
READERS = "forkserver dicom_file grey places dicom series segmentation pictures volumes"
IMPORT = (
    "archives tables medmnist gathering writing decoding sides splits arrangement boxfiles "
    "boxed_sources layouts masks labelling"
)
FRONT_MAY_NOT = {*LOOP.split(), *READERS.split(), *IMPORT.split()}
COMMAND_LINE = (
    "__main__",
    "commands",
    "run_commands",
    "round_commands",
    "study_commands",
    "trust_commands",
)  # the headless twin of the pages may ask what they may ask

HEAVY = (
    *("torch", "torchvision", "timm", "monai", "ray", "optuna", "sklearn", "torchmetrics", "faster_coco_eval", "scipy"),
    *("keras", "onnx", "onnxruntime", "onnxscript"),
)
AT_THE_TOP = {
    f"builder/{name}.py"
    for name in (
        "augment",
        "averaging",
        "shading",
        "degrade",
        "restoration",
        "losses",
        "train",
        "learner",
        "batches",
        "optim",
        "memory",
        "parallel",
        "health",
        "tripwire",
    )
}
FORBIDDEN_NAMES = {"utils", "util", "helpers", "helper", "common", "core", "manager", "misc"}


def _sources() -> list[Path]:
    found = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
    return [ROOT / "app.py", *found, *_component_sources()]


def _component_sources() -> list[Path]:
    return sorted((ROOT / "components").glob("*.py")) + sorted((ROOT / "components" / "src").rglob("*.py"))


def _name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@functools.cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


SOURCES = [path for path in _sources() if path.is_file()]


@functools.cache
def _walked(tree: ast.Module) -> tuple[ast.AST, ...]:
    return tuple(ast.walk(tree))


@pytest.fixture(scope="module", autouse=True)
def _let_go() -> Iterator[None]:
    """Two million nodes that nobody asks for any more would slow the collector down in all tests that follow."""
    yield
    for kept in (_tree, _walked, _calls, _imports):
        kept.cache_clear()


def every_source(check: Callable[[Path], None]) -> Callable[[], None]:
    """Turns a check of one source into a test of all of them, which tells every offender and not only the first."""

    def test() -> None:
        wrong = []
        for path in SOURCES:
            try:
                check(path)
            except AssertionError as error:
                wrong.append(f"{_name(path)}: {error}")
        if wrong:
            pytest.fail("\n".join(wrong), pytrace=False)

    test.__name__, test.__doc__ = check.__name__, check.__doc__
    return test


@functools.cache
def _imports(tree: ast.Module, *, module_level: bool = False) -> tuple[tuple[int, str], ...]:
    """Line and dotted name of each import; `from a.b import c` gives a.b and a.b.c, as c may be a module or a thing.

    An import under `if TYPE_CHECKING:` does not happen when the program runs: it counts only without `module_level`.
    """
    found: list[tuple[int, str]] = []
    pending: list[ast.AST] = [tree]
    while pending:
        node = pending.pop()
        if module_level and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if module_level and isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            pending.extend(node.orelse)
            continue
        if isinstance(node, ast.Import):
            found.extend((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.append((node.lineno, node.module or ""))
            found.extend((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)
        pending.extend(ast.iter_child_nodes(node))
    return tuple(found)


def _engine_modules(tree: ast.Module, *, module_level: bool = False) -> set[str]:
    """The modules of `builder` that a source imports, by their first name: parts.layers counts as parts."""
    found = set()
    for _, dotted in _imports(tree, module_level=module_level):
        words = dotted.split(".")
        if words[0] == "builder" and len(words) > 1:
            found.add(words[1])
    return found


def _allowed(path: Path) -> set[str] | None:
    """What `path` may import of the engine; None where it may import all of it."""
    place = path.relative_to(ROOT)
    everything = set(ENGINE)
    if place.parts[0] == "components":
        return set()
    if place.parts[0] == "tasks":
        return set(TASKS.split())
    if place.parts[0] == "pages" or place.name == "app.py":
        return everything - FRONT_MAY_NOT
    module = place.parts[1].removesuffix(".py")
    if module in COMMAND_LINE:
        return (everything - FRONT_MAY_NOT) | set(COMMAND_LINE)
    if module == "__init__":
        return set()
    if module == "worker":
        return ANYTHING
    assert module in ENGINE, f"{_name(path)} has no place in the import table (tests/test_architecture.py)"
    return set(ENGINE[module].split()) | {module}


def test_the_walls_are_checked_on_the_whole_house():
    names = {_name(path) for path in SOURCES}
    known = {"app.py", "builder/spec.py", "builder/worker.py", "builder/parts/layers/__init__.py", "pages/shell.py"}
    assert known <= names
    missing = set(ENGINE) - {path.stem for path in SOURCES} - {path.parent.name for path in SOURCES}
    assert not missing, f"the import table lists modules that do not exist: {sorted(missing)}"


@every_source
def test_a_module_imports_only_what_the_table_allows(path: Path):
    allowed = _allowed(path)
    if allowed is None:
        return
    imported = _engine_modules(_tree(path))
    forbidden = sorted(module for module in imported if module not in allowed)
    assert not forbidden, f"{_name(path)} imports {', '.join(forbidden)} of the engine; it may import {sorted(allowed)}"


@every_source
def test_nobody_but_a_task_asks_which_task_it_is(path: Path):
    """What differs between tasks is said by the tasks themselves (`label_kind`, `learns`): one may be added."""
    if path.relative_to(ROOT).parts[0] == "tasks":
        return
    for node in _walked(_tree(path)):
        if isinstance(node, ast.Compare):
            said = {one.value for one in ast.walk(node) if isinstance(one, ast.Constant)}
            assert not said & set(TASK_NAMES), (
                f"{_name(path)}, line {node.lineno}: ask the task (builder.task.find) instead"
            )


def test_a_module_of_a_task_holds_its_contract_and_no_more():
    for name in TASK_NAMES:
        lines = len((ROOT / "tasks" / f"{name}.py").read_text().splitlines())
        assert 150 <= lines <= 300, f"tasks/{name}.py has {lines} lines"


@every_source
def test_only_pages_and_the_composition_root_know_the_tasks_and_nobody_below_knows_the_pages(path: Path):
    place = path.relative_to(ROOT).parts
    roots = {dotted.split(".")[0] for _, dotted in _imports(_tree(path))}
    if place[0] != "tasks" and _name(path) != "builder/worker.py" and place[0] != "pages":
        assert "tasks" not in roots or path.name == "app.py", "the engine finds tasks by their dotted path in TASKS"
    if place[0] not in ("pages",) and path.name != "app.py":
        assert not roots & {"pages", "app"}, "nothing below the pages knows the pages"
    if place[0] in ("builder", "tasks"):
        assert not roots & {"scanloom_components", "components"}, "the engine draws nothing"


def test_the_imports_of_the_engine_make_no_cycle():
    edges: dict[str, set[str]] = {}
    for path in SOURCES:
        place = path.relative_to(ROOT)
        if place.parts[0] != "builder" or place.name == "__init__.py":
            continue
        module = place.parts[1].removesuffix(".py")
        edges.setdefault(module, set()).update(_engine_modules(_tree(path)) - {module})
    done: set[str] = set()

    def visit(module: str, above: tuple[str, ...]) -> None:
        assert module not in above, " -> ".join((*above[above.index(module) :], module)) + " is a cycle"
        if module not in done:
            for below in sorted(edges.get(module, ())):
                visit(below, (*above, module))
            done.add(module)

    for module in sorted(edges):
        visit(module, ())


@every_source
def test_no_import_is_relative(path: Path):
    relative = [node.lineno for node in _walked(_tree(path)) if isinstance(node, ast.ImportFrom) and node.level]
    assert not relative, f"{_name(path)} has relative imports in lines {relative}"


@every_source
def test_streamlit_lives_in_the_pages_only(path: Path):
    if path.name == "app.py" or path.relative_to(ROOT).parts[0] in ("pages", "components"):
        return
    lines = [line for line, dotted in _imports(_tree(path)) if dotted.split(".")[0] == "streamlit"]
    assert not lines, f"{_name(path)} imports streamlit in line {lines}"


@every_source
def test_heavy_packages_are_imported_inside_functions(path: Path):
    if _name(path) in AT_THE_TOP or _name(path).startswith("builder/blocks/"):
        return
    found = [
        f"{dotted} (line {line})"
        for line, dotted in _imports(_tree(path), module_level=True)
        if dotted.split(".")[0] in HEAVY
    ]
    assert not found, f"{_name(path)} imports at module level: {', '.join(found)}"


def test_no_module_is_named_after_nothing():
    bad = [_name(path) for path in SOURCES if set(path.relative_to(ROOT).with_suffix("").parts) & FORBIDDEN_NAMES]
    assert not bad, f"a function without a home is a concept without a name: {bad}"


@every_source
def test_nothing_is_left_to_do_later(path: Path):
    text = path.read_text(encoding="utf-8")
    assert not [word for word in ("TO" + "DO", "FIX" + "ME", "XX" + "X ") if word in text]
    raised = [ast.unparse(node.exc) for node in _walked(_tree(path)) if isinstance(node, ast.Raise) and node.exc]
    assert not [text for text in raised if text.startswith("NotImplementedError")], f"{_name(path)} has a stub"


@every_source
def test_no_error_is_swallowed_by_a_bare_except(path: Path):
    bare = [n.lineno for n in _walked(_tree(path)) if isinstance(n, ast.ExceptHandler) and n.type is None]
    assert not bare, f"{_name(path)} has a bare except in line {bare}"


@functools.cache
def _calls(tree: ast.Module) -> tuple[tuple[int, str, ast.Call], ...]:
    return tuple((node.lineno, ast.unparse(node.func), node) for node in _walked(tree) if isinstance(node, ast.Call))


def _is_true(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is True


@every_source
def test_torch_loads_weights_only(path: Path):
    for line, name, call in _calls(_tree(path)):
        if name == "torch.load" or name.endswith(".load_state_dict_from_url"):
            safe = {word.arg for word in call.keywords if _is_true(word.value)}
            assert "weights_only" in safe, (
                f"{_name(path)}:{line}: {name} without weights_only=True runs code from the file"
            )
    renamed = [
        node.lineno
        for node in _walked(_tree(path))
        if isinstance(node, ast.ImportFrom) and node.module == "torch" and any(a.name == "load" for a in node.names)
    ]
    assert not renamed, f"{_name(path)}: import torch, so that torch.load is seen for what it is"


@every_source
def test_no_stored_file_can_run_code(path: Path):
    """No pickle in any dress, no eval, no exec, no object arrays, no shell. Of pickle only its errors may be named."""
    tree = _tree(path)
    modules = {dotted for _, dotted in _imports(tree)}
    assert not {name.split(".")[0] for name in modules} & {
        "_pickle",
        "dill",
        "cloudpickle",
        "joblib",
        "shelve",
        "marshal",
    }
    used = {ast.unparse(node) for node in _walked(tree) if isinstance(node, ast.Attribute)} | modules
    used = {name for name in used if name.startswith("pickle.")}
    assert used <= {"pickle.UnpicklingError", "pickle.PickleError"}, f"{_name(path)} uses {sorted(used)}"
    for line, name, call in _calls(tree):
        where = f"{_name(path)}:{line}"
        assert name not in ("eval", "exec", "compile", "os.system", "os.popen"), f"{where} calls {name}"
        for word in call.keywords:
            if word.arg in ("allow_pickle", "shell"):
                assert not _is_true(word.value), f"{where} has {word.arg}=True"


# Two places compose markup, reviewed by hand: pairs escapes every value; the network page puts layer ids into a style
# sheet, and an id is letters, digits and underscores (the pattern of spec.Node).
ESCAPES = {"pages/kit/pairs.py", "pages/network.py"}


def _constants(tree: ast.Module) -> set[str]:
    """The module-level names that are a plain string, once and for all."""
    assigned = [node for node in tree.body if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)]
    return {target.id for node in assigned for target in node.targets if isinstance(target, ast.Name)}


@every_source
def test_no_page_lets_data_become_markup(path: Path):
    tree = _tree(path)
    constants = _constants(tree)
    for line, name, call in _calls(tree):
        flags = {word.arg for word in call.keywords}
        where = f"{_name(path)}:{line}: {name}"
        assert "unsafe_allow_javascript" not in flags, f"{where} lets JavaScript in"
        if "unsafe_allow_html" in flags or name.endswith(("st.html", "components.v1.html")):
            text = call.args[0] if call.args else None
            plain = isinstance(text, ast.Constant) or (isinstance(text, ast.Name) and text.id in constants)
            assert plain or _name(path) in ESCAPES, (
                f"{where} writes HTML that is not a constant: data could become markup"
            )


@every_source
def test_dicom_files_are_never_read_by_force(path: Path):
    for line, name, call in _calls(_tree(path)):
        if name.endswith("dcmread"):
            forced = [
                w
                for w in call.keywords
                if w.arg == "force" and not (isinstance(w.value, ast.Constant) and not w.value.value)
            ]
            assert not forced, f"{_name(path)}:{line} reads any bytes as DICOM"


def _run(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.strip()


# What `import app` brings of our own: the modules that pages import when they open.
FRONT_MODULES = (
    "builder.catalog builder.parts.layers builder.parts.training builder.parts.images builder.spec builder.check \
builder.network builder.data builder.task builder.runs builder.execute tasks"
)


def test_the_pages_own_modules_open_without_torch_and_in_half_a_second():
    """Best of three, in fresh processes; libraries that a page needs anyway (numpy, pydantic) are imported before."""
    code = f"""
        import importlib, sys, time
        import numpy, pydantic
        start = time.process_time()
        for name in {FRONT_MODULES.split()!r}:
            importlib.import_module(name)
        print(time.process_time() - start)
        heavy = [name for name in {HEAVY!r} if name in sys.modules]
        assert not heavy, heavy
    """
    seconds = min(float(_run(code)) for _ in range(3))
    assert seconds < 0.5, f"the pages' own modules take {seconds:.2f} s of CPU to import"


def test_importing_the_app_brings_no_torch():
    printed = _run(f"import sys, app; print([name for name in {HEAVY[:6]!r} if name in sys.modules])")
    assert printed.splitlines()[-1] == "[]"


def test_the_supervisor_runs_without_torch_until_the_pool_is_wanted():
    assert _run(f"import sys, builder.supervisor; print([n for n in {HEAVY!r} if n in sys.modules])") == "[]"
