"""FineWeb-Edu's 10 billion tokens as shards for training.

    python fineweb.py                                  # all of sample-10BT -> edu_fineweb10B/
    python fineweb.py --shards 3                       # the first three shards only
    python fineweb.py --source my_texts --out my_data --shard_size 1000000

parquet or jsonl files -> documents -> chunks of documents -> tokens (threads) -> shards

A shard is one array of uint16, shard_size tokens of the stream

    50256, tokens of document 0, 50256, tokens of document 1, ...

cut wherever a shard is full: documents run on across shards, only the last shard is shorter. The
first shard is for validation. After a kill at any moment, the same command resumes where it
stopped, and the bytes are the same: a shard gets its name only when it is complete, and
progress.json says where in the source the next one begins. SHA256SUMS holds each shard's sha256:

    python fineweb.py --verify                         # are they still what was written?
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import os
import random
import re
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from tqdm import tqdm

from support.cli import Parser, UserError, one_line_errors, positive
from support.files import make_folder, whole_file, write_whole
from support.shards import MANIFEST, add_to_manifest, read_manifest, sha256, verify
from support.tokenizer import EOT, get_encoding

if TYPE_CHECKING:
    import pyarrow.parquet
    import tiktoken

SAMPLE_10BT = "HuggingFaceFW/fineweb-edu/sample/10BT"
CHUNK = 128  # documents handed to a thread at once
IN_FLIGHT = 4  # chunks waiting per thread, at most: bounds the memory
OUR_TEMPORARY = re.compile(
    rf"(edufineweb_(val|train)_\d{{6}}\.npy|progress\.json|{MANIFEST})\.\d+\.tmp"
)
Encode = Callable[[list[str]], np.ndarray]


# ---------- A folder of files -> chunks of documents ------------------------------------


class Chunk(NamedTuple):
    file: int  # index of the file these documents are from
    document: int  # index of the first of them in that file
    texts: list[str]
    bytes_read: int  # of all files, up to the end of this chunk


def find_files(source: str) -> dict[Path, int]:
    """The .parquet and .jsonl files of a folder or a hub dataset: path -> bytes, sorted by name.

    Raises UserError if there are none.
    """
    folder = Path(source) if Path(source).is_dir() else download(source)
    files = sorted(p for p in folder.iterdir() if p.suffix in (".parquet", ".jsonl"))
    if not files:
        texts = any(folder.glob("*.txt"))
        hint = "; one text can be trained on as it is: python train_gpt2.py --data_root FILE"
        raise UserError(
            f"no .parquet or .jsonl files in {folder}: give --source a folder of them"
            + (hint if texts else "")
        )
    for path in files:
        if not path.is_file():
            raise UserError(f"{path} is a broken link, a folder or a pipe, not a file: remove it")
    return {path: path.stat().st_size for path in files}


def list_dataset(repository: str) -> tuple[str, list[str]]:
    """The newest revision of a dataset on the hub and the paths of its files.

    = HfApi().dataset_info(repository), but with retries and time limits. Raises whatever the hub's
    client raises, and ValueError if something else than the hub answers.
    """
    from huggingface_hub import constants
    from huggingface_hub.utils import build_hf_headers, hf_raise_for_status, http_backoff

    from support import network

    response = http_backoff(
        "GET",
        f"{constants.ENDPOINT}/api/datasets/{repository}",
        headers=build_hf_headers(),
        timeout=network.TIMEOUT,
        max_retries=network.RETRIES,
        base_wait_time=network.PAUSE,
        retry_on_status_codes=network.PASSING,
    )
    hf_raise_for_status(response)
    try:
        info = response.json()
        return info["sha"], [file["rfilename"] for file in info["siblings"]]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError("what came is not a list of files: a login page?") from error


def download(source: str) -> Path:
    """Download the parquet files of OWNER/NAME[/FOLDER] on the hub; returns their local folder.

    Files already downloaded are not fetched again, and a broken download is resumed.
    Raises UserError if there is no such dataset or no network.
    """
    from huggingface_hub import hf_hub_download

    if not re.fullmatch(r"\w[\w.-]*(/[\w.-]+)+", source) or Path(source).exists():
        raise UserError(
            f"no folder {source}: give --source a folder of .parquet or .jsonl files, "
            f"or a hub dataset such as {SAMPLE_10BT}"
        )
    owner, name, *parts = source.split("/")
    repository, folder = f"{owner}/{name}", "/".join(parts)
    try:
        revision, names = list_dataset(repository)
        paths = [name for name in names if name.endswith(".parquet")]
        wanted = [path for path in paths if path.rpartition("/")[0] == folder]
        for path in wanted:  # with retries and time limits, which snapshot_download lacks in part
            local = hf_hub_download(repository, path, repo_type="dataset", revision=revision)
        if wanted:
            return Path(local).parent
    except Exception as error:  # of whichever HTTP library the hub's client uses
        reason = str(error).strip().split("\n")[0]
        raise UserError(
            f"no folder {source} here, and the download from the hub failed ({reason}): "
            "try again with a network, or give --source a local folder"
        ) from error
    folders = sorted({path.rpartition("/")[0] for path in paths})
    raise UserError(
        f"{repository} has no parquet files in folder {folder!r}, only in {folders}: "
        "give --source OWNER/NAME/FOLDER"
    )


def open_parquet(path: Path) -> pyarrow.parquet.ParquetFile:
    """Its pages are compared with their checksums, where it has any (pyarrow writes none unless
    asked to). Raises UserError if the file is not parquet or has no column `text`.
    """
    import pyarrow
    import pyarrow.parquet

    try:
        # buffer_size: the column is streamed, not loaded one whole row group at a time
        file = pyarrow.parquet.ParquetFile(path, buffer_size=2**20, page_checksum_verification=True)
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(f"{path} is not a readable parquet file: download it again") from error
    if "text" not in file.schema_arrow.names:
        raise UserError(f"{path} has no column `text`, only {', '.join(file.schema_arrow.names)}")
    return file


def parquet_documents(path: Path, start: int) -> Iterator[tuple[list[str], float]]:
    """Lists of texts from row `start` on, each with the share of the file read so far.

    Raises UserError if the file is damaged.
    """
    import pyarrow

    file = open_parquet(path)
    row = end = 0
    try:
        for group in range(file.num_row_groups):
            end += file.metadata.row_group(group).num_rows
            if end <= start:
                row = end
                continue
            for batch in file.iter_batches(CHUNK, row_groups=[group], columns=["text"]):
                texts = batch.column(0)[max(0, start - row) :].to_pylist()
                row += batch.num_rows
                if texts:
                    yield texts, row / (file.metadata.num_rows or 1)
            if row != end:  # pyarrow says nothing when a page is lost
                raise ValueError(f"expected {end}")
        if row != file.metadata.num_rows:
            raise ValueError(f"expected {file.metadata.num_rows}")
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        reason = str(error).split("\n")[0]
        raise UserError(
            f"{path} is damaged after row {row} ({reason}): download it again"
        ) from error


def jsonl_documents(path: Path, start: int) -> Iterator[tuple[list[str], float]]:
    """Lists of texts from document `start` on (blank lines do not count), as above."""
    size, number, texts = path.stat().st_size, start, []
    try:
        with path.open("rb") as file:
            for line in islice((line for line in file if line.strip()), start, None):
                number += 1
                texts.append(json.loads(line)["text"])
                if len(texts) == CHUNK:
                    yield texts, file.tell() / size
                    texts = []
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(
            f"{path}: document {number} is not a JSON object with a field `text`"
        ) from error
    except OSError as error:
        raise UserError(f"cannot read {path} ({error.strerror}): check --source") from error
    if texts:
        yield texts, 1.0


def read_chunks(files: dict[Path, int], file: int = 0, document: int = 0) -> Iterator[Chunk]:
    """All documents in order, from number `document` of file number `file` on.

    Raises UserError if a file cannot be read or a text is not a string.
    """
    bytes_before = sum(list(files.values())[:file])
    for index, (path, size) in islice(enumerate(files.items()), file, None):
        read = parquet_documents if path.suffix == ".parquet" else jsonl_documents
        for texts, share in read(path, document):
            for number, text in enumerate(texts, document):
                if not isinstance(text, str):
                    raise UserError(
                        f"{path}: the text of document {number + 1} is {text!r:.40}, "
                        "expected a string"
                    )
            yield Chunk(index, document, texts, bytes_before + int(share * size))
            document += len(texts)
        bytes_before += size
        document = 0


# ---------- Documents -> tokens ---------------------------------------------------------


class Tiktoken:
    """The reference: encode(texts) -> (n,) uint16, each document with EOT before it."""

    name = "tiktoken"

    def __init__(self, encoding: tiktoken.Encoding):
        self.encoding = encoding

    def __call__(self, texts: list[str]) -> np.ndarray:
        parts = []
        for text in texts:
            parts.append(np.array([EOT], dtype=np.uint32))
            try:  # as encode_ordinary, but without a Python list and without holding the GIL
                parts.append(self.encoding.encode_to_numpy(text, disallowed_special=()))
            except UnicodeEncodeError:  # half of a surrogate pair, possible in jsonl
                parts.append(np.array(self.encoding.encode_ordinary(text), dtype=np.uint32))
        return np.concatenate(parts).astype(np.uint16)


class Gigatoken:
    """The same tokens from gigatoken, more than ten times as fast on one core."""

    name = "gigatoken"
    # Its letters and digits are those of a newer Unicode than tiktoken's, which matters only where
    # a contraction follows one of the new ones. Any apostrophe after a rare character goes to
    # tiktoken.
    doubtful = re.compile("'(?<=[\u0800-\u1fff\u2070-\U0010ffff]')")
    # It remembers every word it has seen; a fresh one now and then bounds the memory.
    max_characters = 2**29

    def __init__(self, encoding: tiktoken.Encoding):
        self.reference = Tiktoken(encoding)
        tokens = [encoding.decode_single_token_bytes(i) for i in range(EOT)]
        self.ranks = b"".join(b"%s %d\n" % (base64.b64encode(t), i) for i, t in enumerate(tokens))
        self.load()

    def load(self) -> None:
        import gigatoken

        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "ranks.tiktoken")
            path.write_bytes(self.ranks)
            self.tokenizer = gigatoken.Tokenizer.from_tiktoken(path, pretokenizer="gpt2")
        self.characters = 0

    def __call__(self, texts: list[str]) -> np.ndarray:
        if any(map(self.doubtful.search, texts)):
            return self.reference(texts)
        if self.characters > self.max_characters:
            self.load()
        self.characters += sum(map(len, texts))
        try:
            batch = self.tokenizer.encode_batch(texts, parallel=False).layout
        except TypeError:  # half of a surrogate pair
            return self.reference(texts)
        tokens, starts = np.asarray(batch.content.data), np.asarray(batch.offsets.data)[:-1]
        return np.insert(tokens.astype(np.uint16), starts, EOT)


def sample_documents(files: dict[Path, int]) -> list[str]:
    """A few hundred texts: the first ones, some from random places of 8 files, and traps."""
    rng = random.Random(1337)
    texts = [
        "",
        "<|endoftext|>",
        "a<|endoftext|>b",
        "I'll  say:\n\n\t'tis\u00a0naïve ٣² 中文 👩‍👧 \n",
    ]
    rows = [open_parquet(p).metadata.num_rows if p.suffix == ".parquet" else 0 for p in files]
    places = [
        (file, rng.randrange(rows[file] or 1))
        for file in rng.sample(range(len(rows)), min(8, len(rows)))
    ]
    for file, document in [(0, 0)] + places:
        for chunk in islice(read_chunks(files, file, document), 1):
            texts += chunk.texts[:32]
    return texts


def choose_encoder(files: dict[Path, int]) -> Tiktoken | Gigatoken:
    """gigatoken if it is installed and agrees with tiktoken on a sample; else tiktoken."""
    reference = Tiktoken(get_encoding())
    texts = sample_documents(files)
    try:
        fast = Gigatoken(reference.encoding)
        wrong = sum(not np.array_equal(fast([text]), reference([text])) for text in texts)
        reason = f"it differs from tiktoken on {wrong} of {len(texts)} documents" if wrong else ""
    except ImportError as error:
        reason = f"{error}; it is several times faster: pip install gigatoken"
    except Exception as error:  # whatever goes wrong in it, tiktoken can do the work
        reason = f"it failed: {type(error).__name__}: {error}".split("\n")[0]
    if not reason:
        return fast
    print(f"tokenizing with tiktoken, without gigatoken ({reason})")
    return reference


def encode_in_order(
    chunks: Iterable[Chunk], encode: Encode, threads: int
) -> Iterator[tuple[Chunk, np.ndarray]]:
    """Each chunk with its tokens. Threads suffice: the tokenizer releases the GIL as it works."""
    pool = ThreadPoolExecutor(threads)
    waiting = deque()
    try:
        for chunk in chunks:
            waiting.append((chunk, pool.submit(encode, chunk.texts)))
            if len(waiting) >= IN_FLIGHT * threads:
                done, tokens = waiting.popleft()
                yield done, tokens.result()
        for done, tokens in waiting:
            yield done, tokens.result()
    finally:
        pool.shutdown(cancel_futures=True)


# ---------- Tokens -> shards ------------------------------------------------------------


@dataclass
class Progress:
    """What progress.json says: what the finished shards hold and where the next one begins."""

    source: dict[str, int]  # file name -> bytes
    shard_size: int
    read: dict[str, str] = field(default_factory=dict)  # file name -> sha256, of those begun
    shards: int = 0
    tokens: int = 0
    documents: int = 0  # that begin in the finished shards
    file: int = 0  # the next shard begins in this file,
    document: int = 0  # in this document of it,
    used: int = 0  # after this many of its tokens (EOT counts)
    complete: bool = False  # the source is used up

    def summary(self) -> str:
        return f"{self.documents:,} documents, {self.tokens:,} tokens, {self.shards:,} shards"


def seal(fields: dict) -> str:
    """A checksum of what progress.json says, which goes into it, too."""
    return hashlib.sha256(json.dumps(fields).encode()).hexdigest()


def save_progress(out: Path, progress: Progress) -> None:
    fields = asdict(progress)
    write_whole(out / "progress.json", json.dumps({**fields, "seal": seal(fields)}, indent=1))


def read_progress(path: Path) -> Progress:
    """Raises ValueError if the file is damaged or was edited, or is from before it had a seal."""
    fields = json.loads(path.read_bytes())
    found = fields.pop("seal") if isinstance(fields, dict) and "seal" in fields else None
    if found != seal(fields):
        raise ValueError("the seal differs")
    return Progress(**fields)


def note_read(progress: Progress, files: dict[Path, int], count: int) -> None:
    """Note the sha256 of the first `count` files. By name and size alone an edited file could go
    on as the old one; the time of the last change differs in any copy of the folder.

    Raises UserError if one of them is not what the hub has.
    """
    for path in list(files)[:count]:
        if path.name in progress.read:
            continue
        found = progress.read[path.name] = sha256(path)
        # In the hub's cache a file is a link to one whose name is the sha256 that the hub promised.
        promised = Path(os.readlink(path)).name if path.is_symlink() else ""
        if re.fullmatch("[0-9a-f]{64}", promised) and found != promised:
            raise UserError(f"{path} is damaged: delete {path.resolve()} to download it again")


def shard_path(out: Path, index: int) -> Path:
    return out / f"edufineweb_{'train' if index else 'val'}_{index:06d}.npy"


def open_out(out: Path, files: dict[Path, int], shard_size: int) -> Progress:
    """The progress of an earlier run in folder `out`, or that of a new one.

    Raises UserError if `out` holds anything but the first shards of this very run, as they were
    written.
    """
    delete = f"delete the folder {out} or give another --out"
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file: give another --out")
    fresh = Progress({path.name: size for path, size in files.items()}, shard_size)
    path = out / "progress.json"
    if not path.is_file():
        if any(out.glob("edufineweb_*.npy")) or (out / MANIFEST).exists():
            raise UserError(f"{out} holds shards from elsewhere (no progress.json): {delete}")
        return fresh
    try:
        found = read_progress(path)
    except (ValueError, TypeError, RecursionError) as error:
        raise UserError(
            f"{path} cannot be read (damaged, edited or of an older fineweb.py): {delete}"
        ) from error
    for name in {**found.source, **fresh.source}:
        if found.source.get(name) != fresh.source.get(name):
            raise UserError(f"{out} was begun with another {name} or without it: {delete}")
    for file in checking([file for file in files if file.name in found.read]):
        if found.read[file.name] != sha256(file):
            raise UserError(f"{file} has changed since {out} was begun: {delete}")
    if found.shard_size != shard_size:
        raise UserError(
            f"{out} was begun with --shard_size {found.shard_size}: give the same, or {delete}"
        )
    sums = read_manifest(out)
    for index in range(found.shards):
        if not shard_path(out, index).exists():
            raise UserError(f"{shard_path(out, index)} is missing: {delete}")
        if shard_path(out, index).name not in sums:
            raise UserError(f"{out / MANIFEST} lacks {shard_path(out, index).name}: {delete}")
    verify(out, checking)
    return found


def checking(files: Collection) -> Iterable:
    """With a progress bar: all the shards' sums take half a minute or more."""
    return tqdm(files, desc="checking", unit="file", file=sys.stdout, disable=not files)


