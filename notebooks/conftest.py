"""The `.py` halves of the notebooks are no modules: nothing may import them to look for tests."""

import os

collect_ignore_glob = ["*.py"]
if "MAML_QUICK" in os.environ:  # programs that hardly run: compiling them well takes longer
    os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "true")
