"""A metadata.csv that cannot be meant as it reads is refused, naming the line; none is cut or run together."""

from __future__ import annotations

from pathlib import Path

import pytest

from layerdial.data.corpora.folder import prepare_folder
from layerdial.data.corpora.table import read_table
from layerdial.data.manifest import cut_speaker, open_cuts
from layerdial.errors import UserError
from tiny_corpora import reasons, texts, write_audio

HEAD = "file_name,transcription\n"
HEAD3 = "file_name,transcription,speaker_id\n"
NEEDED = ("file_name", "transcription")


def rows_of(folder: Path, content: str | bytes) -> list[tuple[int, dict[str, str], str]]:
    table = folder / "metadata.csv"
    table.write_bytes(content if isinstance(content, bytes) else content.encode())
    return [tuple(row) for row in read_table(table, NEEDED)]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (
            HEAD + "1.wav,hello, world and more\n2.wav,fine\n",
            r'line 2: the row has 3 fields, the header 2; .*"hello, world',
        ),
        (HEAD3 + "1.wav,a,anna\n2.wav,hello, world,bert\n", r"line 3: the row has 4 fields, the header 3"),
        (HEAD + "\n\n1.wav,a,b,c,d\n", r"line 4: the row has 5 fields"),
        (HEAD + '1.wav, "hello, world"\n', r"line 2: the row has 3 fields"),
        (HEAD + '1.wav,"he said hello\n2.wav,fine here\n3.wav,and "third" one\n', r"line 2: its quotes do not close"),
        (HEAD + '1.wav,fine\n2.wav,"he said hello\n3.wav,fine here\n', r"line 3: its quotes do not close"),
        (HEAD + '1.wav,"he said" hello\n', r"line 2: its quotes do not close"),
        (HEAD + '1.wav,"hello\n2.wav,fine here\n3.wav,bye"\n', r"line 2: a field goes on to line 4"),
        (HEAD + '1.wav,"two\rlines"\n', r"line 2: a field goes on"),
        ("file_name\ttranscription\n1.wav\thello\n", r"lacks .* separated by tabs; separate columns by commas"),
        ("file_name;transcription\n1.wav;hello\n", r"separated by semicolons; separate"),
        ("file_name, transcription\n1.wav, hello\n", r"found file_name, ' transcription'; write column names"),
        ("File_Name,Transcription\n1.wav,hello\n", r"found File_Name, Transcription; write column names in small"),
        ("file_name,transcription,file_name\n1.wav,hello,2.wav\n", r"has the column file_name 2 times"),
        ((HEAD + "1.wav,hello\n").encode("utf-16"), r"is in UTF-16; save it as CSV in UTF-8"),
        (HEAD.encode() + b"1.wav,fine\n2\0.wav,hello\n", r"line 3: there is a NUL byte"),
        (HEAD.encode() + b"1.wav,caf\xe9\n", r"not a CSV file in UTF-8 \(.* in line 2\)"),
        (HEAD + "1.wav," + "a" * 200_000, r"line 2: .*field larger than field limit"),
    ],
)
def test_a_table_that_cannot_be_meant_is_refused_naming_the_line(tmp_path: Path, content: str, words: str) -> None:
    with pytest.raises(UserError, match=words) as problem:
        rows_of(tmp_path, content)
    assert "\n" not in str(problem.value)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (HEAD + '1.wav,"hello, world"\n', [(2, "1.wav", "hello, world")]),
        (HEAD + '1.wav,"he said ""go"""\n', [(2, "1.wav", 'he said "go"')]),
        (HEAD + '\n2.wav,and "third" one\n', [(3, "2.wav", 'and "third" one')]),
        ("\ufeff" + HEAD.replace("\n", "\r\n") + "1.wav,a\r\n\r\n2.wav,b\r\n", [(2, "1.wav", "a"), (4, "2.wav", "b")]),
        (HEAD + "1.wav,hello,\n", [(2, "1.wav", "hello")]),
        (HEAD + '"1.wav","hello"', [(2, "1.wav", "hello")]),
        ("speaker_id,transcription,file_name\nanna,hi,1.wav\n", [(2, "1.wav", "hi")]),
    ],
)  # fmt: skip
def test_what_a_table_can_say_is_read(tmp_path: Path, content: str, expected: list[tuple[int, str, str]]) -> None:
    found = rows_of(tmp_path, content)
    assert [(line, fields["file_name"], fields["transcription"]) for line, fields, _ in found] == expected


def test_a_row_with_too_few_fields_is_left_out_and_told(tmp_path: Path) -> None:
    write_audio(tmp_path / "in" / "1.wav")
    write_audio(tmp_path / "in" / "2.wav")
    (tmp_path / "in" / "metadata.csv").write_text(HEAD3 + "1.wav,hello,anna\n2.wav,hello\n")
    report = prepare_folder(tmp_path / "in", tmp_path / "out")
    assert texts(report.splits["train"].path) == {"1": "hello"}
    assert reasons(tmp_path / "out") == {"2": "its row has 2 of 3 fields"}


def test_names_whose_last_dot_is_no_extension_are_names(tmp_path: Path) -> None:
    names = ("spk.001", "spk.002", "v1.0 take.2", "plain", "a.b.wav", "c.WAV")
    for name in names:
        write_audio(tmp_path / "in" / name, format="WAV")
    table = HEAD + "".join(f"{name},hello world\n" for name in names)
    (tmp_path / "in" / "metadata.csv").write_text(table)
    report = prepare_folder(tmp_path / "in", tmp_path / "out")
    expected = ["spk.001", "spk.002", "v1.0 take.2", "plain", "a.b", "c"]
    cuts = list(open_cuts(report.splits["train"].path))
    assert [cut.id for cut in cuts] == [cut_speaker(cut) for cut in cuts] == expected and not report.rejected


def test_files_of_one_name_in_two_folders_elsewhere_are_two(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        write_audio(tmp_path / folder / "1.wav")
    (tmp_path / "in").mkdir()
    table = HEAD + f"{tmp_path}/a/1.wav,hello\n../b/1.wav,hello\n"
    (tmp_path / "in" / "metadata.csv").write_text(table)
    assert prepare_folder(tmp_path / "in", tmp_path / "out").splits["train"].cuts == 2


def test_a_name_that_is_too_long_is_one_row_left_out(tmp_path: Path) -> None:
    write_audio(tmp_path / "in" / "1.wav")
    (tmp_path / "in" / "metadata.csv").write_text(HEAD + f"1.wav,hello\n{'a' * 300}.wav,hello\n")
    prepare_folder(tmp_path / "in", tmp_path / "out")
    assert "cannot be read: File name too long" in reasons(tmp_path / "out")["a" * 300]
