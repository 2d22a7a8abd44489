"""torch's own tests of its optimizers, of the installed version, with our classes in its table.

They are not part of this project: PYPARALLEL_UPSTREAM_TESTS names torch's `test/test_optim.py`, or
the folder it lies in (with `optim/` beside it), at the commit of torch.version.git_version.
"""

from __future__ import annotations

import copy
import functools
import importlib.util
import os
import sys
import unittest
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

import pyparallel.optim

VARIABLE = "PYPARALLEL_UPSTREAM_TESTS"
# A part of an upstream test's name -> why it cannot hold for ours. What is sparse, complex or
# differentiable needs no entry: in the changed table below no class of ours has such cases.
SKIPPED = {
    "contiguous_False": "parameters with gaps in memory are refused by name",
    "test_errors_Adam": "run by test_torch_inputs.py, which lists the errors that are none here",
    "test_fused_error_on_params_on_meta": "meta parameters are refused, in other words",
}


def upstream_file() -> Path | None:
    """The file that the variable names, if there is one."""
    given = os.environ.get(VARIABLE)
    if not given:
        return None
    path = Path(given)
    return path / "test_optim.py" if path.is_dir() else path


@contextmanager
def ours_in_the_table() -> Iterator[list[Any]]:
    """torch's table with our classes where we have one of that name, and without the others."""
    from torch.testing._internal import common_optimizers

    kept = list(common_optimizers.optim_db)
    ours = []
    for info in kept:
        cls = getattr(pyparallel.optim, info.name, None)
        if cls is not None:
            info = copy.copy(info)
            info.optim_cls = cls
            info.supported_impls = tuple(i for i in info.supported_impls if i != "differentiable")
            info.supports_sparse = info.supports_complex = False
            ours.append(info)
    common_optimizers.optim_db[:] = ours
    try:
        yield ours
    finally:
        common_optimizers.optim_db[:] = kept


def load(path: Path) -> ModuleType:
    """The upstream module, whose tests are made for the table as it stands at import."""
    spec = importlib.util.spec_from_file_location("upstream_test_optim", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, spec.name, module)
        patch.syspath_prepend(path.parent)  # upstream imports `optim.test_...` from there
        spec.loader.exec_module(module)
    return module


def reason_to_skip(name: str) -> str | None:
    return next((why for part, why in SKIPPED.items() if part in name), None)


def cases_of(module: ModuleType) -> dict[str, type[unittest.TestCase]]:
    """The CPU's test classes of a module, those that cannot hold marked as skipped."""
    found = {}
    for name, value in vars(module).items():
        if not (isinstance(value, type) and issubclass(value, unittest.TestCase)):
            continue
        if value.__module__ != module.__name__ or name.endswith(("CUDA", "MPS", "XPU")):
            continue
        for test in unittest.defaultTestLoader.getTestCaseNames(value):
            why = reason_to_skip(test)
            if why is not None:
                setattr(value, test, unittest.skip(why)(functools.partial(getattr(value, test))))
        found[name] = value
    return found


def run(path: Path) -> unittest.TestResult:
    """Runs an upstream file; classes are run by unittest, since torch makes them for it."""
    with ours_in_the_table():
        classes = cases_of(load(path))
    loader = unittest.defaultTestLoader
    result = unittest.TestResult()
    unittest.TestSuite(loader.loadTestsFromTestCase(cls) for cls in classes.values()).run(result)
    return result


def test_upstream_tests_pass_with_our_classes():
    path = upstream_file()
    if path is None:
        pytest.skip(f"set {VARIABLE} to torch's test_optim.py of {torch.version.git_version}")
    pytest.importorskip("expecttest", reason="torch's tests need it")
    result = run(path)
    wrong = [f"{test.id()}\n{text}" for test, text in result.failures + result.errors]
    assert not wrong, "\n\n".join([f"{len(wrong)} of {result.testsRun} failed", *wrong])
    assert result.testsRun > len(result.skipped), f"all {result.testsRun} tests were skipped"
    seen = {test.id().rsplit(".", 1)[1] for test, _ in result.skipped}
    unused = [part for part in SKIPPED if not any(part in name for name in seen)]
    assert not unused, f"nothing upstream is called {unused}: take them out of SKIPPED"


STAND_IN = """
import torch
from torch.testing._internal.common_device_type import instantiate_device_type_tests
from torch.testing._internal.common_optimizers import optim_db, optims
from torch.testing._internal.common_utils import TestCase, parametrize

class TestStandIn(TestCase):
    @optims(optim_db, dtypes=[torch.float32])
    def test_moves(self, device, dtype, optim_info):
        self.assertIn("pyparallel", optim_info.optim_cls.__module__)
        param = torch.ones(2, 2, dtype=dtype, device=device, requires_grad=True)
        param.grad = torch.ones_like(param)
        optim_info.optim_cls([param], lr=0.5).step()
        self.assertLess(param.max().item(), 1.0)

    @parametrize("contiguous", [True, False])
    @optims(optim_db, dtypes=[torch.float32])
    def test_layouts(self, device, dtype, optim_info, contiguous):
        self.assertTrue(contiguous)

    @optims([info for info in optim_db if info.supports_complex or info.supports_sparse])
    def test_refused(self, device, dtype, optim_info):
        self.fail("is not made for our classes")

    def test_wrong(self, device):
        self.fail("as it should")

instantiate_device_type_tests(TestStandIn, globals(), only_for="cpu")
"""


def test_the_harness_runs_ours_skips_by_name_and_reports_failures(tmp_path):
    pytest.importorskip("expecttest", reason="torch's tests need it")
    from torch.testing._internal import common_optimizers

    before = [info.optim_cls for info in common_optimizers.optim_db]
    (tmp_path / "test_optim.py").write_text(STAND_IN)
    result = run(tmp_path / "test_optim.py")
    assert [info.optim_cls for info in common_optimizers.optim_db] == before
    number = sum(hasattr(pyparallel.optim, cls.__name__) for cls in before)
    assert result.testsRun == 3 * number + 1
    assert len(result.skipped) == number
    assert [test.id().rsplit(".", 1)[1] for test, _ in result.failures] == ["test_wrong_cpu"]
    assert not result.errors
