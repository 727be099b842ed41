"""Signs of eigenvalues and ranks of matrices of balls: part of the checker."""

from __future__ import annotations

from semiflat.certificates.checker.arithmetic import arb, arb_mat


def congruent_signs(A: arb_mat, Q: arb_mat) -> tuple[arb_mat, list[int], arb]:
    """``B = QᵀAQ``, the signs S of its diagonal, and the largest row sum of |B − S|.

    Where the latter is below 1, every symmetric matrix in A has the inertia of S: each Gershgorin disk
    of B keeps to one side of 0, and Q is nonsingular because B is (Sylvester's law of inertia).
    """
    B = Q.transpose() * A * Q
    rows = B.tolist()
    signs = [1 if row[i].mid() > 0 else -1 for i, row in enumerate(rows)]
    for i, sign in enumerate(signs):
        rows[i][i] -= sign
    sums = [sum((abs(entry) for entry in row), arb(0)).upper() for row in rows]
    # max() passes over a NaN that does not stand first.
    finite = all(each.is_finite() for each in sums)
    return B, signs, max(sums, default=arb(0)) if finite else arb("inf")


def rank_at_least(A: arb_mat) -> int:
    """Steps that elimination with pivots certainly not 0 can take: a lower bound of every rank in A."""
    rows, rank = A.tolist(), 0
    while rows and rows[0]:
        places = [(i, j) for i in range(len(rows)) for j in range(len(rows[0]))]
        i, j = max(places, key=lambda at: rows[at[0]][at[1]].abs_lower())
        pivot = rows.pop(i)
        if not abs(pivot[j]) > 0:
            break
        rank += 1
        rows = [
            [
                a - b * row[j] / pivot[j]
                for k, (a, b) in enumerate(zip(row, pivot, strict=True))
                if k != j
            ]
            for row in rows
        ]
    return rank