def write_shards(
    files: dict[Path, int],
    out: Path,
    progress: Progress,
    last: int | None,
    encode: Encode,
    threads: int,
    show: Callable[[int, int], None],
) -> None:
    """Go on from `progress` until `last` shards exist or the source is used up.

    show(tokens, bytes_read) is called after every chunk.
    """
    shard, filled = np.empty(progress.shard_size, dtype=np.uint16), 0
    used = progress.used
    documents = progress.documents - (used > 0)  # before the current chunk
    chunks = read_chunks(files, progress.file, progress.document)
    for chunk, tokens in encode_in_order(chunks, encode, threads):
        while used < len(tokens):
            count = min(len(tokens) - used, len(shard) - filled)
            shard[filled : filled + count] = tokens[used : used + count]
            filled, used = filled + count, used + count
            if filled == len(shard):
                begun = np.flatnonzero(tokens[:used] == EOT)
                cut = used < len(tokens) and bool(tokens[used] != EOT)  # inside a document
                progress.file, progress.document = chunk.file, chunk.document + len(begun) - cut
                progress.used = int(used - begun[-1]) if cut else 0
                note_read(progress, files, chunk.file + 1)
                finish_shard(out, progress, shard, documents + len(begun))
                filled = 0
                if progress.shards == last:
                    show(progress.tokens, chunk.bytes_read)
                    return
        used = 0
        documents += len(chunk.texts)
        show(progress.tokens + filled, chunk.bytes_read)
    if progress.tokens + filled <= progress.shard_size:
        refuse_small_source(out, progress, progress.tokens + filled)
    progress.complete = True
    note_read(progress, files, len(files))
    if filled:
        finish_shard(out, progress, shard[:filled], documents)
    else:
        save_progress(out, progress)


