#!/bin/bash
# Regenerates the message classes of every _pb package from the .proto files beside them.
# With a directory as argument it writes below that instead of src (the test that they are up to date does so).
set -euo pipefail
cd "$(dirname "$0")/../src"
target=${1:-.}
python=${PYTHON:-../.venv/bin/python}
# The path below src becomes the file's name in the descriptor pool, which must be unique in a process.
"$python" -m grpc_tools.protoc -I . --python_out="$target" --pyi_out="$target" \
  lading/runtime/_pb/*.proto lading/formats/llb/_pb/*.proto lading/formats/buildkit/_pb/*.proto
