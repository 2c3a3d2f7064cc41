"""Invalid arguments of the public functions of maml raise ValueError."""

# pyright: reportArgumentType=false

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import maml
from maml.trust_region import TrustRegion, trust_region_step

pytestmark = pytest.mark.usefixtures("unchecked")
KEY = jax.random.key(0)
SGD = optax.sgd(0.1)
PARAMS = {"w": jnp.ones((2, 1)), "b": jnp.zeros(1)}
HEAD = {"w": False, "b": True}


def loss(params, batch, key):
    x, y = batch
    return jnp.mean(jnp.square(x @ params["w"] + params["b"] - y)), {}


def sample_task(key):
    x = jax.random.normal(key, (2, 5, 2))
    return maml.Episode(*((part, part.sum(axis=1, keepdims=True)) for part in x))


SAMPLE = maml.batch_tasks(sample_task, 4)
TASK, EPISODES = sample_task(KEY), SAMPLE(KEY)
ALGORITHM = maml.maml(loss, SGD, 1)
STATE = maml.init(ALGORITHM, SGD, PARAMS)
LAST = STATE._replace(step=jnp.array(2**31 - 2, jnp.int32))
INNER = ALGORITHM.learner(PARAMS)
REGION = TrustRegion(
    lambda *task: loss(task[0], task[1].query, KEY),
    lambda theta, episode, key: theta["b"],
    lambda old, new, episode: jnp.square(new - old).sum(),
    lambda metrics: jnp.zeros(()),
)


def returning(value):
    return lambda params, batch, key: value


def gradient(loss=loss, params: Any = PARAMS, episodes: Any = EPISODES, key: Any = KEY, **options):
    algorithm = maml.maml(loss, SGD, 1, **options)
    return maml.meta_gradient(algorithm.grad, params, episodes, key)


def computed(function):
    grad = maml.MetaGradient(gradient=function)
    return maml.meta_gradient(grad, PARAMS, EPISODES, KEY)


def train(algorithm: Any = ALGORITHM, sample: Any = SAMPLE, state: Any = STATE, key: Any = KEY):
    return maml.train(algorithm, SGD, sample, state, key, 2)


def evaluate(params: Any = PARAMS, episodes: Any = EPISODES, key: Any = KEY, metric: Any = loss):
    return maml.evaluate(ALGORITHM.learner, metric, params, episodes, key, 1)


def build(name, optimizer: Any = SGD, steps: Any = 1, **options: Any):
    return getattr(maml, name)(loss, optimizer, steps, **options)


def step(**options: Any):
    return trust_region_step(REGION, PARAMS, EPISODES, KEY, **options)


def empty(name):
    return EPISODES._replace(**{name: (jnp.ones((4, 0, 2)), jnp.ones((4, 0, 1)))})