def finish_shard(out: Path, progress: Progress, shard: np.ndarray, documents: int) -> None:
    """Save the shard, its sum, then the progress: a crash before the last repeats the shard."""
    path = shard_path(out, progress.shards)
    with whole_file(path) as file:
        # = np.save(file, shard), which does not notice when the last 4 KB find no room on the disk
        np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(shard))
        file.write(shard.data)
    add_to_manifest(path)
    progress.shards += 1
    progress.tokens += len(shard)
    progress.documents = documents
    save_progress(out, progress)


def refuse_small_source(out: Path, progress: Progress, tokens: int) -> None:
    """Removes what was written and raises UserError: there is no shard to train on."""
    save_progress(out, Progress(progress.source, progress.shard_size))  # or a kill now would leave
    for path in (out / MANIFEST, shard_path(out, 0), out / "progress.json"):  # less than it says
        path.unlink(missing_ok=True)
    if not any(out.iterdir()):
        out.rmdir()
    if tokens < 2:
        raise UserError("the source holds no text: give --source a folder of documents")
    raise UserError(
        f"the source has {tokens:,} tokens: with --shard_size {progress.shard_size} "
        "all of them go to validation and none to training; "
        f"try --shard_size {max(1, tokens // 10)}"
    )


# ---------- All of it -------------------------------------------------------------------


