"""Builds the C++ extension with CMake; everything else is declared in pyproject.toml.

SSLKERNELS_BUILD=none leaves the extension out: CPU tensors are then served by the torch backend.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent.resolve()
WITHOUT = "or install without the CPU kernels: SSLKERNELS_BUILD=none pip install ..."

# What CMake prints, and what to do about it.
CAUSES = {
    "No CMAKE_CXX_COMPILER could be found": "no C++ compiler was found: install g++ or clang++",
    "is not able to compile a simple test program": "the C++ compiler does not work",
    "Could NOT find OpenMP": "the compiler lacks OpenMP: install libgomp (g++) or libomp (clang++)",
    "Could NOT find Python": "Python's headers were not found: install python3-dev",
}


class CMakeBuild(build_ext):
    def build_extension(self, ext: Extension) -> None:
        import pybind11

        target = Path(self.get_ext_fullpath(ext.name)).resolve()
        build = self.folder() / ext.name
        cache = build / "CMakeCache.txt"
        if cache.exists() and f"CMAKE_HOME_DIRECTORY:INTERNAL={ROOT}\n" not in cache.read_text():
            shutil.rmtree(build)  # the tree was copied or moved, and CMake refuses that
        build.mkdir(parents=True, exist_ok=True)
        cmake, ninja = shutil.which("cmake"), shutil.which("ninja")
        if cmake is None or ninja is None:
            fail("cmake or ninja was not found: pip install cmake ninja")
        configure = [
            cmake,
            "-S", str(ROOT),
            "-B", str(build),
            "-G", "Ninja",
            # The folder stays, and with it the paths of a build environment that pip has removed
            # since: every path that a build needs is given anew.
            f"-DCMAKE_MAKE_PROGRAM={ninja}",
            f"-DCMAKE_LIBRARY_OUTPUT_DIRECTORY={target.parent}",
            f"-DPython_EXECUTABLE={sys.executable}",
            f"-Dpybind11_DIR={pybind11.get_cmake_dir()}",
            f"-DCMAKE_BUILD_TYPE={os.environ.get('SSLKERNELS_BUILD_TYPE', 'Release')}",
        ]  # fmt: skip
        log = build / "build.log"
        with log.open("w") as out:
            for command in (configure, [cmake, "--build", str(build)]):
                if subprocess.run(command, stdout=out, stderr=subprocess.STDOUT).returncode:
                    break
            else:
                return
        said = log.read_text(errors="replace")
        errors = [line for line in said.splitlines() if "error" in line.lower()]
        cause = next((cause for words, cause in CAUSES.items() if words in said), None)
        fail(f"{cause or (errors or ['the build failed'])[0].strip()} (all of it: {log})")

    def folder(self) -> Path:
        """Where object files stay, so that the next build compiles what has changed: beside the
        sources, if they can be written to."""
        tag = f"{sys.implementation.cache_tag}-{sys.platform}"
        return ROOT / "build" / tag if os.access(ROOT, os.W_OK) else Path(self.build_temp).resolve()


def fail(reason: str) -> None:
    sys.exit(f"sslkernels: {reason}; {WITHOUT}")


extension = Extension("sslkernels.backends.cpu._C", sources=[])
setup(
    ext_modules=[] if os.environ.get("SSLKERNELS_BUILD") == "none" else [extension],
    cmdclass={"build_ext": CMakeBuild},
)
