"""Few-shot classification of images: the options, and the network that they choose."""

from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, Literal

from flax import linen as nn

from benchmarks.harness.bounds import check_size, check_used
from benchmarks.harness.options import DataOptions
from benchmarks.harness.supervised import BLOCK
from tasks import omniglot
from tasks.architectures.cells import Cells
from tasks.architectures.stack import Stack
from tasks.batch_norm import Mode
from tasks.models import MODELS
from tasks.pictures import Fit

CHARACTERS = "omniglot", "glyphs"  # data sets of drawings; the others are photographs
# Models with channels and zero_head.
CONVOLUTIONAL = "conv4", "conv4-pool", "r2d2", "r2d2-equal", "resnet12"


@dataclass(frozen=True, kw_only=True)
class FewShot(DataOptions):
    """Options of the few-shot benchmark."""

    dataset: Literal["omniglot", "glyphs", "cifar-fs", "fc100", "images"] = "omniglot"
    """Data set; glyphs are the characters of matplotlib's fonts, which need no download, and images
    are pictures of your own."""
    data: Path | None = None
    """Where the data are. Pictures of your own: a folder or zip with a folder for each class, or
    tfds:NAME for a data set with images and labels that tensorflow-datasets has prepared. cifar-fs
    and fc100: the folder of cifar-100-binary.tar.gz, or of cifar100.zip with a sheet for each
    class. Omniglot: the folder of its two zips or folders, or a data_dir of tensorflow-datasets;
    None lets tensorflow-datasets find or download it."""
    resize: omniglot.Resize = "nearest"
    """Method that resizes Omniglot to 28x28 pixels: nearest, as in effect in MAML's code, or
    antialiased."""
    size: int = 32
    """Height and width to which pictures of your own are resized, in pixels."""
    fit: Fit = "crop"
    """Treatment of pictures of your own that are no squares: cut to the centre, padded with white,
    or stretched."""
    split: str = "paper"
    """Split into training, validation and test classes. Of Omniglot: "paper", "alphabets", or a
    file. Of pictures of your own: "folders" (train, val and test), "random" (64, 16 and 20 % of the
    classes), "auto" (folders if there are such, or else random), or a file. A file is JSON, or CSV
    with the columns class and split. Glyphs are split by script; cifar-fs and fc100 have one
    split."""
    within_alphabet: bool = False
    """Draw all classes of a validation or test episode from one alphabet, or from one superclass,
    which is the folder above the class."""
    leave_out_small: bool = False
    """Leave out classes of pictures of your own that have fewer images than shots + queries, and
    print which; otherwise such classes are refused."""
    ways: int
    """Number of classes in an episode."""
    shots: int
    """Number of support images for each class."""
    queries: int
    """Number of query images for each class, in meta-training and in the evaluation."""
    train_ways: int | None = None
    """Number of classes in an episode of meta-training; None is as in the evaluation. Only the
    closed-form heads of protonet and r2d2 can have another number."""
    train_queries: int | None = None
    """Number of query images for each class in meta-training; None is as in the evaluation."""
    shots_range: tuple[int, int] | None = None
    """Fewest and most support images for each class in meta-training, between which each episode
    draws a number; None is as in the evaluation."""
    rotate: bool = True
    """Rotate each class of an episode by 0, 90, 180 or 270 degrees."""
    augment: bool = False
    """Change each image of meta-training a little, at random: shift, scale, shear and rotate
    drawings; crop, flip and recolour photographs."""
    augment_set: Literal["both", "support", "query"] = "both"
    """Set of each episode whose images `augment` changes."""
    algorithm: Literal[
        "maml",
        "maml++",
        "fomaml",
        "anil",
        "boil",
        "meta_sgd",
        "reptile",
        "imaml",
        "protonet",
        "r2d2",
    ] = "maml"
    """Algorithm. Batch-norm biases do not adapt, as in MAML's code, except in reptile and imaml."""
    learn_rates: bool = False
    """Learn an inner learning rate for each layer and inner step (maml++)."""
    multi_step: int = 0
    """Number of meta-steps over which the losses after all inner steps fade to that after the last
    one (maml++); 0 has the last loss alone."""
    first_order: int = 0
    """Number of first-order meta-steps before those of second order (maml and maml++)."""
    per_step_norm: bool = False
    """Use separate batch-norm biases and running averages for each inner step (maml++)."""
    model: Literal[
        "conv4", "conv4-pool", "r2d2", "r2d2-equal", "resnet12", "fully-connected", "cells"
    ] = "conv4"
    """Network: four convolutions with stride 2 or with max-pooling, those of R2D2 with more and
    more channels or equally many, four residual blocks, four dense layers, or the cells of
    `tokens`."""
    channels: int = 64
    """Number of channels of each of the four convolutions, or of the first block of r2d2 (96 in
    the paper) and resnet12, to which those of the further blocks are proportional."""
    zero_head: bool = False
    """Start the linear head of a convolutional network at zero instead of at random."""
    tokens: str = ""
    """Tokens of a normal and a reduction cell, separated by commas; see tasks/architectures."""
    copies: int = 1
    """Number of normal cells before each of the two reduction cells."""
    features: int = 16
    """Number of channels of the first cells; each reduction cell doubles it."""
    batch_norm: Mode = "transductive"
    """Statistics that normalise the query set: its own (transductive), those of the support set, or
    running averages."""
    momentum: float = 0.99
    """Momentum of the running averages."""
    temperature: float = 1.0
    """Number by which the squared distances of protonet are divided."""
    regularisation: float = 2.0
    """Strength lambda of imaml's penalty on the distance to the meta-parameters."""
    damping: float = 0.0
    """Number added to lambda in the curvature of imaml's meta-gradient."""

    def __post_init__(self) -> None:
        super().__post_init__()
        name = self.algorithm
        if self.shots_range and self.shots_range[0] > self.shots_range[1]:
            raise ValueError(f"shots_range must begin with the fewest; got {self.shots_range}")
        if name == "reptile" and self.batch_norm == "running":
            raise ValueError("batch_norm must not be running for reptile, which reads no query set")
        if name == "reptile" and self.inner_steps < 2:
            raise ValueError(f"reptile needs inner_steps >= 2; got {self.inner_steps}")
        on_omniglot, own = self.dataset == "omniglot", self.dataset == "images"
        if self.dataset in ("cifar-fs", "fc100") and self.split == "auto":  # the presets of images
            object.__setattr__(self, "split", "paper")
        check_used(self, ("augment_set",), self.augment, "augment")
        of_cells = self.model == "cells"
        others = "dataset omniglot or cifar-fs or fc100 or images"
        check_used(self, ("data",), self.dataset != "glyphs", others)
        check_used(self, ("resize",), on_omniglot, "dataset omniglot")
        check_used(self, ("split",), on_omniglot or own, "dataset omniglot or images")
        check_used(self, ("size", "fit", "leave_out_small"), own, "dataset images")
        check_used(self, ("tokens", "copies", "features"), of_cells, "model cells")
        convolutional = self.model in CONVOLUTIONAL
        check_used(
            self, ("zero_head", "channels"), convolutional, f"model {' or '.join(CONVOLUTIONAL)}"
        )
        if of_cells:
            network(self, ways=self.ways)  # refuses tokens that are not those of two cells
        check_used(self, ("momentum",), self.batch_norm == "running", "batch_norm running")
        if name == "imaml" and self.inner_rate * self.regularisation >= 2:
            raise ValueError(
                "inner_rate * regularisation must be < 2 for imaml, or its inner steps diverge; got"
                f" {self.inner_rate} * {self.regularisation}"
            )
        shots = max((self.shots, *(self.shots_range or ())))
        queries = max(self.queries, self.train_queries or 0)
        images = self.network_ways * (shots + queries)
        tasks = max(self.tasks_at_once, min(BLOCK, self.eval_tasks))
        fewer = "meta_batch, prefetch, ways, shots or queries"
        check_size(tasks * images * prod(self.image), f"episodes of {images} images", fewer)

    @property
    def network_ways(self) -> int:
        """Number of outputs of the network, which is enough for meta-training and evaluation."""
        return max(self.ways, self.train_ways or 0)

    @property
    def image(self) -> tuple[int, int, int]:
        """Shape of an image, `[height, width, channel]`."""
        return (28, 28, 1) if self.dataset in CHARACTERS else (self.size, self.size, 3)


def network(config: FewShot, **options: Any) -> nn.Module:
    """The configured network, with options of every network, such as `ways`.

    Raises:
        ValueError: The tokens of cells are missing, not numbers, or not those of two cells.
    """
    if config.model != "cells":
        if config.model in CONVOLUTIONAL:
            options |= {"features": config.channels, "zero_head": config.zero_head}
        return MODELS[config.model](**options)
    try:
        tokens = tuple(int(token) for token in config.tokens.split(","))
    except ValueError as error:
        raise ValueError(
            f"model cells needs tokens, such as 0,1,2,...; got {config.tokens!r}"
        ) from error
    shape = {"blocks": len(tokens) // 10, "copies": config.copies, "features": config.features}
    return Stack(Cells(**shape, reductions=2, stride=2), tokens, **options)
