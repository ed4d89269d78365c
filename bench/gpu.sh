#!/usr/bin/env bash
# All that only a GPU can say, in one run of under eight minutes: correctness of the kernels, then rows in bench/results.
#
#     bench/gpu.sh            PYTHON names the interpreter (default: python)
#
# Each step has a limit of its own and the next one follows whatever became of it; what failed is listed at the end.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1
export PYTHONPATH=".:kernels${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
python=${PYTHON:-python}
failed=()

step() { # SECONDS NAME COMMAND...
    local seconds=$1 name=$2
    shift 2
    echo "== $name (at most $seconds s)"
    timeout "$seconds" "$@" || failed+=("$name: exit code $?")
}

"$python" -c 'import sys, torch; sys.exit(0 if torch.cuda.is_available() else "this needs a CUDA device")' || exit 1

step 100 "kernels against double precision" "$python" -m pytest -q -m gpu tests/kernels tests/models
step 130 "kernels (attention, choice of words), encoder" "$python" -m bench.bench_kernels --device cuda
step 130 "sensory pass" "$python" -m bench.bench_sensory --device cuda --tokens 40 510 --users 64 --long-users 64
step 50 "update queue" "$python" -m bench.bench_queue --device cuda --entries 4000,100000
step 60 "recall" "$python" -m bench.bench_search --device cuda --embedder minilm --entries 100000 --searches 100

if ((${#failed[@]})); then
    printf 'failed: %s\n' "${failed[@]}" >&2
    exit 1
fi
