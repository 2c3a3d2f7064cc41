"""Meta-learning in pure functions: an algorithm is a learner times a meta-gradient estimator."""

from maml import rl, search, surrogates, trust_region
from maml.algorithms import anil, boil, cavia, imaml, maml
from maml.batch_norm import batch_normalise, few_shot_apply
from maml.classifier import Classifier, fit_classifier
from maml.closed_form import R2D2Params, protonet, r2d2
from maml.descent import gradient_descent
from maml.ensembles import ensemble, mixture
from maml.episodes import few_shot
from maml.estimators import displacement, implicit, unrolled
from maml.evaluation import evaluate, mean_ci95
from maml.finite import SkipReport, clip_by_global_norm, skip_nonfinite, skip_report
from maml.first_order import ReptileParams, fomaml, keep_inner_state, reptile
from maml.gradients import task_gradient
from maml.hvp import Hvp
from maml.inner import adapt
from maml.layers import convolution, max_pool
from maml.losses import classification, proximal, regression
from maml.mapping import task_mesh
from maml.meta_sgd import MetaSGDParams, meta_sgd
from maml.outer import meta_gradient, meta_step
from maml.plus_plus import PlusPlusParams, maml_plus_plus
from maml.readers import evaluate_reading, read, reading, reading_displacement
from maml.sampling import Query, batch_tasks
from maml.training import init, iterate, train
from maml.tree import combine, complement, mask_by_path, partition
from maml.types import (
    Algorithm,
    BatchPerStep,
    CarryLoss,
    Episode,
    Inner,
    Learner,
    LossFn,
    MetaGradient,
    MetaState,
    Sampler,
)

__version__ = "0.1.0"

__all__ = [
    "Algorithm",
    "BatchPerStep",
    "CarryLoss",
    "Classifier",
    "Episode",
    "Hvp",
    "Inner",
    "Learner",
    "LossFn",
    "MetaGradient",
    "MetaSGDParams",
    "MetaState",
    "PlusPlusParams",
    "Query",
    "R2D2Params",
    "ReptileParams",
    "Sampler",
    "SkipReport",
    "adapt",
    "anil",
    "batch_normalise",
    "batch_tasks",
    "boil",
    "cavia",
    "classification",
    "clip_by_global_norm",
    "combine",
    "complement",
    "convolution",
    "displacement",
    "ensemble",
    "evaluate",
    "evaluate_reading",
    "few_shot",
    "few_shot_apply",
    "fit_classifier",
    "fomaml",
    "gradient_descent",
    "imaml",
    "implicit",
    "init",
    "iterate",
    "keep_inner_state",
    "maml",
    "maml_plus_plus",
    "mask_by_path",
    "max_pool",
    "mean_ci95",
    "meta_gradient",
    "meta_sgd",
    "meta_step",
    "mixture",
    "partition",
    "protonet",
    "proximal",
    "r2d2",
    "read",
    "reading",
    "reading_displacement",
    "regression",
    "reptile",
    "rl",
    "search",
    "skip_nonfinite",
    "skip_report",
    "surrogates",
    "task_gradient",
    "task_mesh",
    "train",
    "trust_region",
    "unrolled",
]
