#!/usr/bin/env bash
# Both image stores through their whole life against a simple model (tests/stateful/test_images.py): STEPS random steps in all,
# shared by PROCESSES, each with random numbers of its own. Prints how many steps of each kind there were.
set -euo pipefail
cd "$(dirname "$0")/.."

processes=${PROCESSES:-2}
export STEPS=$((${STEPS:-100000} / processes))
pids=()
for _ in $(seq "$processes"); do
    .venv/bin/python -m pytest -q -s -m nightly --timeout 36000 -p no:cacheprovider \
        tests/stateful/test_images.py::test_images_agree_with_a_model_for_a_hundred_thousand_steps &
    pids+=("$!")
done
failed=0
for pid in "${pids[@]}"; do
    wait "$pid" || failed=1
done
exit "$failed"
