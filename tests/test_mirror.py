"""One concept, one name: what stands in the sources has its test under the same name."""

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
KERNELS = sorted(path.stem for path in (ROOT / "csrc/kernels").glob("*.hpp"))
MODULES = sorted(
    path.relative_to(ROOT / "pyparallel")
    for path in (ROOT / "pyparallel").rglob("*.py")
    if path.name not in ("__init__.py", "__main__.py")
)
# Tested through others: the protocol has no code, the CLI's parts are tested as commands.
THROUGH_OTHERS = {
    "_native.py": "test_packaging.py",
    "comm/communicator.py": "comm/test_shm.py",
    "comm/compression/state.py": "comm/compression/test_compressor.py",
    "comm/_colors.py": "comm/test_split.py",
    "comm/links.py": "comm/test_watch.py",
    "comm/hierarchical/between.py": "comm/hierarchical/test_host_failures.py",
    "comm/hierarchical/communicator.py": "comm/hierarchical/test_host_moves.py",
    "comm/hierarchical/failures.py": "comm/hierarchical/test_host_failures.py",
    "comm/hierarchical/join.py": "comm/hierarchical/test_host_failures.py",
    "comm/hierarchical/lane.py": "comm/hierarchical/test_host_moves.py",
    "comm/hierarchical/messages.py": "comm/hierarchical/test_host_messages.py",
    "comm/hierarchical/moves.py": "comm/hierarchical/test_host_moves.py",
    "comm/hierarchical/own_work.py": "comm/hierarchical/test_host_messages.py",
    "comm/hierarchical/receives.py": "comm/hierarchical/test_host_messages.py",
    "comm/hierarchical/sums.py": "comm/hierarchical/test_host_sums.py",
    "comm/_shm_work.py": "comm/test_shm.py",
    "comm/backend/dispatch.py": "comm/backend/test_accelerator.py",
    "comm/backend/identity.py": "comm/backend/test_process_group.py",
    "comm/backend/options.py": "comm/backend/test_reductions.py",
    "comm/backend/registration.py": "comm/backend/test_process_group.py",
    "comm/_nccl_library.py": "comm/test_nccl.py",
    "comm/_nccl_members.py": "comm/test_nccl.py",
    "comm/_nccl_work.py": "comm/test_nccl.py",
    "memory/block.py": "memory/test_pool.py",
    "memory/statistics.py": "memory/test_pool.py",
    "memory/plug.py": "memory/test_numpy_plug.py",
    "optim/_base.py": "optim/test_state.py",
    "optim/_checkpoint.py": "optim/test_checkpoints.py",
    "optim/_batch.py": "optim/test_layouts.py",
    "optim/_checks.py": "optim/test_bad_input.py",
    "optim/_moments.py": "optim/test_checkpoints.py",
    "optim/_norm.py": "optim/test_contracts.py",
    "optim/_options.py": "optim/test_bad_input.py",
    "optim/_state.py": "optim/test_state.py",
    "optim/adagrad.py": "optim/test_family.py",
    "optim/lion.py": "optim/test_family.py",
    "optim/rmsprop.py": "optim/test_family.py",
    "optim/sgd.py": "optim/test_family.py",
    "memory/_restricted_pickle.py": "memory/test_snapshots.py",
    "cli/arguments.py": "cli/test_run.py",
    "cli/peers.py": "cli/test_bench_optim.py",
    "cli/machine.py": "cli/test_run.py",
    "cli/env.py": "cli/test_commands.py",
}


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_kernel_has_both_loops_and_a_test(kernel: str) -> None:
    for path in (
        f"csrc/kernels/{kernel}.cpp",
        f"csrc/kernels/{kernel}.cu",
        f"tests/csrc/kernels/{kernel}_test.cpp",
        f"tests/gpu/test_{kernel}_gpu.py",
    ):
        assert (ROOT / path).is_file(), path


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_a_module_has_a_test_of_its_name(module: Path) -> None:
    own = module.with_name(f"test_{module.stem.lstrip('_')}.py")
    path = ROOT / "tests" / THROUGH_OTHERS.get(str(module), own)
    assert path.is_file(), f"{module} has no {path.relative_to(ROOT)}"


def test_no_exception_is_kept_for_what_is_gone() -> None:
    assert set(THROUGH_OTHERS) <= {str(module) for module in MODULES}
