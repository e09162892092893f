#!/usr/bin/env bash
# Run on a machine with an NVIDIA GPU: bash benchmarks/gpu.sh OUT [tests | speed]. Writes what ran, and on what, into the
# folder OUT. Wants cupy, torch, jax (their CUDA builds), array-api-compat, array-api-strict, pytest, and MNIST in
# data/mnist; optax for JAX's side of the speed, mpi4py and an MPI for the tests of ranks.
set -u
cd "$(dirname "$0")/.."
out=${1:?usage: bash benchmarks/gpu.sh OUT [tests | speed]}
part=${2:-all}
mkdir -p "$out"
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1 XLA_PYTHON_CLIENT_PREALLOCATE=false
status=0

nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv | tee "$out/device.txt"
python3 -m portnn info | tee -a "$out/device.txt"

if [ "$part" != speed ]; then
    echo "== agreement"
    device=$(nvidia-smi --query-gpu=name --format=csv,noheader | head -n 1 | tr ' /' '--' | tr '[:upper:]' '[:lower:]')
    timeout 400 python3 tests/agreement.py --markdown "$out/agreement-$device.md" || status=1

    for backend in cupy torch-cuda jax-cuda; do
        echo "== tests on $backend"
        timeout 150 python3 -m pytest -q -p no:cacheprovider --backend "$backend" tests 2>&1 |
            tee "$out/tests-$backend.log" | tail -n 25
        [ "${PIPESTATUS[0]}" -eq 0 ] || status=1
    done
    for run in "cupy -" "torch cuda" "jax gpu"; do
        read -r backend device <<<"$run"
        options=(--backend "$backend" --dataset mnist --quiet --report "$out/mnist-$backend.json")
        [ "$device" = - ] || options+=(--device "$device")
        echo "== MNIST on $backend"
        timeout 60 python3 examples/mnist.py "${options[@]}" || status=1
    done
    python3 - "$out" <<'P'
import json, pathlib, statistics, sys
for path in sorted(pathlib.Path(sys.argv[1]).glob("mnist-*.json")):
    r = json.loads(path.read_text())
    print(path.stem, r["device"], f"test accuracy {100 * r['test_accuracy']:.2f} %",
          f"median {statistics.median(r['epoch_seconds']):.3f} s per epoch")
P
fi
if [ "$part" != tests ]; then
    echo "== speed"
    timeout 580 python3 benchmarks/speed.py --device cuda --rounds 5 --out "$out" || status=1
fi
exit $status
