"""Lists and transcripts from other systems and editors; which parts of a corpus a recipe's sets mean."""

import gzip
import json

import pytest

from benchmarks.synthetic_audio import write_synthetic_corpus
from s3prl_pruned import compat
from s3prl_pruned.compat import experts
from s3prl_pruned.config import UserError
from s3prl_pruned.data.corpus import read_split
from s3prl_pruned.data.manifest import Utterance, scan_corpus, speech_digest
from s3prl_pruned.data.sources import open_corpus, sets_in, write_manifest
from s3prl_pruned.data.text import read_lines
from s3prl_pruned.superb.tasks import librispeech

LENGTHS = [16_000, 17_600, 19_200]


@pytest.fixture
def corpus(tmp_path):
    root = tmp_path / "corpus"
    write_synthetic_corpus(root, lengths=LENGTHS)
    return root


def rows(corpus, *, header="file_path,length,label", row="{path},{length},A B"):
    scanned = scan_corpus(corpus)
    lines = [row.format(path=utt.path.relative_to(corpus), length=utt.num_samples) for utt in scanned]
    return "\n".join([header, *lines]) + "\n", [(utt.id, utt.num_samples) for utt in scanned]


ENCODINGS = ["utf-8", "utf-8-sig", "utf-16", "utf-32"]


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_lists_of_any_editor_are_read(corpus, encoding, end):
    table, expected = rows(corpus)
    cuts = "".join(
        json.dumps({"id": utt.id, "sources": [{"type": "file", "source": str(utt.path)}], "sampling_rate": 16_000}
                   | {"num_samples": utt.num_samples, "duration": 1}) + "\n"
        for utt in scan_corpus(corpus)
    )  # fmt: skip
    write_manifest(corpus / "ours.jsonl", scan_corpus(corpus))
    ours = (corpus / "ours.jsonl").read_text()
    for name, text in (("list.csv", table), ("lhotse.jsonl", cuts), ("ours.jsonl", ours)):
        text = text.replace("\n", f"{end}{end}")  # blank lines, too
        (corpus / name).write_bytes(text.encode(encoding))
        assert [(utt.id, utt.num_samples) for utt in open_corpus(corpus / name)] == expected
        (corpus / f"{name}.gz").write_bytes(gzip.compress(text.encode(encoding)))
        if not name.endswith("csv"):
            assert [(utt.id, utt.num_samples) for utt in open_corpus(corpus / f"{name}.gz")] == expected


@pytest.mark.parametrize(
    "form",
    [
        {"header": "file_path;length", "row": "{path};{length}"},
        {"header": "length\tfile_path", "row": "{length}\t{path}"},
        {"header": '"file_path" , "length"', "row": '"{path}" , {length}.0'},
        {"header": "a|length|b|file_path", "row": '"x|y"|{length}|"one, ""two"""|{path}'},
    ],
)
def test_tables_of_other_programs_are_read(corpus, form):
    text, expected = rows(corpus, **form)
    (corpus / "list.csv").write_text(text)
    assert [(utt.id, utt.num_samples) for utt in open_corpus(corpus / "list.csv")] == expected


def test_backslashes_separate_folders_unless_a_file_name_has_them(corpus):
    text, expected = rows(corpus)
    (corpus / "list.csv").write_text(text.replace("/", "\\"))
    found = open_corpus(corpus / "list.csv")
    assert [(utt.id, utt.num_samples) for utt in found] == expected and all(utt.path.is_file() for utt in found)
    odd = scan_corpus(corpus)[0].path.rename(corpus / "o\\dd.flac")
    (corpus / "odd.csv").write_text("file_path,length\no\\dd.flac,16000\n")
    assert [utt.path for utt in open_corpus(corpus / "odd.csv")] == [odd]


@pytest.mark.parametrize("name", ["list.csv", "list.jsonl"])
def test_another_encoding_is_named_with_its_line(tmp_path, name):
    (tmp_path / name).write_bytes(b"file_path,length\ncaf\xe9.wav,16000\n")
    with pytest.raises(
        UserError, match=rf"{name}: must be text in UTF-8 .*line 2 is not .*byte 0xe9.*Save it as UTF-8"
    ):
        open_corpus(tmp_path / name)
    (tmp_path / name).write_bytes("file_path,length\na.wav,16000\n".encode("utf-16-le"))
    with pytest.raises(UserError, match="zero bytes, as UTF-16 without its mark"):
        open_corpus(tmp_path / name)