def tokenize(source: str, out: Path, shard_size: int, last: int | None, threads: int) -> Progress:
    """From source to shards, with a progress bar; returns what `out` then holds."""
    files = find_files(source)
    progress = open_out(out, files, shard_size)
    for path in out.glob("*.tmp"):
        if OUR_TEMPORARY.fullmatch(path.name):
            path.unlink()  # of a run that was killed while it wrote
    if progress.complete or (last is not None and progress.shards >= last):
        print("nothing to do: all of it is there")
        return progress
    encode = choose_encoder(files)
    total = sum(files.values()) if last is None else last * shard_size
    begun = sum(list(files.values())[: progress.file]) if last is None else progress.tokens
    print(
        f"{len(files)} files, {sum(files.values()) / 1e9:.2f} GB -> {out}, with {encode.name} "
        f"on {threads} threads" + (f", after shard {progress.shards}" if progress.shards else "")
    )
    make_folder(out)
    save_progress(out, progress)
    with tqdm(
        total=total,
        initial=begun,
        unit="B" if last is None else "tok",
        unit_scale=True,
        file=sys.stdout,
        mininterval=0.5,
    ) as bar:

        def show(tokens: int, bytes_read: int) -> None:
            bar.update((bytes_read if last is None else tokens) - bar.n)

        write_shards(files, out, progress, last, encode, threads, show)
        bar.total = bar.n  # the source may end before --shards does
    return progress


