#!/usr/bin/env bash
# Checks a checkout on a machine with a GPU in one call and without network: builds, tests, measures, prints a table.
#
# usage: scripts/gpu_check.sh OUTPUT_FOLDER
#
# Needs on the machine: nvcc, and a Python with a CUDA build of torch, pip, setuptools, pybind11, cmake, ninja, numpy, rich
# and pytest. Logs and benchmark results (JSON) go to OUTPUT_FOLDER; nothing is written to the checkout but build/.
# Environment: PYTHON (default python3), PYPARALLEL_CUDA_ARCHS (default: that of the first device).
set -euo pipefail

if [[ $# -ne 1 ]]; then
  echo "usage: $0 OUTPUT_FOLDER" >&2
  exit 2
fi
mkdir -p "$1"
output=$(cd "$1" && pwd)
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python=${PYTHON:-python3}
PATH=$(dirname "$(command -v "$python")"):$PATH  # cmake and ninja may lie beside it
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
table=()
failures=0

# stage NAME LOG COMMAND...: runs the command, appends its output to LOG, notes how it ended.
stage() {
  local name=$1 log=$output/$2 begin=$SECONDS result=ok
  shift 2
  echo "== $name"
  if ! ("$@") >"$work/stage.log" 2>&1; then
    result=FAILED
    failures=$((failures + 1))
    tail -n 60 "$work/stage.log"
  fi
  { echo "== $name: $*" && cat "$work/stage.log"; } >>"$log"
  table+=("$(printf '%-22s %-6s %5d s  %s' "$name" "$result" $((SECONDS - begin)) \
    "$(tail -n 1 "$work/stage.log" | cut -c 1-80)")")
  [[ $result == ok ]]
}

# A virtual environment that sees the packages of $python, also where $python belongs to a virtual environment itself.
make_environment() {
  "$python" -m venv --without-pip --system-site-packages "$work/venv" &&
    "$python" -c 'import site; print("\n".join(site.getsitepackages()))' >"$work/parent" &&
    cp "$work/parent" "$(in_venv -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/parent.pth" &&
    in_venv -c 'import torch; print("torch", torch.__version__, "on", torch.cuda.get_device_name(0))'
}

in_venv() {
  "$work/venv/bin/python" "$@"
}

install_package() {
  local archs=${PYPARALLEL_CUDA_ARCHS:-}
  if [[ -z $archs ]]; then
    archs=$(in_venv -c 'import torch; print("%d%d" % torch.cuda.get_device_capability(0))') || return
  fi
  PYPARALLEL_CUDA=1 PYPARALLEL_CUDA_ARCHS=$archs \
    in_venv -m pip install --no-index --no-build-isolation --no-deps -v "$root"
}

# The checkout's own pyparallel/ must not hide the installed one: -P here, a folder without it for the benchmarks.
run_tests() {
  in_venv -P -m pytest "$root/tests/gpu" -q -p no:cacheprovider
}

benchmark() {
  mkdir -p "$work/run" && ln -sfn "$root/benchmarks" "$work/run/benchmarks" && cd "$work/run" &&
    in_venv -m "benchmarks.$1" --device cuda --json "$output"
}

rm -f "$output"/{build,tests,benchmarks}.log
if stage environment build.log make_environment && stage install build.log install_package; then
  stage tests tests.log run_tests || true
  for name in adamw adamw_small adamw_bf16 adamw_bf16_states adamw_amp sgd adagrad; do
    if stage "benchmarks.$name" benchmarks.log benchmark "$name"; then cat "$work/stage.log"; fi
  done
fi

echo
printf '%s\n' "${table[@]}"
exit $((failures > 0))
