"""Builds the wheel: CMake makes the native core, torch is neither imported nor needed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pybind11
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
VERSION = (ROOT / "pyparallel" / "VERSION").read_text().strip()


class CMakeBuild(build_ext):
    """Runs CMake and Ninja in build/cmake and puts `_C` where setuptools expects it."""

    def build_extension(self, ext: Extension) -> None:
        """Configures and builds the one extension there is."""
        target = Path(self.get_ext_fullpath(ext.name)).resolve()
        # "t" of a free-threaded interpreter, whose headers differ.
        python = f"{sys.implementation.cache_tag}{sys.abiflags}"
        build = ROOT / "build" / f"cmake-{sysconfig.get_platform()}-{python}"
        build.mkdir(parents=True, exist_ok=True)
        options = {
            "CMAKE_BUILD_TYPE": "Release",
            "CMAKE_LIBRARY_OUTPUT_DIRECTORY": target.parent,
            "Python_EXECUTABLE": sys.executable,
            "pybind11_DIR": pybind11.get_cmake_dir(),
            "PYPARALLEL_VERSION": VERSION,
            "PYPARALLEL_CUDA": os.environ.get("PYPARALLEL_CUDA", "auto"),
            "PYPARALLEL_CUDA_ARCHS": os.environ.get("PYPARALLEL_CUDA_ARCHS", "90"),
        }
        defines = [f"-D{key}={value}" for key, value in options.items()]
        generator = ["-G", "Ninja"] if shutil.which("ninja") else []
        configure = ["cmake", "-S", str(ROOT), "-B", str(build), *generator, *defines]
        subprocess.run(configure, check=True)
        subprocess.run(["cmake", "--build", str(build), "--target", "_C", "--parallel"], check=True)


setup(
    version=VERSION,
    ext_modules=[Extension("pyparallel._C", [])],
    cmdclass={"build_ext": CMakeBuild},
)
