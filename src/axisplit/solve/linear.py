"""Rows and columns for HiGHS, minimised for one objective after another.

    minimise       the exact optimum: of the relaxation where that is whole already, else by branch and bound
    limit          keeps an objective at its optimum while the next one is minimised
    reduced costs  d of a column at 0 in an optimal relaxation: raising it to x raises the objective by d x at least.
                   Where d is more than the optimum lies above the relaxation's, the column is 0 in every optimum, and
                   is held there from then on (Wolsey, Integer Programming, section 7.6): later objectives see but the
                   few columns on which the earlier ones do not depend

HiGHS solves with a relative gap of 0, one thread and a fixed seed: the same problem gives the same solution. Other
versions of HiGHS may find another one of equal cost: what decides last has to tell all solutions apart.
"""

from __future__ import annotations

from collections.abc import Iterable

import highspy
import numpy as np

SURE = 1e-6  # reduced costs above it, in units of the largest cost, are no rounding errors


class LinearModel:
    """Rows and columns for HiGHS; columns lie between 0 and 1."""

    def __init__(self) -> None:
        self.columns: dict[tuple[str, ...], int] = {}
        self.integer: list[bool] = []
        self.rows: list[tuple[dict[int, float], float, float]] = []
        self.forbidden: frozenset[int] = frozenset()
        self._settled: set[int] = set()  # columns that are 0 in every optimum of the objectives so far
        self._relaxed: highspy.Highs | None = None
        self._last: tuple[dict[int, float], np.ndarray, float] | None = None  # costs, reduced costs, relaxed objective

    def column(self, key: tuple[str, ...], integer: bool) -> int:
        if key not in self.columns:
            self.columns[key] = len(self.columns)
            self.integer.append(integer)
        return self.columns[key]

    def row(self, terms: dict[int, float], low: float, high: float) -> None:
        self.rows.append((terms, low, high))

    def limit(self, costs: dict[int, float], most: float) -> None:
        """Keep an objective at its optimum, with what is forbidden now, while the next one is minimised. Where it is 0
        its columns are settled: HiGHS has called a row of tiny slack infeasible that is not.
        """
        if self._last is not None and self._last[0] == costs:
            _, reduced, least = self._last
            above = max(0.0, (most - least) / _scale(costs))
            self._settled.update(np.flatnonzero(reduced > above + SURE).tolist())
        if most < 1e-9:
            self._settled.update(i for i, cost in costs.items() if cost > 0)
            return
        scale = max([*costs.values(), 1.0])
        self.row({i: v / scale for i, v in costs.items()}, -np.inf, most / scale + 1e-7)

    def forbid(self, columns: Iterable[int]) -> None:
        """Hold just these columns at 0, and no longer those that an earlier call named."""
        self.forbidden = frozenset(columns)

    def minimise(self, costs: dict[int, float], relax: bool = False) -> tuple[np.ndarray, float, float, bool]:
        """(solution, objective, bound, proved optimal). With `relax`, the relaxation goes first, from where its last
        solution was: whole numbers that solve it solve the problem.
        """
        if relax:
            values, least = self.relax(costs)
            if self._relaxed is not None and self._relaxed.getModelStatus() == highspy.HighsModelStatus.kInfeasible:
                return np.zeros(0), float("inf"), float("inf"), False
            if len(values) and np.all(np.minimum(values, 1.0 - values)[np.array(self.integer, dtype=bool)] < 1e-9):
                return values, least, least, True
        scale = _scale(costs)
        solver = _solver(self._linear_program(costs, True))
        solver.run()
        if solver.getModelStatus() != highspy.HighsModelStatus.kOptimal:
            return np.zeros(0), float("inf"), float("inf"), False
        info = solver.getInfo()
        values = np.array(solver.getSolution().col_value)
        return values, info.objective_function_value * scale, info.mip_dual_bound * scale, True

    def relax(self, costs: dict[int, float]) -> tuple[np.ndarray, float]:
        """(solution, objective) where columns need not be whole numbers: a lower bound; nothing and infinity where even
        that cannot be met.
        """
        if self._relaxed is None or self._relaxed.getNumCol() != len(self.columns):
            self._relaxed = _solver(self._linear_program(costs, False))
        solver = self._relaxed
        for terms, low, high in self.rows[solver.getNumRow() :]:
            solver.addRow(low, high, len(terms), np.array(list(terms), dtype=np.int32), np.array(list(terms.values())))
        self._last = None
        every = np.arange(len(self.columns), dtype=np.int32)
        solver.changeColsCost(len(every), every, self._costs(costs))
        solver.changeColsBounds(len(every), every, np.zeros(len(every)), self._upper())
        solver.run()
        if solver.getModelStatus() != highspy.HighsModelStatus.kOptimal:
            return np.zeros(0), float("inf")
        found, least = solver.getSolution(), solver.getInfo().objective_function_value * _scale(costs)
        self._last = dict(costs), np.array(found.col_dual), least
        return np.array(found.col_value), least

    def _costs(self, costs: dict[int, float]) -> np.ndarray:
        scale = _scale(costs)
        return np.array([costs.get(i, 0.0) / scale for i in range(len(self.columns))])

    def _upper(self) -> np.ndarray:
        found = np.ones(len(self.columns))
        found[[*self.forbidden, *self._settled]] = 0.0
        return found

    def _linear_program(self, costs: dict[int, float], whole: bool) -> highspy.HighsLp:
        """The problem as HiGHS takes it, or its relaxation."""
        lp = highspy.HighsLp()
        lp.num_col_, lp.num_row_ = len(self.columns), len(self.rows)
        lp.col_cost_ = self._costs(costs)
        lp.col_lower_, lp.col_upper_ = np.zeros(lp.num_col_), self._upper()
        lp.row_lower_ = np.array([low for _, low, _ in self.rows])
        lp.row_upper_ = np.array([high for _, _, high in self.rows])
        lp.a_matrix_.format_ = highspy.MatrixFormat.kRowwise
        lp.a_matrix_.start_ = np.cumsum([0] + [len(terms) for terms, _, _ in self.rows])
        lp.a_matrix_.index_ = np.array([i for terms, _, _ in self.rows for i in terms], dtype=np.int32)
        lp.a_matrix_.value_ = np.array([v for terms, _, _ in self.rows for v in terms.values()], dtype=float)
        if whole:
            kinds = highspy.HighsVarType
            lp.integrality_ = [kinds.kInteger if integer else kinds.kContinuous for integer in self.integer]
        return lp


def _scale(costs: dict[int, float]) -> float:
    return max([abs(c) for c in costs.values()] or [1.0]) or 1.0


class _SilentHighs(highspy.Highs):  # type: ignore[misc]
    """Says nothing and calls nobody back: from 1.16 on HiGHS prints who it is when callbacks are enabled, which is
    before anybody can turn its output off.
    """

    def enableCallbacks(self) -> None:
        self.setOptionValue("output_flag", False)


def _solver(lp: highspy.HighsLp) -> highspy.Highs:
    solver = _SilentHighs()
    for name, value in {
        "output_flag": False,
        "mip_rel_gap": 0.0,
        "mip_abs_gap": 1e-9,
        "threads": 1,
        "random_seed": 0,
        "mip_feasibility_tolerance": 1e-9,
        "primal_feasibility_tolerance": 1e-9,
    }.items():
        solver.setOptionValue(name, value)
    solver.passModel(lp)
    return solver
