"""Task `count_files`: counts the words of text files and stores a table."""

from typing import Annotated

from msgspec import Meta, Struct

from dihedral import ArtifactRef, TaskContext, TaskError, task


class CountFiles(Struct, forbid_unknown_fields=True):
    texts: Annotated[list[ArtifactRef], Meta(min_length=1, max_length=64, description="Text files")]


class FilesCounted(Struct):
    words: list[int]
    table: ArtifactRef


@task(description="Counts the words of text files.")
def count_files(params: CountFiles, ctx: TaskContext) -> FilesCounted:
    """Raises: TaskError `no_text`: a file is not UTF-8."""
    words = []
    for number, ref in enumerate(params.texts, start=1):
        ctx.check_cancelled()
        try:
            words.append(len(ctx.fetch(ref).read_text("utf-8").split()))
        except UnicodeDecodeError as error:
            raise TaskError(f"{ref.bucket}/{ref.key} is not UTF-8", code="no_text") from error
        ctx.progress(number / len(params.texts))
    rows = "".join(f"{ref.key},{count}\n" for ref, count in zip(params.texts, words, strict=True))
    table = ctx.store("tables", "words.csv", rows.encode(), "text/csv")
    return FilesCounted(words=words, table=ArtifactRef(bucket=table.bucket, key=table.key))
