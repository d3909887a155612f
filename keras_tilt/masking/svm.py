"""One linear SVM (support vector machine) for each class, in place of the softmax.

    margin_c(x) = w_c . x + b_c      min |w_c|^2 / 2 + C sum max(0, 1 - y margin_c(x))^2

Positive examples are true segments, for stuff those of the deterministic pursuit.
Negative examples are segments with a low measure; after a first fit the hardest ones of
all images are added once.

Source: Girshick et al., "Rich feature hierarchies", CVPR 2014; Dai, He and Sun, CVPR
2015. Vectors are scaled to a mean norm.
"""

__all__ = ["LinearSVMs", "Machines", "answers_of", "fit"]

import typing
from collections.abc import Callable

import numpy as np
from sklearn.svm import LinearSVC
from tqdm import auto as tqdm

from keras_tilt.masking.assignment import Assignment
from keras_tilt.validation import check_seed

MEAN_NORM = 20.0
_TRUE, _LOW = 0.999, 0.3  # IoU or purity of positive and negative examples
_BIAS = 10.0  # the constant that the bias multiplies, so that it is hardly penalized


class LinearSVMs(typing.NamedTuple):
    """One linear function per class of what `Segmenter.embed` returns.

    Attributes:
        kernel: float32 [width, num_classes].
        bias: float32 [num_classes].
    """

    kernel: np.ndarray
    bias: np.ndarray

    def margins(self, vectors: np.ndarray) -> np.ndarray:
        """Return the margins, [..., num_classes], of vectors [..., width]."""
        return vectors @ self.kernel + self.bias


Machines = LinearSVMs  # its first name


def fit(
    embed: Callable[[int], np.ndarray],
    assignment_of: Callable[[int], Assignment],
    number: int,
    *,
    seed: int,
    penalty: float = 1e-3,
    negatives: int = 20,
    hard_negatives: int = 50,
    progress: bool = True,
) -> LinearSVMs:
    """Return linear SVMs, each class against the rest.

    Args:
        embed: function of an image index that returns the vectors of all its segments,
            [segments, width].
        assignment_of: function of an image index that returns their `Assignment`.
        number: number of images.
        seed: integer, of the draw of the first negative examples.
        penalty: C, the weight of margin violations.
        negatives: negative segments per image in the first fit.
        hard_negatives: hard negatives that an image adds to a class, at most.
        progress: whether to show a progress bar.

    Returns:
        svms: `LinearSVMs`; without positive examples of a class its margins are -1,
            without negative ones 1.

    Raises:
        ValueError: no positive example of any class.
    """
    check_seed(seed)
    drawn = []
    for i in tqdm.trange(number, desc="Segments", disable=not progress):
        rng = np.random.default_rng([seed, i])
        drawn.append(_first_examples(embed(i), assignment_of(i), negatives, rng))
    vectors, answers = map(np.concatenate, zip(*drawn, strict=True))
    _check_examples(answers)
    scale = MEAN_NORM / np.linalg.norm(vectors, axis=1).mean()
    examples = [_of_class(vectors, answers[:, c]) for c in range(answers.shape[1])]
    svms = _fitted(examples, scale, penalty, progress)
    for i in tqdm.trange(number, desc="Hard negatives", disable=not progress):
        harder = _hard(embed(i), assignment_of(i), svms, hard_negatives)
        for (_, negative), more in zip(examples, harder, strict=True):
            negative.append(more)
    return _fitted(examples, scale, penalty, progress)


def _first_examples(vectors, assignment, negatives, rng):
    """Return vectors [k, width] and their answers [k, classes], as `answers_of`."""
    answers = answers_of(assignment)
    positive = (answers > 0).any(axis=1)
    chosen = np.zeros(len(vectors), bool)
    chosen[rng.permutation(np.flatnonzero(~positive))[:negatives]] = True
    chosen |= positive
    return vectors[chosen], answers[chosen]


def answers_of(assignment: Assignment) -> np.ndarray:
    """Return what each segment is an example of, int8 [segments, num_classes].

    1 is a positive example of the class, -1 a negative one, 0 neither.

    Args:
        assignment: `Assignment`, with the true objects among its segments.
    """
    pursued = assignment.labels()[:, np.newaxis] == list(assignment.stuff)
    positive = assignment.measures >= _TRUE
    positive[:, assignment.stuff] = pursued
    low = assignment.measures < _LOW
    return positive.astype(np.int8) - (low & ~positive)


def _of_class(vectors, answers):
    """Return the positive and the negative vectors of a class, as lists of arrays."""
    return [vectors[answers > 0]], [vectors[answers < 0]]


def _hard(vectors, assignment, svms, most):
    """Return, for each class, negative vectors inside the margin, the hardest first."""
    against = answers_of(assignment) < 0
    margins = np.where(against, svms.margins(vectors), -np.inf)
    hardest = np.argsort(-margins, axis=0)[:most]
    return [vectors[rows[margins[rows, c] > -1]] for c, rows in enumerate(hardest.T)]


def _fitted(examples, scale, penalty, progress):
    """Return the linear SVMs of the examples of every class."""
    fitted = [
        _fitted_one(np.concatenate(positive), np.concatenate(negative), scale, penalty)
        for positive, negative in tqdm.tqdm(
            examples, desc="Linear SVMs", disable=not progress
        )
    ]
    kernels, biases = zip(*fitted, strict=True)
    return LinearSVMs(
        np.stack(kernels, axis=1).astype(np.float32), np.array(biases, np.float32)
    )


def _fitted_one(positive, negative, scale, penalty):
    """Return (kernel [width], bias)."""
    if not len(positive) or not len(negative):
        return np.zeros(positive.shape[1]), 1.0 if len(positive) else -1.0
    svm = LinearSVC(C=penalty, intercept_scaling=_BIAS, max_iter=10_000, random_state=0)
    answers = np.repeat([1, -1], [len(positive), len(negative)])
    svm.fit(scale * np.concatenate([positive, negative]), answers)
    return scale * svm.coef_[0], svm.intercept_[0]


def _check_examples(answers):
    if not (answers > 0).any():
        raise ValueError(
            "Expected images with an object or pure segments of stuff. Received: none "
            "in any image. Look at the labels, or add proposals."
        )
