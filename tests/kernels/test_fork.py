"""A child forked after a registration in the parent computes, and ends."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="fork is the way of Linux")

_PROGRAM = """
    import multiprocessing, sys
    import torch
    from conftest import GEOMETRIES, blobs
    import itk_pdd

    def job(threads):
        images = [blobs(GEOMETRIES["oblique"], seed=seed).to_simpleitk() for seed in (0, 1)]
        itk_pdd.register(*images, threads=threads)

    if __name__ == "__main__":
        torch.set_num_threads(2)
        job(2)
        child = multiprocessing.get_context("fork").Process(target=job, args=(2,))
        child.start()
        child.join({seconds})
        if child.exitcode is None:
            child.kill()
        sys.exit(child.exitcode)
"""


@pytest.mark.slow
def test_a_forked_child_registers_after_its_parent_did(tmp_path) -> None:
    program = tmp_path / "program.py"
    program.write_text(textwrap.dedent(_PROGRAM.replace("{seconds}", "120")))
    tests = __file__.rsplit("kernels", 1)[0]
    found = subprocess.run([sys.executable, str(program)], env=_environment(tests), capture_output=True, text=True)
    assert found.returncode == 0, found.stderr


def _environment(tests: str) -> dict[str, str]:
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONSAFEPATH"}
    return environment | {"PYTHONPATH": tests}