KEYS = {"0": 0, "a": "a", "None": None, "1.5": 1.5, "old": jax.random.PRNGKey(0)}
COUNTS = {"True": True, "1.5": 1.5, "'2'": "2", "array": np.array([2]), "jax": jnp.array(2)}
one_key = "must be a key as jax.random.key"
CALLS = {
    **{f"sampler key {n}": (lambda k=k: SAMPLE(k), one_key) for n, k in KEYS.items()},
    **{f"gradient key {n}": (lambda k=k: gradient(key=k), one_key) for n, k in KEYS.items()},
    **{f"train key {n}": (lambda k=k: train(key=k), one_key) for n, k in KEYS.items()},
    **{f"evaluate key {n}": (lambda k=k: evaluate(key=k), one_key) for n, k in KEYS.items()},
    "a batch of keys": (lambda: gradient(key=jax.random.split(KEY, 3)), "got a batch of keys"),
    "a batch of one key": (lambda: evaluate(key=jax.random.split(KEY, 1)), "got a batch of keys"),
    **{
        f"{name} steps {n}": (lambda a=name, c=c: build(a, steps=c), "must be an integer >= ")
        for name in ("maml", "reptile")
        for n, c in COUNTS.items()
    },
    "tasks True": (lambda: maml.batch_tasks(sample_task, True), "tasks must be an integer >= 1"),
    "sampler of one task": (
        lambda: train(sample=sample_task),
        r"maml.batch_tasks\(sample, num_tasks\), .{,80}; got another function$",
    ),
    "batched twice": (lambda: maml.batch_tasks(SAMPLE, 4), "returns meta-batches already"),
    "sampler an episode": (
        lambda: maml.batch_tasks(TASK, 4),
        r"sample must be a function of \(key\)",
    ),
    "sampler of no key": (
        lambda: maml.batch_tasks(lambda: TASK, 4),
        r"must be a function of \(key\)",
    ),
    "sampler None": (lambda: train(sample=None), "needs a sampler of meta-batches"),
    "episodes a tuple": (lambda: gradient(episodes=tuple(EPISODES)), "an Episode of arrays"),
    "query None": (lambda: gradient(episodes=EPISODES._replace(query=None)), "need a query set"),
    "empty support": (lambda: gradient(episodes=empty("support")), "must not be empty"),
    "empty query": (lambda: gradient(episodes=empty("query")), "must not be empty"),
    "evaluate empty support": (lambda: evaluate(episodes=empty("support")), "must not be empty"),
    "loss a string": (lambda: gradient("mse"), r"must be a function of \(params, batch, key\)"),
    "loss of one argument": (lambda: gradient(lambda x: x), "got a function of"),
    "loss None": (lambda: gradient(None), "must be a function of"),
    "loss an int": (lambda: gradient(returning((1, {}))), "real floating-point number; got int"),
    "loss complex": (lambda: gradient(returning((1j, {}))), "real floating-point number; got comp"),
    "loss a string value": (lambda: gradient(returning(("1", {}))), "returns one number; got '1'"),
    "metrics strings": (
        lambda: gradient(returning((1.0, {"m": "mse"}))),
        "the metrics of a loss are numbers; got 'mse' at 'm'",
    ),
    "grad None": (
        lambda: maml.meta_gradient(None, PARAMS, EPISODES, KEY),
        "must be a MetaGradient",
    ),
    "grad of nothing": (
        lambda: maml.meta_gradient(maml.MetaGradient(), PARAMS, EPISODES, KEY),
        "must have exactly one of objective and gradient",
    ),
    "grad of other arguments": (
        lambda: computed(lambda params: params),
        "the gradient must be a function of",
    ),
    "grad of another shape": (
        lambda: computed(lambda *_: ({"w": 1.0}, {})),
        "the meta-gradient has the structure .*; the meta-parameters have",
    ),
    "grad without metrics": (
        lambda: computed(lambda p, *_: p),
        r"returns \(gradients, metrics by name\)",
    ),
    "params a MetaState": (lambda: evaluate(STATE), "got a MetaState: pass .params"),
    "learner of a MetaState": (
        lambda: ALGORITHM.learner(STATE),  # pyright: ignore[reportArgumentType]
        "got a MetaState: pass .params",
    ),
    "gradient at a MetaState": (lambda: gradient(params=STATE), "got a MetaState"),
    "state the params": (lambda: train(state=PARAMS), "must be a MetaState"),
    "algorithm the learner": (lambda: train(ALGORITHM.learner), "must be an Algorithm"),
    "init no algorithm": (lambda: maml.init(loss, SGD, PARAMS), "must be an Algorithm"),
    "params of ints": (lambda: maml.init(ALGORITHM, SGD, {"w": 1}), "need a floating-point leaf"),
    "params empty": (lambda: maml.init(ALGORITHM, SGD, {}), "need a floating-point leaf"),
    "params None": (lambda: maml.init(ALGORITHM, SGD, None), "need a floating-point leaf"),
    "params strings": (lambda: maml.init(ALGORITHM, SGD, {"w": "a"}), "parameters are arrays"),
    "the last meta-step": (lambda: train(state=LAST), "meta-steps can be counted"),
    "learner None": (lambda: maml.unrolled(None, loss, 1), "learner must be a function"),
    "learner of no Inner": (
        lambda: maml.task_gradient(maml.unrolled(lambda theta: theta, loss, 1), PARAMS, TASK, KEY),
        "a learner returns an Inner",
    ),
    "weights a number": (
        lambda: maml.unrolled(ALGORITHM.learner, loss, 1, weights=0.5),
        "weights must be a function of",
    ),
    "implicit of Meta-SGD": (
        lambda: maml.task_gradient(
            maml.implicit(
                build("meta_sgd", rate=0.1).learner, loss, 1, regularisation=1.0, cg_steps=1
            ),
            *(build("meta_sgd", rate=0.1).init(PARAMS), TASK, KEY),
        ),
        "meta-parameters that are the parameters of the model",
    ),
    "metric None": (lambda: evaluate(metric=returning(None)), "a metric returns a tree of numbers"),
    "metric no function": (lambda: evaluate(metric="mse"), "metric must be a function of"),
    "probe no function": (lambda: maml.adapt(INNER, TASK.support, KEY, 1, probe=3), "probe must"),
    **{
        f"{name} rate {value!r}": (
            lambda n=name, v=value: build(n, rate=v),
            "rate must be a finite number > 0",
        )
        for name in ("meta_sgd", "maml_plus_plus")
        for value in (-1.0, True, float("nan"), "0.1", 1j)
    },
    **{
        f"imaml regularisation {value!r}": (
            lambda v=value: build("imaml", regularisation=v, cg_steps=1),
            "regularisation must be a finite number > 0",
        )
        for value in (True, "1", float("inf"), None)
    },
    "imaml without cg": (
        lambda: build("imaml", regularisation=1.0, cg_steps=0),
        "conjugate-gradient",
    ),
    **{
        f"{name} {option} {kind}": (
            lambda n=name, o=option, m=mask: build(n, **{o: m}),
            message,
        )
        for name, option in (("maml", "mask"), ("anil", "head"), ("cavia", "context"))
        for kind, mask, message in (
            ("all False", {"w": False, "b": False}, "False everywhere"),
            ("strings", {"w": "True", "b": "False"}, "must be True or False at"),
            ("floats", {"w": 1.0, "b": 0.0}, "must be True or False at"),
            ("arrays", {"w": jnp.array(True), "b": jnp.array(False)}, "must be True or False at"),
        )
    },
    "boil without a head": (lambda: build("boil", head={"w": False, "b": False}), "False every"),
    "boil all head": (
        lambda: build("boil", head={"w": True, "b": True}),
        "head is True everywhere",
    ),
    "complement of strings": (lambda: maml.complement({"w": "True"}), "must be True or False"),
    "a pattern of nothing": (lambda: maml.mask_by_path(PARAMS, ""), "string that is not empty"),
    "a pattern of bytes": (lambda: maml.mask_by_path(PARAMS, b"w"), "got b'w' for the paths b, w"),
    "a broken pattern": (
        lambda: maml.mask_by_path(PARAMS, "("),
        "regular expr.*for the paths b, w",
    ),
    "combine what overlaps": (lambda: maml.combine(PARAMS, PARAMS), r"got \['b', 'w'\] in both"),
    "params of objects": (
        lambda: maml.init(ALGORITHM, SGD, {"w": np.array([1.0, None])}),
        "parameters are arrays of numbers",
    ),
    "BatchPerStep of BatchPerStep": (
        lambda: maml.adapt(INNER, maml.BatchPerStep(maml.BatchPerStep(TASK.support)), KEY, 5),
        "got one in another",
    ),
    **{
        f"weights {value}": (
            lambda v=value: maml.task_gradient(
                maml.unrolled(ALGORITHM.learner, loss, 1, weights=lambda step: np.array([v])),
                *(PARAMS, TASK, KEY),
            ),
            "must be finite real numbers",
        )
        for value in (1j, True, np.nan)
    },
    "per_step that adapts": (
        lambda: build("maml_plus_plus", rate=0.1, per_step=HEAD).init(PARAMS),
        "mask and per_step are both True at b",
    ),
    "end a number": (
        lambda: maml.displacement(ALGORITHM.learner, loss, 1, end=3),
        "end must be a function",
    ),
    "a step of no state": (
        lambda: maml.iterate(lambda *_: (PARAMS, {}), SAMPLE, STATE, KEY, 1),
        r"step returns \(MetaState, metrics\)",
    ),
    **{
        f"a state at step {step}": (
            lambda s=step: train(state=STATE._replace(step=s)),
            "step of a MetaState must be an integer >= 0",
        )
        for step in (1.5, -5)
    },
    "a sampler of strings": (
        lambda: maml.batch_tasks(lambda key: maml.Episode("a", "b"), 2)(KEY),
        "a sampler returns arrays; got 'a'",
    ),
    **{
        f"metric {value}": (lambda v=value: evaluate(metric=returning(v)), "returns a tree of numb")
        for value in ("a", KEY)
    },
    **{
        f"mean of {value}": (lambda v=value: maml.mean_ci95(v), "needs an array of numbers")
        for value in ([1.0, 2.0], "ab", np.array(["a"]))
    },
    "complex targets": (
        lambda: maml.regression(lambda w, x: x)(None, (jnp.ones(2), jnp.ones(2) * 1j), KEY),
        "complex targets need complex predictions",
    ),
    "a head of integers": (
        lambda: maml.protonet(loss, lambda w, x: x, head={"w": True, "b": True}).init(
            {"w": jnp.ones((2, 1), int), "b": jnp.ones(1)}
        ),
        "only floating-point leaves can adapt.*head",
    ),
    "combine two trees": (lambda: maml.combine({"w": 1.0}, {"b": None}), "two parts of one tree"),
    "skip_nonfinite of None": (lambda: maml.skip_nonfinite(None), "must be an optax"),
    "skip_nonfinite MultiSteps": (
        lambda: maml.skip_nonfinite(optax.MultiSteps(SGD, 2)),
        "gradient_transformation",
    ),
    "skipped of a MetaState": (
        lambda: maml.skip_report(STATE),
        "MetaState.opt_state; got MetaState",
    ),
    "clip of nothing": (lambda: maml.clip_by_global_norm(0.0), "max_norm must be a finite number"),
    **{
        f"trust region {name} {value!r}": (lambda o={name: value}: step(**o), f"{words} must be")
        for name, value, words in (
            ("radius", float("inf"), "radius"),
            ("radius", None, "radius"),
            ("damping", "1", "damping"),
            ("cg_steps", 0, "conjugate-gradient steps"),
            ("cg_steps", -1, "conjugate-gradient steps"),
            ("backtracks", 1.5, "step lengths"),
        )
    },
    "a mesh that is a number": (
        lambda: maml.meta_gradient(ALGORITHM.grad, PARAMS, EPISODES, KEY, mesh=2),
        "a mesh must be made by maml.task_mesh.*; got 2",
    ),
    "a mesh of two axes": (
        lambda: maml.meta_gradient(
            ALGORITHM.grad, PARAMS, EPISODES, KEY, mesh=jax.make_mesh((2, 2), ("task", "model"))
        ),
        "a mesh needs one axis, named 'task'",
    ),
}


