#!/usr/bin/env bash
# Checks the Triton kernels on a GPU, measures blocks and whole models on it, and trains a model in bfloat16: at most
# thirteen minutes, without network. A part that fails or reaches its limit of time is named at the end, and leaves no
# file; the others are run all the same.
#
#   pip install -e '.[test]' && scripts/gpu_check.sh OUTPUT
#   DEVICE=cpu scripts/gpu_check.sh OUTPUT    # a little, to see that the script works
#
# Into the folder OUTPUT it writes log.txt, with the name of each test as it ends, a CSV file and a picture of each
# suite of `cp-transformers benchmark`, and training.json.
set -uo pipefail
if [ $# -ne 1 ]; then
  sed -n '2,10s/^# \{0,1\}//p' "$0" >&2
  exit 2
fi
mkdir -p "$1" && output=$(cd "$1" && pwd) || exit 1
cd "$(dirname "$0")/.." || exit 1
device=${DEVICE:-cuda}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
: >"$output/log.txt"
failed=()

part() { # NAME SECONDS COMMAND...
  echo "+ ${*:3}" | tee -a "$output/log.txt"
  timeout "$2" "${@:3}" 2>&1 | tee -a "$output/log.txt" || failed+=("$1")
}

if [ "$device" = cuda ]; then
  tests=() suites=(strided pooling models) rounds=(--rounds 7) steps=(--max_steps 400 --bf16)
else
  tests=(-k no_block_that_matters_to_a_group) suites=(pooling) rounds=(--quick) steps=(--max_steps 2)
  steps+=(--use_cpu --per_device_train_batch_size 4 --max_eval_samples 4)
fi
part kernels 240 python -m pytest -p no:xdist -o addopts= -v tests/pooling/test_triton_pool.py "${tests[@]}"
for suite in "${suites[@]}"; do
  part "$suite" 130 cp-transformers benchmark --suite "$suite" --device "$device" "${rounds[@]}" \
    --output "$output/benchmark_$suite.csv"
done
cat docs/*.md results/*.md >"$work/text.txt"
part training 120 cp-transformers mlm --config configs/mlm/small.yaml --train_file "$work/text.txt" \
  --vocab_size 4000 --output_dir "$work/run" --save_strategy no --eval_strategy no --logging_steps 20 "${steps[@]}"
cp "$work/run/training.json" "$output" 2>/dev/null || failed+=(training.json)

if [ ${#failed[@]} -gt 0 ]; then
  echo "failed: ${failed[*]}" | tee -a "$output/log.txt"
  exit 1
fi
