#!/usr/bin/env bash
# Checks a checkout on a machine with a GPU in one call and without network: builds, tests, measures, prints a table.
#
# usage: scripts/gpu_check.sh OUTPUT_FOLDER [memory | nccl | kernels | benchmarks]...
#
# All four by default. Needs on the machine: nvcc, and a Python with a CUDA build of torch, pip, setuptools, pybind11, cmake,
# ninja, numpy, rich, pytest, hypothesis and psutil; CuPy and RMM are used where they are there. Logs and benchmark results
# (JSON) go to OUTPUT_FOLDER; nothing is written to the checkout but build/.
# Environment: PYTHON (default python3), PYPARALLEL_CUDA_ARCHS (default: that of the first device), SECONDS_AT_MOST (default
# 570: what is not done by then is stopped, and the table says so).
set -euo pipefail

parts=" ${*:2} "
[[ $# -gt 1 ]] || parts=" memory nccl kernels benchmarks "
for part in ${parts}; do
  case $part in memory | nccl | kernels | benchmarks) ;; *) set -- ;; esac
done
if [[ $# -eq 0 ]]; then
  echo "usage: $0 OUTPUT_FOLDER [memory | nccl | kernels | benchmarks]..." >&2
  exit 2
fi
mkdir -p "$1"
output=$(cd "$1" && pwd)
seconds_at_most=${SECONDS_AT_MOST:-570}
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python=${PYTHON:-python3}
PATH=$(dirname "$(command -v "$python")"):$PATH  # cmake and ninja may lie beside it
work=$(mktemp -d)
table=()
failures=0

# The last that is printed, however it ends.
finish() {
  echo
  printf '%s\n' "${table[@]}"
  rm -rf "$work"
}
trap finish EXIT

# stage NAME LOG COMMAND...: runs the command, appends its output to LOG, notes how it ended.
stage() {
  local name=$1 log=$output/$2 begin=$SECONDS result=ok
  shift 2
  echo "== $name"
  echo "== $name: $*" >>"$log"
  if ! ("$@") 2>&1 | tee "$work/stage.log" >>"$log"; then
    result=FAILED
    ((SECONDS < seconds_at_most)) || result=LATE
    failures=$((failures + 1))
    tail -n 60 "$work/stage.log"
  fi
  table+=("$(printf '%-22s %-6s %5d s  %s' "$name" "$result" $((SECONDS - begin)) \
    "$(tail -n 1 "$work/stage.log" | cut -c 1-80)")")
  [[ $result == ok ]]
}

wanted() {
  [[ $parts == *" $1 "* ]]
}

# A virtual environment that sees the packages of $python, also where $python belongs to a virtual environment itself.
make_environment() {
  "$python" -m venv --without-pip --system-site-packages "$work/venv" &&
    "$python" -c 'import site; print("\n".join(site.getsitepackages()))' >"$work/parent" &&
    cp "$work/parent" "$(in_venv -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/parent.pth" &&
    in_venv -c 'import hypothesis, numpy, psutil, pybind11, pytest, rich, setuptools' &&
    in_venv -c 'import torch; print("torch", torch.__version__, "on", torch.cuda.get_device_name(0))'
}

# With what it started, until the time is over.
in_venv() {
  local left=$((seconds_at_most - SECONDS))
  timeout --kill-after=5 $((left > 1 ? left : 1)) "$work/venv/bin/python" "$@"
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
  in_venv -P -m pytest -q -p no:cacheprovider "$@"
}

benchmark() {
  mkdir -p "$work/run" && ln -sfn "$root/benchmarks" "$work/run/benchmarks" && cd "$work/run" &&
    in_venv -m "benchmarks.$1" --device cuda --json "$output"
}

rm -f "$output"/{build,tests,benchmarks}.log
if stage environment build.log make_environment && stage install build.log install_package; then
  memory=("$root"/tests/gpu/test_{memory,prefetch}*.py)
  nccl=("$root"/tests/gpu/test_nccl*.py)
  if wanted memory; then
    stage tests.memory tests.log run_tests -s "${memory[@]}" || true
    table+=("$(grep -ho 'median hits: .*' "$work/stage.log" || echo 'median hits: not measured')")
  fi
  if wanted nccl; then stage tests.nccl tests.log run_tests "${nccl[@]}" || true; fi
  if wanted kernels; then
    others=("${memory[@]}" "${nccl[@]}")
    stage tests.kernels tests.log run_tests "$root/tests/gpu" "${others[@]/#/--ignore=}" || true
  fi
  if wanted benchmarks; then
    for name in adamw adamw_small adamw_bf16 adamw_bf16_states adamw_amp sgd adagrad; do
      if stage "benchmarks.$name" benchmarks.log benchmark "$name"; then cat "$work/stage.log"; fi
    done
  fi
fi
exit $((failures > 0))