def gradient_of(value, metrics):
    return computed(lambda *_: (value, metrics))


def objective_of(value):
    grad = maml.MetaGradient(lambda *_: value)
    return maml.task_gradient(grad, PARAMS, TASK, KEY)


def task_gradient(params: Any = PARAMS, episode: Any = TASK, key: Any = KEY, step: Any = 0):
    return maml.task_gradient(ALGORITHM.grad, params, episode, key, step=step)


def early(**changes):
    return maml.meta_gradient(ALGORITHM.grad._replace(**changes), PARAMS, EPISODES, KEY)


def adapted(**changes):
    return maml.adapt(INNER._replace(**changes), TASK.support, KEY, 1)


def stepped(change):
    return maml.iterate(lambda state, *_: change(state), SAMPLE, STATE, KEY, 1)


GRAD, IMAGE, ROWS = ALGORITHM.grad, jnp.ones((1, 4, 4, 1)), jnp.ones((4, 3))
KERNEL, LABELS = jnp.ones((3, 3, 1, 2)), jnp.zeros(4, int)
classify = maml.classification(lambda params, x: x)
CALLS |= {
    **{f"task key {n}": (lambda k=k: task_gradient(key=k), one_key) for n, k in KEYS.items()},
    "task of a MetaState": (lambda: task_gradient(STATE), "got a MetaState"),
    "task of no params": (lambda: task_gradient({}), "need a floating-point leaf"),
    "gradient of no params": (lambda: gradient(params=None), "need a floating-point leaf"),
    "task a tuple": (lambda: task_gradient(episode=tuple(TASK)), "must be an Episode"),
    "evaluate a tuple": (lambda: evaluate(episodes=tuple(EPISODES)), "must be an Episode"),
    "objects": (
        lambda: gradient(episodes=jax.tree.map(lambda x: np.asarray(x, object), EPISODES)),
        "tasks must be arrays of numbers",
    ),
    **{
        f"step {step!r}": (lambda s=step: task_gradient(step=s), "the step must be an integer >= 0")
        for step in (-1, 1.5, "1", None, True, 2**31)
    },
    "early_steps -3": (lambda: early(early=GRAD, early_steps=-3), "meta-steps of early must be"),
    "early_steps alone": (lambda: early(early_steps=2), "must be 0 without early; got 2"),
    "early twice": (
        lambda: early(early=GRAD._replace(early=GRAD, early_steps=1), early_steps=2),
        "must have no early of its own",
    ),
    **{
        f"objective {value!r}": (lambda v=value: objective_of(v), message)
        for value, message in (
            (1.0, r"an objective returns \(scalar, metrics\); got float"),
            ((jnp.ones(1), {}), r"an objective returns one number; got an array of \(1,\)"),
            ((1, {}), "an objective returns a real floating-point number; got int32"),
            ((1j, {}), "an objective returns a real floating-point number; got complex"),
            ((1.0, [1.0]), "metrics of a meta-gradient or an objective are a dictionary; got list"),
            ((1.0, {"m": "a"}), "metrics of an objective are numbers; got 'a' at 'm'"),
            ((1.0, {"m": KEY}), "metrics of a meta-gradient are numbers"),
        )
    },
    "gradients of strings": (
        lambda: gradient_of({"w": "a", "b": "b"}, {}),
        "must be a tree of numbers; got 'b'",
    ),
    "metrics of strings": (lambda: gradient_of(PARAMS, {"m": "a"}), "are numbers; got 'a' at 'm'"),
    "step None": (lambda: adapted(step=None), "step of an Inner must be a function"),
    "params None": (lambda: adapted(params=None), "params of an Inner must be a function"),
    "remat a string": (lambda: adapted(remat="no"), "remat must be True or False; got 'no'"),
    "step of one value": (lambda: adapted(step=lambda *_: 1), r"must return \(state, metrics\)"),
    "probe of strings": (
        lambda: maml.adapt(INNER, TASK.support, KEY, 1, probe=lambda params: "a"),
        "probe returns arrays; got 'a'",
    ),
    "Algorithm without init": (
        lambda: maml.init(ALGORITHM._replace(init=None), SGD, PARAMS),
        "init of an Algorithm must be a function",
    ),
    **{
        f"{name} at params": (
            lambda n=name, o=options: maml.task_gradient(build(n, **o).grad, PARAMS, TASK, KEY),
            f"must be a {kind}.*got dict",
        )
        for name, options, kind in (
            ("meta_sgd", {"rate": 0.1}, "MetaSGDParams"),
            ("maml_plus_plus", {"rate": 0.1}, "PlusPlusParams"),
            ("reptile", {"keep_state": True}, "ReptileParams"),
        )
    },
    "learn_rates": (
        lambda: build("maml_plus_plus", rate=0.1, learn_rates="no"),
        "learn_rates must",
    ),
    "per_step strings": (
        lambda: build("maml_plus_plus", rate=0.1, per_step={"w": "a", "b": "b"}),
        "per_step mask must be True or False",
    ),
    "first_order": (
        lambda: maml.gradient_descent(loss, SGD, PARAMS, first_order="no"),
        "first_order must be True or False",
    ),
    "weights a string": (
        lambda: maml.task_gradient(
            maml.unrolled(ALGORITHM.learner, loss, 1, weights=lambda step: "a"), PARAMS, TASK, KEY
        ),
        "must be finite real numbers; got a",
    ),
    "end of another shape": (
        lambda: maml.task_gradient(
            maml.displacement(ALGORITHM.learner, loss, 1, end=lambda *_: {"w": 1.0, "b": 0.0}),
            *(PARAMS, TASK, KEY),
        ),
        r"the end has the shape \(\) at 'b'",
    ),
    "sampler of None": (
        lambda: maml.batch_tasks(lambda key: None, 2)(KEY),
        "returns arrays; got None",
    ),
    "iterate a string": (
        lambda: maml.iterate(lambda s, *_: (s, {}), lambda key: "a", STATE, KEY, 1),
        "sample returns arrays; got 'a'",
    ),
    "metrics of a step": (lambda: stepped(lambda s: (s, {"m": "a"})), "step returns arrays; got"),
    "a step of other params": (
        lambda: stepped(lambda s: (s._replace(params={"w": 1.0}), {})),
        "state after a step has the structure",
    ),
    "a step that is a float": (
        lambda: stepped(lambda s: (s._replace(step=s.step + 1.0), {})),
        "the state after a step has float32 at 'step'; the state before it has int32",
    ),
    **{
        f"surrogate of {steps.dtype}": (
            lambda s=steps: maml.surrogates.dice(s, jnp.ones(2)),
            "log_ratio must be real numbers",
        )
        for steps in (jnp.ones(2) * 1j, jnp.ones(2) > 0, np.array(["a", "b"]), KEY[None])
    },
    "a mean of complex": (lambda: maml.mean_ci95(jnp.ones(2) * 1j), "needs an array of numbers"),
    **{
        f"model of {out!r}": (
            lambda o=out: maml.classification(lambda *_: o)(None, (ROWS, LABELS), KEY),
            "apply must return an array of numbers",
        )
        for out in ("a", None, {"y": 1.0})
    },
    "labels strings": (
        lambda: classify(None, (ROWS, np.array(["a"] * 4)), KEY),
        "targets must be an array",
    ),
    "support without reference": (
        lambda: maml.few_shot_apply(lambda params, x: x, "support"),
        r"\(params, inputs, reference\); got a function of",
    ),
    **{
        f"normalised {options}": (
            lambda o=options: maml.batch_normalise(**({"x": ROWS} | o)),
            message,
        )
        for options, message in (
            ({"epsilon": -1.0}, "epsilon must be a finite number >= 0"),
            ({"x": jnp.ones(3)}, r"floating-point \[n, ..., channels\]"),
            ({"x": LABELS[:, None]}, "floating-point"),
            ({"reference": -jnp.ones(4)}, "weights must be finite and >= 0"),
        )
    },
    **{
        f"convolution {n}": (lambda a=a, s=s: maml.convolution(*a, stride=s), message)
        for n, a, s, message in (
            ("of one image", (IMAGE[0], KERNEL), 1, "images must be real numbers"),
            ("of another channel", (IMAGE, KERNEL[:, :, [0, 0]]), 1, "a kernel must be"),
            ("rectangle", (IMAGE, KERNEL[:2]), 1, "a kernel must be"),
            ("stride 0", (IMAGE, KERNEL), 0, "pixels of a stride must be an integer >= 1"),
        )
    },
    "pool of a string": (lambda: maml.max_pool("a"), "images must be real numbers"),
    "pool of stride 0": (
        lambda: maml.max_pool(IMAGE, stride=0),
        "pixels of a stride must be an integer >= 1",
    ),
    "pool of a pixel": (lambda: maml.max_pool(IMAGE[:, :1]), "2x2 pixels or more"),
    "region a tuple": (
        lambda: trust_region_step(tuple(REGION), PARAMS, EPISODES, KEY),
        "must be a TrustRegion",
    ),
    "region with metrics in a list": (
        lambda: trust_region_step(
            REGION._replace(objective=lambda *task: (1.0 * task[0]["b"].sum(), [1.0])),
            *(PARAMS, EPISODES, KEY),
        ),
        "metrics of a meta-gradient or an objective are a dictionary; got list",
    ),
    "region without outputs": (
        lambda: trust_region_step(REGION._replace(outputs=None), PARAMS, EPISODES, KEY),
        "outputs must be a function",
    ),
    **{
        f"{name} of a vector": (
            lambda n=name: trust_region_step(
                REGION._replace(**{n: lambda *_: jnp.ones(2)}), PARAMS, EPISODES, KEY
            ),
            f"{name} must return one real number",
        )
        for name in ("divergence", "measured")
    },
    "region at a MetaState": (
        lambda: trust_region_step(REGION, STATE, EPISODES, KEY),
        "got a MetaState",
    ),
    "mixture of integers": (
        lambda: maml.mixture(lambda params, x: x.astype(int))({"w": jnp.ones((3, 1))}, ROWS),
        "in floating point; got int32",
    ),
    "ensemble of params": (
        lambda: maml.ensemble(lambda theta: theta)({"w": jnp.ones((3, 1))}),
        "a learner returns an Inner",
    ),
}


def test_a_gradient_without_metrics_has_a_mean():
    grads, metrics = computed(lambda params, *_: (params, {}))
    np.testing.assert_array_equal(grads["w"], PARAMS["w"])
    assert metrics.keys() == {"left_out"} and metrics["left_out"] == 0


@pytest.mark.parametrize("name", CALLS)
def test_invalid_calls_are_refused_with_a_message(name):
    call, message = CALLS[name]
    with pytest.raises(ValueError, match=message):
        call()
