# Sourced by scripts/run and scripts/test: makes .venv and installs into it, with one clear
# line for each thing that a machine may lack.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv=$root/.venv
log=$root/build/install.log

say() { echo "scope-cpp: $*" >&2; }

die() {
    say "$*"
    exit 1
}

# Prints the first Python that is new enough; $PYTHON, if set, is the only candidate.
find_python() {
    local candidate candidates=(python3 python3.14 python3.13 python3.12 python3.11 python3.10)
    [ -z "${PYTHON:-}" ] || candidates=("$PYTHON")
    for candidate in "${candidates[@]}"; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    die "Python 3.10 or newer was not found (${PYTHON:-python3} is $(
        "${PYTHON:-python3}" --version 2>/dev/null || echo missing)): install one, or set PYTHON"
}

make_venv() {
    "$venv/bin/python" -m pip --version >/dev/null 2>&1 && return
    local python
    python=$(find_python) || exit 1
    "$python" -c 'import venv, ensurepip' 2>/dev/null ||
        die "$python has no venv module: install it (Debian, Ubuntu: apt install python3-venv)"
    say "making $venv with $("$python" --version)"
    "$python" -m venv --clear "$venv" || die "the virtual environment could not be made"
}

# Explains in one line why the installation that wrote $log stopped.
explain() {
    local reason
    reason=$(sed -n 's/^ *scope-cpp: //p' "$log" | head -1)
    if [ -n "$reason" ]; then
        die "$reason (all output: $log)"
    elif grep -qE 'NewConnectionError|NameResolutionError|ConnectTimeout|ProxyError|SSLError|No matching distribution' "$log"; then
        die "the package index could not be reached: check the network and pip's settings (all output: $log)"
    fi
    die "the build stopped: the reason is near the end of $log"
}

# Runs a build step: all its output goes to $log, its own progress lines are shown too.
logged() {
    mkdir -p "$root/build"
    "$@" 2>&1 | tee "$log" | grep --line-buffered -o -e '-- scope-cpp: .*' >&2
    [ "${PIPESTATUS[0]}" -eq 0 ] || explain
}

# What every build needs: .venv, and git for our patches.
prepare() {
    make_venv
    command -v git >/dev/null || die "git was not found: install it"
}

install_package() { # arguments of pip install
    prepare
    say "installing (pip install $*)"
    logged "$venv/bin/python" -m pip install --verbose "$@"
    touch "$venv/.scope-installed"
}

# True if nothing that goes into the package changed since it was installed.
is_installed() {
    [ -x "$venv/bin/scope" ] && [ -e "$venv/.scope-installed" ] && [ -z "$(
        find "$root"/{scope_cpp,cli,patches,scripts,cmake,CMakeLists.txt,pyproject.toml} \
            -name _vendor -prune -o -type f ! -name '*.pyc' -newer "$venv/.scope-installed" -print
    )" ]
}
