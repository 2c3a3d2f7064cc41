"""Few-shot classification of photographs: CIFAR-FS, FC100, and pictures of your own.

Meta-trains on episodes of pictures, and reports the accuracy on test classes after each inner step.

    python -m benchmarks.images --data FOLDER                  # a folder or zip, a folder a class
    python -m benchmarks.images --data tfds:cifar100           # prepared by tensorflow-datasets
    python -m benchmarks.images --preset maml-pictures --data FOLDER
    python -m benchmarks.images --preset protonet-cifar-fs --data FOLDER    # with CIFAR-100
    python -m benchmarks.images --preset protonet-cifar-fs --data FOLDER --shots 5

Published, in percent, for Conv4 in 5-way 1-shot and 5-shot: on CIFAR-FS 55.5 +- 0.7 and 72.0 +- 0.6
by ProtoNet, and 58.9 +- 1.9 and 71.5 +- 1.0 by MAML with 32 channels; on FC100 35.3 +- 0.6 and
48.6 +- 0.6 by ProtoNet. The presets:

- `protonet-*` and `r2d2-*`: Conv4 with 64 channels and max-pooling, which learns from episodes of
  20 ways with augmented images. Batch normalisation uses running averages in the evaluation, so
  that the answer to a query does not depend on the others.
- `r2d2-equal-*`: the smaller network of R2D2's authors, without augmentation as in their code, and
  with a number of shots that each episode draws.
- `maml-*`: Conv4 with 32 channels and max-pooling, 5 inner steps, and batch normalisation by the
  query set, as in MAML's code.
- `*-pictures`: short trainings for pictures of your own.
"""

from dataclasses import replace

from benchmarks.few_shot import FewShot
from benchmarks.few_shot_experiment import main
from benchmarks.harness.command_line import launch

PICTURES = FewShot(
    preset="protonet-pictures",
    dataset="images",
    split="auto",
    algorithm="protonet",
    ways=5,
    shots=1,
    queries=5,
    rotate=False,
    augment=True,
    model="conv4-pool",
    batch_norm="running",
    momentum=0.95,
    temperature=32.0,  # the features are 256 numbers
    inner_rate=1.0,
    inner_steps=1,
    outer_rate=3e-3,
    cosine=True,
    meta_batch=4,
    meta_steps=400,
    steps_per_call=50,
    eval_tasks=600,
    eval_steps=1,
)
MAML_PICTURES = replace(
    PICTURES,
    preset="maml-pictures",
    algorithm="maml",
    temperature=1.0,
    channels=32,
    zero_head=True,
    batch_norm="support",
    momentum=0.99,
    inner_rate=0.1,
    inner_steps=3,
    eval_steps=5,
)
PROTONET = replace(
    PICTURES,
    preset="protonet-cifar-fs",
    dataset="cifar-fs",
    split="paper",
    train_ways=20,
    queries=15,
    train_queries=5,
    momentum=0.99,
    meta_batch=1,
    meta_steps=20_000,
    steps_per_call=200,
    eval_tasks=10_000,
    val_tasks=200,
)
R2D2 = replace(PROTONET, preset="r2d2-cifar-fs", algorithm="r2d2", temperature=1.0)
R2D2_EQUAL = replace(
    R2D2, preset="r2d2-equal-cifar-fs", model="r2d2-equal", augment=False, shots_range=(1, 5)
)
MAML = replace(
    PROTONET,
    preset="maml-cifar-fs",
    algorithm="maml",
    temperature=1.0,
    channels=32,
    train_ways=None,
    train_queries=None,
    augment=False,
    batch_norm="transductive",
    inner_rate=0.05,
    inner_steps=5,
    outer_rate=1e-3,
    cosine=False,
    meta_batch=4,
    meta_steps=60_000,
    eval_steps=10,
)
PRESETS = {
    preset.preset: preset
    for preset in (
        PICTURES,
        MAML_PICTURES,
        PROTONET,
        R2D2,
        R2D2_EQUAL,
        MAML,
        *(
            replace(preset, preset=preset.preset.replace("cifar-fs", "fc100"), dataset="fc100")
            for preset in (PROTONET, R2D2, R2D2_EQUAL)
        ),
    )
}

if __name__ == "__main__":
    launch(main, PRESETS, __doc__)
