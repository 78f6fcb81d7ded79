"""Derives the coefficients in csrc/kernels/exp_log.h, with their error bounds. Needs mpmath; nothing in the product uses it.

exp(r) = 1 + r q(r), q(r) = 1 + r p(r), on [-ln2/2, ln2/2], error relative to exp(r). That q(0) is 1 costs nothing; a constant
that is fitted last, and then rounded to 1, leaves an error that the other coefficients, rounded by then, cannot take up.
log(1 + f) = 2 s + s z l(z), s = f / (2 + f), z = s^2, for 1 + f in [sqrt(1/2), sqrt(2)], error relative to log(1 + f).

Each polynomial is minimax (Remez); then the coefficients are rounded to the working precision one by one, from the highest
power down, and those below are fitted again after each rounding.
"""

from collections.abc import Callable

from mpmath import chop, cos, exp, linspace, log, lu_solve, matrix, mp, mpf, pi, sqrt

mp.dps = 60


def remez(g: Callable, weight: Callable, a: mpf, b: mpf, count: int, fixed: list[mpf]) -> tuple[list[mpf], mpf]:
    """Coefficients of the polynomial closest to g, lowest power first; those of the highest powers are given by `fixed`."""
    free = count - len(fixed)

    def rest(x: mpf) -> mpf:
        return g(x) - sum(c * x ** (free + k) for k, c in enumerate(fixed))

    points = [(a + b) / 2 + (b - a) / 2 * cos(pi * (2 * k + 1) / (2 * (free + 1))) for k in range(free + 1)][::-1]
    for _ in range(12):
        rows = matrix(free + 1, free + 1)
        right = matrix(free + 1, 1)
        for i, x in enumerate(points):
            for k in range(free):
                rows[i, k] = x**k
            rows[i, free] = (-1) ** i / weight(x)
            right[i] = rest(x)
        solution = lu_solve(rows, right)
        low = [solution[k] for k in range(free)]

        def error(x: mpf, low: list[mpf] = low) -> mpf:
            return (sum(c * x**k for k, c in enumerate(low)) - rest(x)) * weight(x)

        grid = linspace(a, b, 600)
        values = [error(x) for x in grid]
        extrema: list[tuple[mpf, mpf]] = []
        for x, e in zip(grid, values, strict=True):
            if extrema and (e > 0) == (extrema[-1][1] > 0):
                if abs(e) > abs(extrema[-1][1]):
                    extrema[-1] = (x, e)
            else:
                extrema.append((x, e))
        while len(extrema) > free + 1:
            extrema.pop(0 if abs(extrema[0][1]) < abs(extrema[-1][1]) else -1)
        if len(extrema) < free + 1:
            break
        points = [x for x, _ in extrema]
    return low + fixed, max(abs(e) for e in values)


def rounded(c: mpf, bits: int) -> mpf:
    scale = mpf(2) ** (bits - 1 - mp.floor(log(abs(c), 2)))
    return mp.nint(c * scale) / scale


def derive(name: str, g: Callable, weight: Callable, a: mpf, b: mpf, count: int, bits: int) -> None:
    fixed: list[mpf] = []
    for k in range(count - 1, -1, -1):
        coefficients, _ = remez(g, weight, a, b, count, fixed)
        fixed.insert(0, rounded(coefficients[k], bits))
    worst = max(
        abs((sum(c * x**k for k, c in enumerate(fixed)) - g(x)) * weight(x)) for x in linspace(a, b, 4001) if x != 0
    )
    print(f"{name}: error {float(worst * mpf(2) ** bits):.3f} x 2^-{bits}")
    for k, c in enumerate(fixed):
        print(f"    {float(c).hex():28s} power {k}")


def main() -> None:
    half = log(2) / 2

    def exp_rest(r: mpf) -> mpf:
        return (exp(r) - 1 - r) / r**2 if chop(r) else mpf(1) / 2

    for degree, bits in ((6, 24), (11, 53)):
        derive(
            f"exp, degree {degree}: p",
            exp_rest,
            lambda r: max(r**2, mpf("1e-30")) / exp(r),
            -half,
            half,
            degree - 1,
            bits,
        )

    s_end = (sqrt(mpf(2)) - 1) / (sqrt(mpf(2)) + 1)

    def log_rest(z: mpf) -> mpf:
        s = sqrt(z)
        return (log((1 + s) / (1 - s)) - 2 * s) / (s * z) if z > mpf("1e-12") else mpf(2) / 3 + z * 2 / 5

    derive("log", log_rest, lambda z: z / 2, mpf(0), s_end**2, 7, 53)


if __name__ == "__main__":
    main()