@pytest.mark.parametrize(
    "row, message",
    [
        ("a.wav,-5", "line 2: `length` must be a whole number of samples, but is '-5'"),
        ("a.wav,1.5", "line 2: `length` must"),
        ("a.wav,nan", "line 2: `length` must"),
        ("a.wav", "line 2: `length` must be a whole number of samples, but is ''"),
        (",16000", "line 2: `file_path` must name a file, but is ''"),
        ("..,16000", "line 2: `file_path` must name a file, but is '..'"),
        ('"' + "x" * 200_000 + '",5', "line 2: is not a CSV"),
    ],
)
def test_a_malformed_row_is_named(tmp_path, row, message):
    (tmp_path / "list.csv").write_text(f"file_path,length\n{row}\n")
    with pytest.raises(UserError, match=message):
        open_corpus(tmp_path / "list.csv")


@pytest.mark.parametrize(
    "line",
    [
        '{"num_samples": 1e300, "id": "a", "path": "a"}',
        '{"num_samples": -1, "id": "a", "path": "a"}',
        '{"num_samples": 99999999999999999999, "id": "a", "path": "a"}',
        '{"num_samples": 5, "id": ["a"], "path": "a"}',
        '{"num_samples": 5, "id": "a", "path": 5}',
        '{"num_samples": 5, "id": "a", "path": "a", "seconds": [1]}',
        '{"num_samples": 5, "id": "a", "path": "a", "seconds": [-1, 2]}',
        '{"num_samples": 5, "id": "a", "path": "a", "seconds": [NaN, 2]}',
        '{"num_samples": 5, "id": "a", "path": "a", "span": [0, "x"]}',
        '["path"]',
        '{"recording": {"sources": [{"type": "file", "source": "a"}], "duration": "x"}, "id": "a", "start": 0}',
        '{"sources": [{"type": "file", "source": "a"}], "sampling_rate": 0, "num_samples": 5, "id": "a"}',
        '{"sources": [{"type": "file", "source": "a"}], "sampling_rate": 1, "num_samples": 1e999, "id": "a"}',
        '{"sources": [], "id": "a"}',
        '{"sources": 5, "id": "a"}',
        "5",
        "null",
    ],
)
def test_a_malformed_line_is_named(tmp_path, line):
    (tmp_path / "list.jsonl").write_text(f"\n{line}\n")
    with pytest.raises(UserError, match=r"line 2|no such file"):
        list(open_corpus(tmp_path / "list.jsonl"))


def test_json_may_hold_characters_that_end_lines_in_other_text(tmp_path, corpus):
    utt = scan_corpus(corpus)[0]
    line = json.dumps({"num_samples": 16_000, "id": "a\u2028b\x85", "path": str(utt.path)}, ensure_ascii=False)
    (tmp_path / "list.jsonl").write_text(line + "\n", encoding="utf-8")
    assert [found.id for found in open_corpus(tmp_path / "list.jsonl")] == ["a\u2028b\x85"]


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_transcripts_of_any_editor_are_read_alike_by_all(tmp_path, encoding):
    write_synthetic_corpus(tmp_path, split="dev", lengths=[1000] * 2)
    for path in sorted((tmp_path / "dev").glob("*/*/*.flac")):
        listing = path.with_name(f"{path.stem.rpartition('-')[0]}.trans.txt")
        listing.write_bytes(f"\r\n{path.stem}\t ONE  TWO \r\n  \r\n\r\n".encode(encoding))
        listing.with_name(f"._{listing.name}").write_bytes(b"\0\xff of a Mac")
        assert librispeech.plain_transcripts(str(listing)) == f"{path.stem} ONE  TWO\n"
    assert [utt.text for utt in read_split(tmp_path, "dev")] == ["ONE  TWO"] * 2
    assert list(librispeech.read_split(tmp_path, "dev").transcripts.values()) == ["ONE TWO"] * 2


