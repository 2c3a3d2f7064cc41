"""Drawings of the best child network of a search, or of its cells, as graphs."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.harness.files import save_figure
from benchmarks.search.children import macro_config
from benchmarks.search.options import Search
from maml.search.rewards import best_child
from tasks.architectures.cells import STRIDES
from tasks.architectures.macro import Macro, decode
from tasks.architectures.operations import COMBINERS, OPERATIONS
from tasks.architectures.recurrent_chain import FUNCTIONS
from tasks.architectures.recurrent_tree import COMBINATIONS

LABELS = {
    "identity": "identity",
    **{f"conv{size}": f"{size}x{size} convolution" for size in (1, 3, 5)},
    "average3": "3x3 average pool",
    "maximum3": "3x3 max pool",
}


class Graph(NamedTuple):
    """A graph to draw.

    Attributes:
        title: Title of the drawing.
        nodes: Labels of the nodes; every edge leads to a later node, and the last is the output.
        edges: Pairs (source, target) of places in `nodes`.
    """

    title: str
    nodes: list[str]
    edges: set[tuple[int, int]]


def network_graph(macro: Macro, tokens: Sequence[int]) -> Graph:
    """The layers of a network of the convolutional space; the head reads unread layers."""
    nodes, edges = [f"{macro.side}x{macro.side} image"], set()
    for number, layer in enumerate(decode(macro, jnp.asarray(tokens)), 1):
        facts = (np.asarray(fact).tolist() for fact in layer)
        reads, (height, width), (down, right), features, _, (rows, columns) = facts
        filters = f"{features} filter{'' if features == 1 else 's'} of {height}x{width}"
        nodes.append(f"{filters}, stride {down}x{right}\noutput {rows}x{columns}")
        edges |= {(source, number) for source, read in enumerate(reads) if read}
    return _with_end("best network", nodes, edges, "head", since=1)


def cell_graphs(tokens: Sequence[int]) -> list[Graph]:
    """The normal and the reduction cell; the output is made of the blocks that no block reads."""
    graphs = []
    for kind, blocks in zip(STRIDES, np.reshape(tokens, (2, -1, 5)).tolist(), strict=True):
        nodes, edges = ["A: second-to-last cell", "B: last cell"], set()
        for first, second, one, other, combiner in blocks:
            name, a, b = (chr(ord("A") + state) for state in (len(nodes), first, second))
            edges |= {(state, len(nodes)) for state in (first, second)}
            inputs = f"{LABELS[OPERATIONS[one]]} ({a})\n{LABELS[OPERATIONS[other]]} ({b})"
            nodes.append(f"{name}: {COMBINERS[combiner]}\n{inputs}")
        graphs.append(_with_end(f"best {kind} cell", nodes, edges, "output", since=2))
    return graphs


def chain_graph(tokens: Sequence[int]) -> Graph:
    """The chain of nodes of a recurrent cell; the state is the mean of the unread nodes."""
    nodes, edges = ["word x and state s"], set()
    for number, function in enumerate(tokens[::2], 1):
        source = 1 + tokens[2 * number - 3] if number > 1 else 0
        nodes.append(f"{number}: {FUNCTIONS[function]}")
        edges.add((source, number))
    return _with_end("best cell", nodes, edges, "mean: output and next s", since=1)


def tree_graph(tokens: Sequence[int]) -> Graph:
    """The tree of a recurrent cell, its old memory, and the node whose sum or product is the next.

    Each node has its number, how it combines what it reads, and its activation.
    """
    *pairs, inject, (source, target) = np.reshape(tokens, (-1, 2)).tolist()
    leaves = (len(pairs) + 1) // 2
    nodes, edges = ["word x and output s", "memory c"], {(1, target + 2)}
    for number, (operation, function) in enumerate(pairs):
        label = f"{number + 1}: {COMBINATIONS[operation]}\n{FUNCTIONS[function]}"
        if number == source:
            label = f"{number + 1}: {COMBINATIONS[operation]}\n(is next c)\n{FUNCTIONS[function]}"
        if number == target:
            label = f"{label}\n{COMBINATIONS[inject[0]]} c\n{FUNCTIONS[inject[1]]}"
        nodes.append(label)
        reads = [0] if number < leaves else [2 * (number - leaves) + k + 2 for k in (0, 1)]
        edges |= {(read, number + 2) for read in reads}
    return Graph("best cell", [*nodes, "output and next s"], edges | {(len(nodes) - 1, len(nodes))})


def _with_end(
    title: str, nodes: list[str], edges: set[tuple[int, int]], end: str, *, since: int
) -> Graph:
    """The graph with a last node, which reads every node from `since` on that no other reads."""
    read = {source for source, _ in edges}
    unread = {(number, len(nodes)) for number in range(since, len(nodes)) if number not in read}
    return Graph(title, [*nodes, end], edges | unread)


def best_tokens(children: dict[str, list[tuple[float, list[int]]]]) -> list[int]:
    """The tokens of the network of the highest accuracy among those that strategies chose."""
    pairs = [pair for pairs in children.values() for pair in pairs]
    return pairs[best_child(np.array([value for value, _ in pairs], float))][1]


def draw_best(
    out: Path, config: Search, children: dict[str, list[tuple[float, list[int]]]]
) -> Figure:
    """Draws the network of the highest accuracy among those that strategies chose; `best.png`."""
    tokens = best_tokens(children)
    if config.space == "macro":
        return draw_graphs(out, [network_graph(macro_config(config), tokens)])
    if config.space == "recurrent":
        draw = {"chain": chain_graph, "tree": tree_graph}[config.cell]
        return draw_graphs(out, [draw(tokens)])
    return draw_graphs(out, cell_graphs(tokens))


def draw_graphs(out: Path, graphs: Sequence[Graph]) -> Figure:
    """Draws graphs side by side, from the top down; `best.png`."""
    depths = [_depths(graph) for graph in graphs]
    widest = max(max(Counter(depth).values()) for depth in depths)
    size = max(4.5, 1.1 * widest) * len(graphs), 1.2 * (1 + max(map(max, depths)))
    figure = Figure(figsize=size, layout="constrained")
    row = figure.subplots(1, len(graphs), squeeze=False)[0]
    for axes, graph, depth in zip(row, graphs, depths, strict=True):
        _draw_graph(axes, graph, depth)
    return save_figure(figure, out / "best.png")


def _depths(graph: Graph) -> list[int]:
    """The length of the longest path to each node."""
    depths = [0] * len(graph.nodes)
    for source, target in sorted(graph.edges):
        depths[target] = max(depths[target], depths[source] + 1)
    return depths


def _draw_graph(axes: Axes, graph: Graph, depths: list[int]) -> None:
    width, placed, places = Counter(depths), Counter[int](), []
    for depth in depths:
        places.append((2 * (placed[depth] - (width[depth] - 1) / 2), -float(depth)))
        placed[depth] += 1
    frame = {"boxstyle": "round", "facecolor": "white", "edgecolor": "gray"}
    style: dict[str, Any] = {"ha": "center", "va": "center", "bbox": frame, "fontsize": "small"}
    labelled = zip(places, graph.nodes, strict=True)
    texts = [axes.text(x, y, label, **style) for (x, y), label in labelled]
    boxes = [text.get_bbox_patch() for text in texts]
    for source, target in graph.edges:
        far = depths[target] - depths[source] > 1  # around the nodes between
        bend = 0.4 * far * (1 if places[source][0] < 0 else -1)
        arrow = {"arrowstyle": "-|>", "connectionstyle": f"arc3,rad={bend}", "color": "gray"}
        arrow |= {"patchA": boxes[source], "patchB": boxes[target], "shrinkA": 0, "shrinkB": 1}
        axes.annotate("", places[target], places[source], arrowprops=arrow)
    across, down = np.array(places).T
    axes.set(title=graph.title, xlim=(across.min() - 1.6, across.max() + 1.6))
    axes.set_ylim(down.min() - 0.4, 0.4)
    axes.axis("off")
