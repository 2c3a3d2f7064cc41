"""Sources of texts: Penn Treebank, one's own files, and the files of Python's standard library."""

import gzip
import hashlib
import sysconfig
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path

from maml._checks import check_count
from tasks._checks import as_path
from tasks.bounded_files import Limits, check_sizes, folder_entries
from tasks.corpus import END, LARGEST, SPLITS, Corpus, Level, check_level, make_corpus

BLANK = "_"  # a blank between the words of Penn Treebank in characters
LIMITS = Limits("text", largest=2**28, most=2**30, entries=100_000, depth=32)
PENN = {  # the MD5 of each text in Mikolov's preprocessing
    "train": "f26c4b92c5fdc7b3f8c7cdcb991d8420",
    "val": "aa0affc06ff7c36e977d7cd49e3839bf",
    "test": "8b80168b89c18661a38ef683c0dc3721",
}
# Parts of the library that are tables, tests, or programs of their own.
NOT_READ = {"encodings", "idlelib", "lib2to3", "pydoc_data", "test", "tests"}
NOT_READ |= {"site-packages", "dist-packages"}


def penn_treebank(folder: str | Path, level: Level = "characters") -> Corpus:
    """Penn Treebank as Mikolov prepared it: one text for each split, with `<eos>` after each line.

    At the level of characters a blank between words is `_`, as in Mikolov's files of characters.

    Args:
        folder: Folder with `ptb.train.txt`, `ptb.valid.txt` and `ptb.test.txt`, or with the same
            files compressed, `.gz`.
        level: Kind of the tokens: 50 characters or 10,000 words, with `<eos>` among them.

    Returns:
        The corpus.

    Raises:
        ValueError: a file is missing, is damaged, or holds another text.
    """
    check_level(level)
    folder, splits = as_path(folder, "the folder of Penn Treebank"), {}
    for split, digest in PENN.items():
        name = f"ptb.{'valid' if split == 'val' else split}.txt"
        files = [path for path in (folder / name, folder / f"{name}.gz") if path.is_file()]
        if not files:
            raise ValueError(
                f"Penn Treebank must be a folder with {name} or {name}.gz, and the two other"
                f" splits; got {folder}"
            )
        try:
            content = files[0].read_bytes()
            content = gzip.decompress(content) if files[0].suffix == ".gz" else content
        except (OSError, EOFError, zlib.error) as error:
            raise ValueError(f"{files[0]} cannot be read: {error}; copy it again") from error
        if hashlib.md5(content, usedforsecurity=False).hexdigest() != digest:
            raise ValueError(
                f"{files[0]} is damaged, or another text than Mikolov's {name}: its MD5 is not"
                f" {digest}"
            )
        splits[split] = {name: content.decode()}

    def split_line(line: str) -> list[str]:
        return [*(BLANK.join(line.split()) if level == "characters" else line.split()), END]

    return make_corpus(splits, level, LARGEST, split_line)


def own_texts(path: str | Path, level: Level = "characters", *, most: int = 10_000) -> Corpus:
    """The texts of a file or of a folder, in UTF-8.

    If the folder has the folders `train`, `val` and `test`, they are the splits, and other files
    are left out. Otherwise, of each ten files in the order of their names, the fifth is for
    validation and the tenth for the test. With fewer than ten files, the last tenth of each text
    is for the test, and the tenth before it for validation.

    Args:
        path: File, or folder in which every file is a text; files and folders whose names start
            with a dot are left out.
        level: Kind of the tokens. Lines of words end with `<eos>`.
        most: Largest size of the vocabulary; rarer tokens become `<unk>`.

    Returns:
        The corpus; its notes say how many files are left out.

    Raises:
        ValueError: there is no such file or folder, or no text in it; a text is not UTF-8; some of
            the folders `train`, `val` and `test` are missing; a split has no text; or there are
            fewer than two different tokens. The message has the path, or the names of the files.
    """
    check_level(level)
    check_count(most, least=2, of="tokens in the vocabulary")
    path = as_path(path, "the path of the texts")
    if path.is_file():
        text = _read(path)
        if not text:
            raise ValueError(f"a text must have characters; {path} is empty")
        return _corpus(path, _cut({path.name: text}), level, most)
    if not path.is_dir():
        raise ValueError(f"the texts must be a file or a folder; there is no {path}")
    sizes = {
        name: status.st_size
        for name, status in folder_entries(path, LIMITS).items()
        if status and not any(part.startswith(".") for part in name.split("/"))
    }
    check_sizes(path, sizes, LIMITS)
    if not sizes:
        raise ValueError(f"a folder of texts must have a file; {path} has none")
    texts = {name: _read(path / name) for name in sizes}
    present = [split for split in SPLITS if any(n.startswith(f"{split}/") for n in texts)]
    if not present:
        splits = _cut(texts) if len(texts) < 10 else _by_tenths(texts, lambda name: name)
        return _corpus(path, splits, level, most)
    if len(present) < len(SPLITS):
        raise ValueError(
            f"{path} must have texts in all of the folders {', '.join(SPLITS)}, or no folder with"
            f" such a name; got {', '.join(present)}"
        )
    splits = {s: {n: t for n, t in texts.items() if n.startswith(f"{s}/")} for s in SPLITS}
    corpus = _corpus(path, splits, level, most)
    if others := len(texts) - sum(map(len, splits.values())):
        note = f"Files outside of the folders {', '.join(SPLITS)} are left out: {others}."
        return corpus._replace(notes=(note, *corpus.notes))
    return corpus


