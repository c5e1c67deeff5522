# Sourced by the other scripts: finds a Python and makes virtual environments. Installs Debian packages only as root.
# Never touches anything outside the project's folder otherwise.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export PIP_DISABLE_PIP_VERSION_CHECK=1

fail() { printf '\n%s\n' "$*" >&2; exit 1; }

# A Python of a version that chatcore supports, with venv and the headers that compiled modules need.
python_fits() {
    "$1" - >/dev/null 2>&1 <<'PYTHON'
import sys
raise SystemExit(not (3, 11) <= sys.version_info < (3, 14))
PYTHON
}

python_is_complete() {
    "$1" - >/dev/null 2>&1 <<'PYTHON'
import ensurepip, os, sysconfig, venv
raise SystemExit(not os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")))
PYTHON
}

find_python() {
    local candidate
    for candidate in ${PYTHON:-} python3 python3.13 python3.12 python3.11; do
        if command -v "$candidate" >/dev/null && python_fits "$candidate"; then
            echo "$candidate"
            return
        fi
    done
    fail "chatcore needs Python 3.11, 3.12 or 3.13 and found none. On Debian or Ubuntu: sudo apt-get install python3
If it lies somewhere unusual: PYTHON=/path/to/python make ..."
}

install_missing_packages() {
    local version packages
    version=$("$1" -c 'import sys; print(f"{sys.version_info[0]}.{sys.version_info[1]}")')
    packages="python$version-venv python$version-dev gcc libc6-dev"
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        echo "installing $packages" >&2
        apt-get install -y --no-install-recommends $packages >/dev/null ||
            { apt-get update >/dev/null && apt-get install -y --no-install-recommends $packages >/dev/null; }
    else
        fail "Python's venv module, its headers or a C compiler is missing. Install them and try again:
    sudo apt-get install $packages"
    fi
}

version_of() { "$1" -c 'import sys; print(sys.version)' 2>/dev/null || echo none; }

# new_environment FOLDER: a virtual environment, made once, and anew for another Python.
new_environment() {
    local python
    python=$(find_python)
    if ! python_is_complete "$python" || ! command -v "${CC:-cc}" >/dev/null; then
        install_missing_packages "$python"
        python_is_complete "$python" || fail "$python still lacks venv or its headers (Python.h)."
    fi
    if [ "$(version_of "$1/bin/python")" != "$(version_of "$python")" ]; then
        rm -rf "$1"
        "$python" -m venv "$1"
        "$1/bin/python" -m pip install --quiet --upgrade pip
    fi
}

# sources_digest: changes when anything does that a build or an environment depends on.
sources_digest() {
    { cat pyproject.toml setup.py MANIFEST.in
      find _ext chatcore server \( -name '*.py' -o -name '*.pyx' -o -name '*.pxd' -o -name '*.pyi' \) -print0 | sort -z | xargs -0 cat
      version_of "$(find_python)"
      echo "$*"; } | sha256sum | cut -d' ' -f1
}

# up_to_date STAMP DIGEST
up_to_date() { [ -f "$1" ] && [ "$(cat "$1")" = "$2" ]; }
