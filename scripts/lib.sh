# Shared by the scripts that start things: a scratch directory, and the end of what was started. Source it.
scratch=$(mktemp -d "${TMPDIR:-/tmp}/lading.XXXXXX")
started=()

# Ends what this script started, last first, each by its own process ID, and removes the scratch directory.
finish() {
    local status=$? i
    trap - EXIT
    for ((i = ${#started[@]} - 1; i >= 0; i--)); do
        kill "${started[i]}" 2>/dev/null || continue
        for _ in $(seq 100); do kill -0 "${started[i]}" 2>/dev/null || break; sleep 0.1; done
    done
    rm -rf --one-file-system "$scratch"
    exit "$status"
}
trap finish EXIT

# wait_for WHAT COMMAND...: until the command succeeds, 20 seconds at most.
wait_for() {
    local what=$1
    shift
    for _ in $(seq 200); do "$@" >/dev/null 2>&1 && return; sleep 0.1; done
    echo "$what did not come up; its log:" >&2
    tail -n 20 "$scratch"/*.log >&2
    return 1
}

# start_registry: Debian's docker-registry on a free loopback port; sets $registry to host:port.
start_registry() {
    local port
    port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
    registry=127.0.0.1:$port
    printf 'version: 0.1\nstorage: {filesystem: {rootdirectory: %s}, delete: {enabled: true}}\nhttp: {addr: "%s"}\nlog: {level: error, accesslog: {disabled: true}}\n' \
        "$scratch/registry" "$registry" >"$scratch/registry.yml"
    docker-registry serve "$scratch/registry.yml" >"$scratch/registry.log" 2>&1 &
    started+=($!)
    wait_for "the registry" curl -fsS "http://$registry/v2/"
}

# start_daemon [ARGUMENT...]: lading daemon on a private socket; exports DOCKER_HOST.
start_daemon() {
    export DOCKER_HOST=unix://$scratch/run/docker.sock DOCKER_CONFIG=$scratch/docker-config
    mkdir -p "$scratch/run" "$DOCKER_CONFIG"
    .venv/bin/lading daemon --data-root "$scratch/data" --exec-root "$scratch/run/exec" --pidfile "$scratch/run/lading.pid" \
        --host "$DOCKER_HOST" "$@" >"$scratch/daemon.log" 2>&1 &
    started+=($!)
    wait_for "the daemon" docker version
}
