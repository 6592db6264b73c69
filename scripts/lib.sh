# Shell functions that the scripts share. Sourced, not run: `. "$(dirname "$0")/lib.sh"`.
# shellcheck shell=bash

# Colour only where a person reads it.
if [ -t 1 ] && [ -z "${NO_COLOR:-}" ]; then
    bold=$'\033[1m' dim=$'\033[2m' red=$'\033[31m' green=$'\033[32m' yellow=$'\033[33m' plain=$'\033[0m'
else
    bold='' dim='' red='' green='' yellow='' plain=''
fi
export bold dim red green yellow plain

say()  { printf '%s\n' "$*"; }
note() { printf '%s%s%s\n' "$dim" "$*" "$plain"; }
warn() { printf '%swarning:%s %s\n' "$yellow" "$plain" "$*" >&2; }
die()  { printf '%serror:%s %s\n' "$red" "$plain" "$*" >&2; exit 1; }

have() { command -v "$1" >/dev/null 2>&1; }

# --- Debian packages -------------------------------------------------------------------------------------------------

wanted_packages=()

# want PACKAGE CHECK...: queues the package for `install_wanted` unless the check succeeds.
want() {
    local package=$1
    shift
    "$@" >/dev/null 2>&1 || wanted_packages+=("$package")
}

