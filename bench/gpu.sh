#!/usr/bin/env bash
# All that only a GPU can say, in one run of about ten minutes, with vLLM of twenty-five: correctness of the kernels, then
# rows in bench/results.
#
#     bench/gpu.sh            PYTHON names the interpreter (default: python), MODEL a model for vLLM (default: none)
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

step 240 "kernels and copies against the truth" "$python" -m pytest -q -m gpu \
    tests/kernels tests/models tests/vllm_plugin/test_block_copies.py
step 130 "kernels (attention, choice of words), encoder" "$python" -m bench.bench_kernels --device cuda
step 130 "sensory pass" "$python" -m bench.bench_sensory --device cuda --tokens 40 510 --users 64 --long-users 64
step 50 "update queue" "$python" -m bench.bench_queue --device cuda --entries 4000,100000
step 60 "recall" "$python" -m bench.bench_search --device cuda --embedder minilm --entries 100000 --searches 100

# MODEL: a directory with config.json and a tokenizer, whose weights are made up.
if [[ -n ${MODEL:-} ]] && "$python" -c 'import vllm' 2>/dev/null; then
    dummy=(--load-format dummy --max-model-len 16384)
    step 400 "serving" "$python" -m bench.bench_serve --model "$MODEL" --clients 8 32 --chats 96 --limit 330 -- "${dummy[@]}"
    for tier in connector offload; do
        step 200 "conversations that return ($tier)" "$python" -m bench.bench_returning --model "$MODEL" \
            --tokens 2048,8192 --set "kv.tier=$tier" --set embedder.stub=true --set classifier.source=stub -- "${dummy[@]}"
    done
fi

if ((${#failed[@]})); then
    printf 'failed: %s\n' "${failed[@]}" >&2
    exit 1
fi
