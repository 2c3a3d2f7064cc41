"""The README's example runs, and learns."""

import re
from pathlib import Path

import jax

README = Path(__file__).parents[1] / "README.md"


def test_the_example_learns_to_learn_sinusoids(capsys):
    scope = {}
    for code in re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL):
        exec(code, scope)
    before, after = jax.numpy.mean(scope["mse"], axis=0)[:2]
    assert after < 0.5 * before and "Array" in capsys.readouterr().out
