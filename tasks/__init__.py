"""Task distributions, data sets, models and layers for the algorithms of `maml`.

The modules about text: `text` reads texts, `corpus` makes tokens of them, `passages` draws
passages; `language_models` has models that read in chunks, `attention` their attention, and
`language` a transformer that adapts to passages as in few-shot learning.
"""
