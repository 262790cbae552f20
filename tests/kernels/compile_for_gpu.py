"""Compile the Triton kernels for GPUs, which takes none; exit code 77 where Triton cannot.

    python tests/kernels/compile_for_gpu.py [compute capability, such as 80 or 90]

Beside what the compiler itself finds wrong, a population count that it does not recognise and signals between programs
without an order of memory are errors.
"""

from __future__ import annotations

import sys

# Types of the arguments by name; integers of 32 bits where nothing is said.
TYPES = {
    **dict.fromkeys(("mask", "allowed"), "*i1"),
    **dict.fromkeys(("by_depth", "parent", "starts", "children", "ready", "done", "ticket", "low", "high"), "*i32"),
    **dict.fromkeys(("fixed", "moving"), "*i64"),
    **dict.fromkeys(("base", "scales", "out", "offset", "energy", "message", "scratch", "outer", "inner"), "*fp32"),
    **dict.fromkeys(("costs", "vectors", "sums", "log_partition", "samples", "weight"), "*fp32"),
    **dict.fromkeys(("source", "added", "weights"), "*fp32"),
    **dict.fromkeys(("alpha", "weight_outer", "weight_inner", "temperature", "scale", "factor"), "fp32"),
}
# Where a name means something else.
OTHERS = {"_costs": {"moving": "*fp32"}, "_stencil": {"inner": "i32"}}


def compiled(function, constants, capability, warps):
    """A kernel with the arguments that the package calls it with: aligned arrays, integers of 32 bits."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    types = TYPES | OTHERS.get(function.__name__, {})
    signature = {n: "constexpr" if n in constants else types.get(n, "i32") for n in function.arg_names}
    aligned = {(i,): [["tt.divisibility", 16]] for i, t in enumerate(signature.values()) if t.startswith("*")}
    source = ASTSource(function, signature, constants, aligned)
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options={"num_warps": warps})


def main(capability: int) -> int:
    from itk_pdd.kernels.control_grid import cuda as control_grid
    from itk_pdd.kernels.costs import cuda as costs
    from itk_pdd.kernels.hamming import cuda as hamming
    from itk_pdd.kernels.moments import cuda as moments
    from itk_pdd.kernels.regularisation import cuda as regularisation
    from itk_pdd.kernels.tree import cuda as tree

    cases = [
        (control_grid._compose, {"BLOCK": 256}, 4),
        (moments._moments, {"BLOCK": 1024}, 4),
        (costs._costs, {"BLOCK": 1024}, 4),
    ]
    for minimum, add, wide in ((True, True, False), (True, False, True), (False, False, False)):
        cases.append((regularisation._stencil, {"MINIMUM": minimum, "ADD": add, "WIDE": wide, "BLOCK": 1024}, 4))
    for flags, lanes, warps in (((False, False, False), 512, 4), ((True, True, True), 128, 1)):
        constants = dict(zip(("HAS_BASE", "HAS_MASK", "HAS_ALLOWED"), flags, strict=True), BLOCK=lanes)
        cases.append((hamming._hamming, constants, warps))
    for counts, lanes, warps in (((15, 15, 15), 4096, 8), ((7, 7, 7), 512, 4), ((17, 17, 17), 4096, 8)):
        constants = dict(zip("ZYX", counts, strict=True), BLOCK=lanes)
        cases += [(tree._upward, constants, warps), (tree._downward, constants, warps)]
    wrong = 0
    for function, constants, warps in cases:
        ptx = compiled(function, constants, capability, warps).asm["ptx"]
        name = f"{function.__name__} {constants}"
        print(f"{name}: {len(ptx.splitlines())} lines, {ptx.count('popc')} popc, {ptx.count('bar.sync')} barriers")
        faults = []
        if function is hamming._hamming:
            faults.append("popc" not in ptx and "the population count is not recognised")
        if function in (tree._upward, tree._downward):
            faults.append("acquire" not in ptx.replace("acq_rel", "") and "nothing acquires")
            faults.append("release" not in ptx and "nothing releases")
        for fault in filter(None, faults):
            print(f"{name}: {fault}")
            wrong += 1
    return min(wrong, 1)


if __name__ == "__main__":
    try:
        import triton.compiler  # noqa: F401
        from triton.backends.nvidia import compiler  # noqa: F401
    except ImportError as error:
        print(f"triton cannot compile here: {error}")
        sys.exit(77)
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 80))