def test_s3prl_reads_transcripts_as_they_were_checked(tmp_path):
    compat.apply()
    experts.import_expert("asr")
    experts.read_asr_transcripts_by(librispeech.plain_transcripts)
    from s3prl.downstream.asr.dataset import SequenceDataset

    (tmp_path / "dev/1/2").mkdir(parents=True)
    (tmp_path / "dev/1/2/1-2.trans.txt").write_bytes(b"\xef\xbb\xbf1-2-0000 one\n\n1-2-0001 TWO\n\n")
    dataset = SequenceDataset.__new__(SequenceDataset)
    dataset.libri_root = str(tmp_path)
    found = dataset._load_transcript(["dev/1/2/1-2-0000.flac"])
    assert found == {"1-2-0000": "O N E |", "1-2-0001": "T W O |"}


def test_only_csvs_with_s3prls_columns_are_s3prls(corpus):
    (corpus / "metadata.csv").write_bytes(b"LJ001-0001|Printing, in the caf\xe9|x\n")
    (corpus / "meta.csv").write_text("VoxCeleb1 ID\tGender\nid10001\tm\n")
    (corpus / "._train.csv").write_text("file_path,length\n")
    (corpus / "folder.csv").mkdir()
    assert [utt.num_samples for utt in open_corpus(corpus)] == [utt.num_samples for utt in scan_corpus(corpus)]
    text, expected = rows(corpus)
    (corpus / "made.CSV").write_text(text)
    assert [(utt.id, utt.num_samples) for utt in open_corpus(corpus)] == expected
    assert len(open_corpus(corpus, ["train-clean-100"])) == 3, "a folder beside the list"
    with pytest.raises(UserError, match=r"has no \['metadata.csv'\]. It has: \['made.CSV'\].*datarc.sets="):
        open_corpus(corpus, ["metadata"])


def test_a_missing_set_is_refused_with_the_option_that_names_others(corpus):
    with pytest.raises(
        UserError, match=r"has no split 'x'. Its folders are: train-clean-100.*-o pretrain_expert.datarc.sets="
    ):
        open_corpus(corpus, ["train-clean-100", "x"])


def test_what_a_recipes_sets_mean_in_a_corpus(corpus, tmp_path):
    paper = ["train-clean-100", "train-clean-360"]
    assert sets_in(corpus, paper, "train") == paper, "one of them is there: the recipe is meant"
    assert sets_in(corpus, ["train", "extra"], "train") == ["train-clean-100"]
    assert sets_in(corpus, ["dev"], "dev") is None and sets_in(corpus, None, "train") is None
    for name in ("list.csv", "list.jsonl", "list.jsonl.gz"):
        (tmp_path / name).touch()
        assert sets_in(tmp_path / name, paper, "train") is None, "a list is taken whole"
    csvs = tmp_path / "csvs"
    csvs.mkdir()
    for name in ("train-clean-100", "dev-clean"):
        (csvs / f"{name}.csv").write_text("file_path,length\n")
    assert sets_in(csvs, ["train", "extra"], "train") == ["train-clean-100"]
    assert sets_in(csvs, ["dev-clean"], "train") == ["dev-clean"]
    (tmp_path / "shar").mkdir()
    (tmp_path / "shar" / "cuts.000000.jsonl.gz").touch()
    assert sets_in(tmp_path / "shar", paper, "train") is None


def test_the_digest_covers_names_lengths_order_and_transcripts(corpus, tmp_path):
    scanned = scan_corpus(corpus)
    write_manifest(corpus / "list.jsonl", scanned)
    assert speech_digest(open_corpus(corpus / "list.jsonl")) == speech_digest(scanned)
    corpus.rename(tmp_path / "moved")
    assert speech_digest(scan_corpus(tmp_path / "moved")) == speech_digest(scanned)
    longer = Utterance(scanned[0].id, scanned[0].path, scanned[0].num_samples + 1)
    others = [scanned[:-1], scanned[::-1], [longer, *scanned[1:]]]
    assert len({speech_digest(other) for other in [scanned, *others]}) == 4
    assert speech_digest(scanned, texts=["a", "b"]) != speech_digest(scanned, texts=["b", "a"])
    assert speech_digest([Utterance("caf\udce9", corpus, 5)])


def test_lines_are_numbered_and_blank_ones_left_out(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\none\r\n \r\ntwo\rthree")
    assert read_lines(tmp_path / "a.txt") == [(2, "one"), (4, "two"), (5, "three")]
