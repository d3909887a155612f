"""One linear SVM (support vector machine) for each class, in place of the softmax.

    margin_c(x) = w_c . x + b_c      min |w_c|^2 / 2 + C sum max(0, 1 - y margin_c(x))^2

Positive examples are true segments, of stuff those of the deterministic pursuit.
Negative ones are segments that are little of the class; after a first fit, those that
come nearest, of all images, are added once.

Source: Girshick et al., "Rich feature hierarchies", CVPR 2014; Dai, He and
Sun, CVPR 2015. Vectors are scaled to a mean norm.
"""

__all__ = ["LinearSVMs", "Machines", "answers_of", "fit"]

import typing

import numpy as np
from sklearn.svm import LinearSVC
from tqdm import auto as tqdm

MEAN_NORM = 20.0
_TRUE, _LITTLE = 0.999, 0.3  # IoU or purity of positive and negative examples
_BIAS = 10.0  # of the constant that the bias multiplies, so that it is hardly penalized


class LinearSVMs(typing.NamedTuple):
    """Linear functions of what a `Segmenter` embeds, one for each class.

    Attributes:
        kernel: float32 [width, num_classes].
        bias: float32 [num_classes].
    """

    kernel: np.ndarray
    bias: np.ndarray

    def margins(self, vectors):
        """Return the margins, [..., num_classes], of vectors [..., width]."""
        return vectors @ self.kernel + self.bias


Machines = LinearSVMs  # its first name


def fit(
    embed,
    assignment_of,
    number,
    *,
    seed,
    penalty=1e-3,
    negatives=20,
    hard_negatives=50,
    progress=True,
):
    """Return linear SVMs that tell each class from the rest.

    Args:
        embed: function of the number of an image that returns the vectors of all its
            segments, [segments, width].
        assignment_of: function of that number that returns their `Assignment`.
        number: how many images there are.
        seed: integer; it settles the first negative segments.
        penalty: C, of violations of the margin.
        negatives: segments of every image to begin with.
        hard_negatives: most that an image adds to a class.
        progress: whether to show a progress bar.

    Returns:
        svms: `LinearSVMs`; margins of a class without an example are -1, of one
            with none against it 1.

    Raises:
        ValueError: if there is no example of any class.
    """
    vectors, answers = [], []
    for i in tqdm.trange(number, desc="Segments", disable=not progress):
        rng = np.random.default_rng([seed, i])
        some, found = _first_examples(embed(i), assignment_of(i), negatives, rng)
        vectors.append(some)
        answers.append(found)
    vectors, answers = np.concatenate(vectors), np.concatenate(answers)
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
    """Return vectors [k, width] and their answers: 1, -1, or 0 for neither."""
    answers = answers_of(assignment)
    positive = (answers > 0).any(axis=1)
    chosen = np.zeros(len(vectors), bool)
    chosen[rng.permutation(np.flatnonzero(~positive))[:negatives]] = True
    chosen |= positive
    return vectors[chosen], answers[chosen]


def answers_of(assignment):
    """Return what each segment is an example of: int8 [segments, num_classes].

    1 for a class, -1 against it, 0 neither.

    Args:
        assignment: `Assignment`, the true objects among its segments.
    """
    pursued = assignment.labels()[:, np.newaxis] == list(assignment.stuff)
    positive = assignment.measures >= _TRUE
    positive[:, assignment.stuff] = pursued
    little = assignment.measures < _LITTLE
    return positive.astype(np.int8) - (little & ~positive)


def _of_class(vectors, answers):
    """Return lists of arrays of vectors, for and against a class."""
    return [vectors[answers > 0]], [vectors[answers < 0]]


def _hard(vectors, assignment, svms, most):
    """Return vectors against each class within or beyond the margin, nearest first."""
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
