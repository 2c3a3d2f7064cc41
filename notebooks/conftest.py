"""The `.py` halves of the notebooks are no modules: nothing may import them to look for tests."""

collect_ignore_glob = ["*.py"]
