"""Meta-learning in pure functions: an algorithm is a learner times a meta-gradient estimator."""

from maml.algorithms import (
    MetaSGD,
    Reptile,
    anil,
    boil,
    cavia,
    fomaml,
    imaml,
    keeping,
    maml,
    meta_sgd,
    reptile,
)
from maml.closed_form import R2D2, protonet, r2d2
from maml.ensemble import ensemble, mixture
from maml.estimators import displacement, implicit, unrolled
from maml.evaluation import evaluate, mean_ci95
from maml.finite import clip_by_global_norm, skip_nonfinite, skipped
from maml.inner import adapt, gradient_descent
from maml.losses import classification, proximal, regression
from maml.mapping import task_mesh
from maml.memory import Memory
from maml.outer import batched, init, iterate, meta_gradient, meta_step, train
from maml.plus_plus import PlusPlus, maml_plus_plus
from maml.tree import combine, complement, mask_by_path, partition
from maml.types import (
    Algorithm,
    Derivative,
    Episode,
    Inner,
    Learner,
    LossFn,
    MetaGrad,
    MetaState,
    PerStep,
    Sampler,
    Scheduled,
)

__all__ = [
    "R2D2",
    "Algorithm",
    "Derivative",
    "Episode",
    "Inner",
    "Learner",
    "LossFn",
    "Memory",
    "MetaGrad",
    "MetaSGD",
    "MetaState",
    "PerStep",
    "PlusPlus",
    "Reptile",
    "Sampler",
    "Scheduled",
    "adapt",
    "anil",
    "batched",
    "boil",
    "cavia",
    "classification",
    "clip_by_global_norm",
    "combine",
    "complement",
    "displacement",
    "ensemble",
    "evaluate",
    "fomaml",
    "gradient_descent",
    "imaml",
    "implicit",
    "init",
    "iterate",
    "keeping",
    "maml",
    "maml_plus_plus",
    "mask_by_path",
    "mean_ci95",
    "meta_gradient",
    "meta_sgd",
    "meta_step",
    "mixture",
    "partition",
    "protonet",
    "proximal",
    "r2d2",
    "regression",
    "reptile",
    "skip_nonfinite",
    "skipped",
    "task_mesh",
    "train",
    "unrolled",
]