def verify_out(out: Path) -> None:
    """Raises UserError unless `out` has a manifest of all its shards, and they are what it says."""
    sums = read_manifest(out)
    if not sums:
        raise UserError(f"no {MANIFEST} in {out}: expected --out to be a folder of fineweb.py")
    lacking = sorted({path.name for path in out.glob("edufineweb_*.npy")} - set(sums))
    if lacking:
        raise UserError(f"{out / MANIFEST} lacks {', '.join(lacking)}: run python fineweb.py again")
    print(f"{out}: {verify(out, checking)} shards, each as it was written")


def shard_size(text: str) -> int:
    """The `type` of --shard_size: a shard is in memory while it fills."""
    size = positive(text)
    try:
        np.empty(size, dtype=np.uint16)
    except (MemoryError, ValueError, OverflowError) as error:
        raise argparse.ArgumentTypeError(f"{size} tokens do not fit in memory") from error
    return size


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = Parser(
        description="Tokenize FineWeb-Edu into shards of uint16.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument(
        "--source",
        default=SAMPLE_10BT,
        help="folder of .parquet or .jsonl files with a column text, or the "
        "OWNER/NAME[/FOLDER] of a dataset on the hub",
    )
    parser.add_argument(
        "--out", type=Path, default=Path("edu_fineweb10B"), help="folder for the shards"
    )
    parser.add_argument(
        "--shard_size", type=shard_size, default=100_000_000, help="tokens in a shard"
    )
    parser.add_argument("--shards", type=positive, help="stop after this many shards")
    parser.add_argument(
        "--nprocs",
        type=positive,
        default=os.cpu_count() or 1,
        help="documents are tokenized on this many cores",
    )
    parser.add_argument(
        "--verify",
        action="store_true",
        help=f"only compare the shards in --out with their {MANIFEST}",
    )
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """The command line; `argv` without the program's name. UserError -> one line, exit code 2."""
    with one_line_errors():
        args = parse_args(argv)
        if args.verify:
            verify_out(args.out)
            return
        start = time.time()
        progress = tokenize(args.source, args.out, args.shard_size, args.shards, args.nprocs)
        print(f"{args.out}: {progress.summary()}, {time.time() - start:.1f} seconds")


if __name__ == "__main__":
    main()
