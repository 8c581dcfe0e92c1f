#!/bin/sh
# Answers this project's questions to a GPU with one command: tools/gpu.py says which.
#
#   tools/gpu.sh --json FILE [--toy]      on the machine with the GPU (with --toy on any machine)
#   tools/gpu.sh pack ...                 before that, on a machine with a network: fills .gpu/, which is carried along
cd "$(dirname "$0")/.." || exit 2
PYTHON=${PYTHON:-python3}
if [ "$1" = pack ]; then
    shift
    PYTHONPATH="$PWD/tools:$PWD${PYTHONPATH:+:$PYTHONPATH}" exec "$PYTHON" -m gpu_kit.pack "$@"
fi
if ls .gpu/wheels/*.whl >/dev/null 2>&1 && ! "$PYTHON" -c "import grain, tensorboardX, zstandard" 2>/dev/null; then
    site=$(mktemp -d)
    "$PYTHON" -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --target "$site" .gpu/wheels/*.whl || exit 2
    export PYTHONPATH="$site${PYTHONPATH:+:$PYTHONPATH}"
fi
exec "$PYTHON" tools/gpu.py "$@"