# Installs what `want` queued, in one go; does nothing, and asks for no rights, when nothing is missing.
install_wanted() {
    [ ${#wanted_packages[@]} -gt 0 ] || return 0
    local packages="${wanted_packages[*]}"
    have apt-get || die "these programs' Debian packages are missing: $packages. This machine has no apt-get; install" \
        "the same programs with its own package manager and run this again."
    # RUNLEVEL=1 keeps maintainer scripts from starting daemons (redis-server): only the programs are wanted.
    local run=(env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1)
    if [ "$(id -u)" -ne 0 ]; then
        have sudo || die "root's rights are needed to install packages, and there is no sudo. Run as root:" \
            "apt-get install $packages"
        # Without a terminal nobody can type a password, so fail instead of waiting for one.
        if [ -t 0 ]; then run=(sudo "${run[@]}"); else run=(sudo -n "${run[@]}"); fi
    fi
    say "installing Debian packages: $packages"
    # The lists may be missing (containers) or old; an update that fails is no harm where they are good.
    "${run[@]}" apt-get update -q >/dev/null || warn "apt-get update failed; trying with the lists that are there"
    "${run[@]}" apt-get install -q -y --no-install-recommends "${wanted_packages[@]}" >/dev/null \
        || die "could not install: $packages. Run by hand to see why: sudo apt-get install $packages"
    wanted_packages=()
}

# Prints the path of SoftHSM's PKCS#11 module; fails when it is not installed.
softhsm_module() {
    local module
    for module in "${SOFTHSM2_MODULE:-}" /usr/lib/softhsm/libsofthsm2.so /usr/lib/*/softhsm/libsofthsm2.so \
        /usr/lib64/pkcs11/libsofthsm2.so /usr/lib64/softhsm/libsofthsm.so /usr/local/lib/softhsm/libsofthsm2.so; do
        if [ -n "$module" ] && [ -f "$module" ]; then
            printf '%s\n' "$module"
            return 0
        fi
    done
    return 1
}

have_softhsm() { have softhsm2-util && softhsm_module; }

# `cc` alone is not enough: a compiler without the C library's headers cannot build aws-lc.
have_c_compiler() { have cc && printf '#include <stdlib.h>\nint main(void){return 0;}\n' | cc -x c -o /dev/null -; }

# --- Rust ------------------------------------------------------------------------------------------------------------

# need_rust COMPONENT...: cargo, and components such as rustfmt and clippy.
need_rust() {
    if ! have cargo && [ -f "${CARGO_HOME:-$HOME/.cargo}/env" ]; then
        # shellcheck disable=SC1091
        . "${CARGO_HOME:-$HOME/.cargo}/env"
    fi
    have cargo || die "cargo is not installed. Install Rust with rustup (https://rustup.rs) and run this again."
    local component
    for component in "$@"; do
        case $component in
            rustfmt) cargo fmt --version >/dev/null 2>&1 && continue ;;
            *) cargo "$component" --version >/dev/null 2>&1 && continue ;;
        esac
        have rustup || die "the Rust component $component is missing, and there is no rustup to add it."
        rustup component add "$component" || die "could not add the Rust component $component."
    done
}

# --- Python ----------------------------------------------------------------------------------------------------------

# python_works PROGRAM: whether it is Python 3.10 or newer that can make virtual environments.
python_works() { "$1" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 10))' >/dev/null 2>&1; }

# Prints the first Python that can make virtual environments; fails when there is none.
find_python() {
    local python
    for python in "${PYTHON:-}" python3 /usr/bin/python3 python3.13 python3.12 python3.11 python3.10; do
        if [ -n "$python" ] && python_works "$python"; then
            printf '%s\n' "$python"
            return 0
        fi
    done
    return 1
}

# make_venv DIRECTORY REQUIREMENTS: a virtual environment with exactly these packages. One that is complete, from the
# same list and Python, is kept; anything else is made anew.
make_venv() {
    local directory=$1 requirements=$2 python stamp
    python=$(find_python) || die "no Python 3.10 or newer with venv; install the Debian package python3-venv."
    stamp=$({ "$python" -c 'import sys; print(sys.version, sys.prefix)' && cat "$requirements"; } | sha256sum)
    if [ -f "$directory/complete" ] && [ "$(cat "$directory/complete")" = "$stamp" ]; then
        note "$directory is complete"
        return 0
    fi
    say "making $directory"
    rm -rf "$directory"
    mkdir -p "$(dirname "$directory")"
    "$python" -m venv "$directory" || return 1
    "$directory/bin/python" -m pip install --quiet --no-input --disable-pip-version-check -r "$requirements" || return 1
    # Written last: an interrupted installation has no stamp, and is made anew.
    printf '%s\n' "$stamp" >"$directory/complete"
}

# --- Steps -----------------------------------------------------------------------------------------------------------

steps_run=()
steps_failed=()

# step NAME COMMAND...: runs it, says what runs and how long it took, and goes on after a failure. With words in
# `only`, runs only the steps whose name contains one of them.
only=()
step() {
    local name=$1 word chosen=1 start status=0
    shift
    if [ ${#only[@]} -gt 0 ]; then
        chosen=0
        for word in "${only[@]}"; do
            case $name in *"$word"*) chosen=1 ;; esac
        done
    fi
    [ "$chosen" -eq 1 ] || return 0
    printf '\n%s==> %s%s\n' "$bold" "$name" "$plain"
    start=$SECONDS
    "$@" || status=$?
    if [ "$status" -eq 0 ]; then
        steps_run+=("$(printf '%sok%s      %5ds  %s' "$green" "$plain" $((SECONDS - start)) "$name")")
        printf '%s<== ok%s %s (%d s)\n' "$green" "$plain" "$name" $((SECONDS - start))
    else
        steps_run+=("$(printf '%sFAILED%s  %5ds  %s' "$red" "$plain" $((SECONDS - start)) "$name")")
        steps_failed+=("$name")
        printf '%s<== FAILED%s %s (exit %d, %d s)\n' "$red" "$plain" "$name" "$status" $((SECONDS - start))
    fi
}

# Prints each step's outcome; fails when one of them did, or when none ran.
steps_summary() {
    printf '\n%sSummary%s\n' "$bold" "$plain"
    [ ${#steps_run[@]} -gt 0 ] || { warn "no step ran"; return 1; }
    printf '  %s\n' "${steps_run[@]}"
    if [ ${#steps_failed[@]} -gt 0 ]; then
        printf '%s%d of %d steps failed%s after %d s\n' "$red" ${#steps_failed[@]} ${#steps_run[@]} "$plain" "$SECONDS"
        return 1
    fi
    printf '%sall %d steps are fine%s after %d s\n' "$green" ${#steps_run[@]} "$plain" "$SECONDS"
}

# --- Crates that are built as they are -------------------------------------------------------------------------------

# crate_source NAME VERSION DIRECTORY: unpacks the crate, checked by cargo against the registry's checksum, into
# DIRECTORY; one that is there is kept.
crate_source() {
    local name=$1 version=$2 directory=$3 probe manifest
    [ -f "$directory/complete" ] && [ "$(cat "$directory/complete")" = "$version" ] && return 0
    probe=$(mktemp -d) || return 1
    mkdir "$probe/src" && : >"$probe/src/lib.rs"
    printf '[package]\nname = "probe"\nversion = "0.0.0"\nedition = "2024"\n[workspace]\n[dependencies]\n%s = "=%s"\n' \
        "$name" "$version" >"$probe/Cargo.toml"
    manifest=$(cargo metadata --format-version 1 --manifest-path "$probe/Cargo.toml" 2>"$probe/error" \
        | tr '"' '\n' | grep "/$name-$version/Cargo.toml$" | head -n 1)
    if [ -z "$manifest" ]; then
        cat "$probe/error" >&2
        rm -rf "$probe"
        return 1
    fi
    rm -rf "$probe" "$directory"
    mkdir -p "$directory"
    cp -R "$(dirname "$manifest")/." "$directory/" || return 1
    # It lies below this project's workspace and is none of it.
    grep -q '^\[workspace\]' "$directory/Cargo.toml" || printf '\n[workspace]\n' >>"$directory/Cargo.toml"
    printf '%s\n' "$version" >"$directory/complete"
}

# --- Daemons ---------------------------------------------------------------------------------------------------------

daemons=()

# start_daemon LOG COMMAND...: starts it in the background; `stop_daemons` ends it, by its process id.
start_daemon() {
    local log=$1
    shift
    "$@" >"$log" 2>&1 </dev/null &
    daemons+=($!)
}

# Ends what `start_daemon` started, the youngest first.
stop_daemons() {
    local index
    for ((index = ${#daemons[@]} - 1; index >= 0; index--)); do
        kill "${daemons[index]}" 2>/dev/null || continue
        wait "${daemons[index]}" 2>/dev/null || true
    done
    daemons=()
}

# wait_until SECONDS COMMAND...: tries it ten times a second until it succeeds.
wait_until() {
    local tries=$(($1 * 10))
    shift
    until "$@" >/dev/null 2>&1; do
        tries=$((tries - 1))
        [ "$tries" -gt 0 ] || return 1
        sleep 0.1
    done
}

# --- The matrix of PKCS#11 modules -----------------------------------------------------------------------------------

# Prints the first of these files that exists.
first_file() {
    local file
    for file in "$@"; do
        if [ -f "$file" ]; then
            printf '%s\n' "$file"
            return 0
        fi
    done
    return 1
}

# Prints the path of a module, looked for in the usual directories, such as `pkcs11/p11-kit-client.so`.
library_file() { first_file /usr/lib/*-linux-gnu/"$1" /usr/lib64/"$1" /usr/lib/"$1"; }

# Prints the upstream version of a Debian package.
package_version() {
    local version
    version=$(dpkg-query --show --showformat '${source:Upstream-Version}' "$1" 2>/dev/null) || return 1
    printf '%s\n' "${version%+dfsg*}"
}

# run_matrix NAME: runs tests/matrix*.rs on the module that TASKSEAL_MATRIX_* describe (see that file). The lock-out comes
# last and in a process of its own: its token is of no use afterwards.
run_matrix() {
    export TASKSEAL_MATRIX_NAME=$1
    rm -f "target/matrix/$1.json"
    # The same packages and features as in scripts/test, so that nothing is built twice.
    local run=(cargo test --locked --quiet --workspace --test 'matrix*' --)
    "${run[@]}" --skip locking_out && "${run[@]}" locking_out
}

# --- The Python package ----------------------------------------------------------------------------------------------

# python_package VENV [MATURIN_ARGUMENT...]: builds the package of python/ and installs it into the environment.
python_package() {
    local venv=$1 wheels=${CARGO_TARGET_DIR:-target}/wheels
    shift
    rm -rf "$wheels"
    "$venv/bin/maturin" build --locked --quiet --manifest-path python/Cargo.toml --interpreter "$venv/bin/python" \
        --out "$wheels" "$@" || return 1
    python_package_again "$venv"
}

# python_package_again VENV: installs into the environment what `python_package` built.
python_package_again() {
    "$1/bin/python" -m pip install --quiet --no-input --disable-pip-version-check --no-deps --force-reinstall \
        "${CARGO_TARGET_DIR:-target}"/wheels/taskseal-*.whl
}
