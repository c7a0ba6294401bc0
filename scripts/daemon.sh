#!/bin/bash
# Leaves a daemon running on a private socket and says how to talk to it. Repeating it is harmless.
set -euo pipefail
cd "$(dirname "$0")/.."
socket=/run/lading/lading.sock
export DOCKER_HOST=unix://$socket
if ! docker version >/dev/null 2>&1; then
    mkdir -p -m 0711 /run/lading /var/log/lading
    setsid .venv/bin/lading daemon --data-root /var/lib/lading --exec-root /run/lading/exec --pidfile /run/lading/lading.pid \
        --host "$DOCKER_HOST" >>/var/log/lading/daemon.log 2>&1 </dev/null &
    for _ in $(seq 200); do docker version >/dev/null 2>&1 && break; sleep 0.1; done
    docker version >/dev/null 2>&1 || { tail -n 20 /var/log/lading/daemon.log >&2; exit 1; }
fi
cat <<END
The daemon runs (process $(cat /run/lading/lading.pid), log /var/log/lading/daemon.log). Talk to it with:

    export DOCKER_HOST=$DOCKER_HOST
    docker info

Stop it with: kill $(cat /run/lading/lading.pid)
END
