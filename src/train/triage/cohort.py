"""The rated nodules for fitting the triage score, and its cross-validation by patient."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import expit

from ...triage.model import Array, features
from .lidc import RatedNodule
from .statistics import Labels, fit_logistic, folds_by_group

__all__ = ["FOLDS", "HALF", "MANY", "SEED", "UNDECIDED", "Cohort"]

FOLDS, SEED = 10, 20261124
UNDECIDED = 3  # the middle of the ratings 1 to 5
HALF = 0.5  # of the readers of a nodule
MANY = 3  # readers; their median is more reliable than one rating


@dataclass(frozen=True, eq=False)
class Cohort:
    """Nodules with a clear rating: rows (n, 4) of `features`, labels, patients, and each one's fold."""

    nodules: list[RatedNodule]
    rows: Array
    labels: Labels
    patients: npt.NDArray[np.str_]
    folds: npt.NDArray[np.int64]

    @classmethod
    def of(cls, nodules: list[RatedNodule]) -> "Cohort":
        """The cohort of these nodules. None may be rated 3."""
        patients = np.array([nodule.patient for nodule in nodules])
        means = [[nodule.mean(measure) for nodule in nodules] for measure in ("long_axis", "short_axis", "calcified")]
        labels = np.array([nodule.malignancy for nodule in nodules]) > UNDECIDED
        return cls(nodules, features(*means), labels, patients, folds_by_group(patients, FOLDS, SEED))

    def cross_validated(self, columns: list[int] | None = None, seen: Array | None = None) -> Array:
        """Every nodule's score, by weights fitted on the other folds, from the given columns of the rows.

        If `seen` is given, these rows are scored in place of the fitted ones.
        """
        columns = [0, 1, 2, 3] if columns is None else columns
        odds = np.empty(len(self.labels))
        for fold in range(FOLDS):
            here = self.folds == fold
            weights = fit_logistic(self.rows[~here][:, columns], self.labels[~here])
            odds[here] = (self.rows if seen is None else seen)[here][:, columns] @ weights
        return np.asarray(expit(odds))

    def weights_without(self, patient: str) -> Array:
        """The weights fitted on all other patients."""
        others = self.patients != patient
        return fit_logistic(self.rows[others], self.labels[others])

    def counts(self) -> dict[str, int]:
        """The number of nodules, in total and by kind."""
        readers = [len(nodule.outlines) for nodule in self.nodules]
        return {
            "nodules": len(self.nodules),
            "suspicious": int(self.labels.sum()),
            "patients": len(set(self.patients)),
            "with_3_readers_or_more": sum(count >= MANY for count in readers),
            "calcified_by_half_of_readers": int((self.rows[:, 2] >= HALF).sum()),
        }