def standard_library(level: Level = "characters") -> Corpus:
    """The source files of Python's standard library, which need no data and no network.

    A file is a text. The files of a module, such as `json`, are all in one split: of each ten
    modules in the order of their names, the fifth is for validation and the tenth for the test.
    Tests, tables of characters, and programs such as `idlelib` are left out. The texts are those of
    the Python that runs. The 127 most frequent characters, or 9,999 words, are tokens; others are
    `<unk>`.

    Args:
        level: Kind of the tokens.

    Returns:
        The corpus.

    Raises:
        ValueError: this Python has no source files of its library.
    """
    check_level(level)
    folder = Path(sysconfig.get_paths()["stdlib"])
    files = sorted(file.relative_to(folder) for file in folder.rglob("*.py"))
    texts = {f.as_posix(): _read(folder / f) for f in files if not NOT_READ & set(f.parts)}
    splits = _by_tenths(texts, lambda name: name.removesuffix(".py").split("/")[0])
    if not all(splits.values()):
        raise ValueError(
            f"this Python must have the source files of its library in {folder}; got {len(texts)}"
            " files: texts of your own would work"
        )
    return make_corpus(splits, level, 128 if level == "characters" else 10_000)


def _corpus(path: Path, texts: dict[str, dict[str, str]], level: Level, most: int) -> Corpus:
    """The corpus of own texts, whose refusals name the path."""
    try:
        return make_corpus(texts, level, most)
    except ValueError as error:
        raise ValueError(f"{path} is refused: {error}") from error


def _read(file: Path) -> str:
    content = file.read_bytes()
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{file} must be a text in UTF-8; got the byte {content[error.start]:#04x} at"
            f" {error.start}: {error.reason}"
        ) from error


def _by_tenths(texts: Mapping[str, str], group: Callable[[str], str]) -> dict[str, dict[str, str]]:
    """The splits of texts in groups: of ten groups the fifth and the tenth are not for training."""
    groups = sorted({group(name) for name in texts})
    place = {name: number % 10 for number, name in enumerate(groups)}
    splits: dict[str, dict[str, str]] = {split: {} for split in SPLITS}
    for name, text in texts.items():
        splits[{4: "val", 9: "test"}.get(place[group(name)], "train")][name] = text
    return splits


def _cut(texts: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """The splits of few texts, each of which is cut at 8/10 and 9/10 of its length.

    Raises:
        ValueError: the texts are so short that no text is left for a split.
    """

    def piece(text: str, first: int, last: int) -> str:
        return text[len(text) * first // 10 : len(text) * last // 10]

    bounds = dict(zip(SPLITS, ((0, 8), (8, 9), (9, 10)), strict=True))
    splits = {s: {n: piece(text, *bounds[s]) for n, text in texts.items()} for s in SPLITS}
    if not all(any(named.values()) for named in splits.values()):
        raise ValueError(
            "of fewer than ten files, validation and test have a tenth of each text each, so a text"
            f" must have ten characters or more; too few have {', '.join(texts):.99}"
        )
    return splits
