"""ASR fine-tuning and pruning in one pass: from labelled speech to a recogniser; and wrong input."""

import json
import shutil

import editdistance
import pytest
import torch

from s3prl_pruned.checkpoint import load_checkpoint
from s3prl_pruned.config import UserError, from_dict
from s3prl_pruned.data.manifest import Utterance
from s3prl_pruned.formats.folder import load_encoder, model_hash
from s3prl_pruned.models import families
from s3prl_pruned.models.spec import CompactSpec
from s3prl_pruned.objectives.ctc import Characters, CtcHead, frames_needed
from s3prl_pruned.pretrain.asr.config import AsrDataConfig, AsrModelConfig, AsrRunnerConfig
from s3prl_pruned.pretrain.asr.data import Labelled, LabelledBatches, read_sets
from s3prl_pruned.pretrain.asr.pretrain_expert import UpstreamPretrainExpert
from s3prl_pruned.pretrain.asr.recognizer import Recognizer, load_recognizer, read_test
from s3prl_pruned.pretrain.command import main
from s3prl_pruned.pretrain.conversion import convert
from s3prl_pruned.pretrain.finish import masked_student
from s3prl_pruned.pretrain.logging import read_log
from s3prl_pruned.pretrain.optim import build_optimizers
from s3prl_pruned.pretrain.recipes import MODEL_FILE, RUNNER_FILE, load_recipe
from s3prl_pruned.pretrain.resolve import RECIPES
from s3prl_pruned.sparsity.counts import parameters
from tests.tiny_asr import RUNNER, Asr
from tests.tiny_run import tiny_wavlm


@pytest.fixture(scope="module")
def asr(recipe, tmp_path_factory):
    return Asr(tmp_path_factory.mktemp("asr"), recipe.teacher)


@pytest.fixture(scope="module")
def run(asr):
    return asr.train(asr.root / "run")


def test_the_exported_recogniser_and_the_masked_model_give_the_same_transcripts(asr, run):
    recognizer = load_recognizer(run / "export")
    student, _, provenance = masked_student(run / "states-4.ckpt")
    state = load_checkpoint(run / "states-4.ckpt")
    head = CtcHead(student.config.embed_dim, 29)
    head.load_state_dict(state["Head"])
    assert all(torch.equal(value, recognizer.head.state_dict()[name]) for name, value in head.state_dict().items())
    with torch.no_grad():  # a head for both that outputs many letters for noise
        head.projection.weight.normal_(generator=torch.Generator().manual_seed(0))
        noise = 0.1 * torch.randn(1, 16_000, generator=torch.Generator().manual_seed(1))
        state_of_noise = student(noise).hidden_states[-1].mean((0, 1))
        head.projection.bias.copy_(-head.projection.weight @ state_of_noise)
        recognizer.head.load_state_dict(head.state_dict())
    masked = Recognizer(student, head.eval(), Characters(state["Characters"]))
    labelled = read_sets(asr.corpus, ["dev-clean", "train-clean-100"])
    written = [recognizer.transcribe(item.utterance.read()) for item in labelled]
    assert written == [masked.transcribe(item.utterance.read()) for item in labelled]
    assert len(set(written)) > 1 and all(set(text) <= set(recognizer.characters.text) for text in written)
    assert recognizer.encoder.num_parameters() < student.num_parameters()
    assert "CTC fine-tuning with self-pinching gates" in provenance["method"]
    assert "load_recognizer(<this folder>).transcribe(wav)" in (run / "export" / "README.md").read_text()


def test_word_errors_are_logged_on_dev_and_measured_on_test_at_the_end(run):
    lines = read_log(run)
    assert [line["step"] for line in lines if "dev_wer" in line] == [2, 4]
    result = read_test(run)
    assert len(result["utterances"]) == 3 and result["words"] == 1 + 2 + 3
    edits = sum(
        editdistance.eval(texts["hypothesis"].split(), texts["reference"].split())
        for texts in result["utterances"].values()
    )
    assert result["edits"] == edits and result["wer"] == edits / 6


def test_a_finished_run_called_again_only_runs_missing_tests(asr, run, capsys):
    before, kept = (run / "states-4.ckpt").stat().st_mtime_ns, (run / "test.json").read_text()
    (run / "test.json").unlink()
    asr.train(run)
    assert "finished already" in (printed := capsys.readouterr().out) and "WER on test-clean: " in printed
    assert (run / "test.json").read_text() == kept and (run / "states-4.ckpt").stat().st_mtime_ns == before


def test_a_dry_run_takes_steps_and_writes_nothing(asr, tmp_path, capsys):
    asr.train(tmp_path / "run", "--dry-run")
    assert "first losses: " in capsys.readouterr().out and not (tmp_path / "run").exists()


def test_a_resumed_run_ends_like_an_uninterrupted_one(asr, run, tmp_path):
    again = tmp_path / "again"
    shutil.copytree(run, again)
    shutil.rmtree(again / "export")
    for name in ("states-4.ckpt", "test.json"):
        (again / name).unlink()
    asr.train(again, "-a")
    assert model_hash(again / "export") == model_hash(run / "export")
    assert (again / "export" / "ctc_head.safetensors").read_bytes() == (
        run / "export" / "ctc_head.safetensors"
    ).read_bytes()
    assert [line["ctc"] for line in read_log(again)] == [line["ctc"] for line in read_log(run)]


# --- one optimiser step ---------------------------------------------------------------------------


def step_of(asr, batches, target):
    config = from_dict(
        AsrModelConfig, {"teacher": str(asr.teacher), "sparsity": {"target_sparsity": target, "tolerance": 0.02}}, "x"
    )
    for name in ("dropout", "attention_dropout", "activation_dropout"):
        setattr(config.student, name, 0.0)
    datarc = {**RUNNER["pretrain_expert"]["datarc"], "corpus": str(asr.corpus)}
    expert = UpstreamPretrainExpert(datarc, config, "cpu", seed=0, family="wavlm")
    expert.model.train()
    with torch.no_grad():
        for threshold in expert.model.gates.parameters():
            threshold.fill_(0.5)
    records = {}
    expert.begin_step(5, 10, batches)
    for batch in batches:
        expert(batch, records, 5).backward()
    expert.end_backward(records)
    records = {name: float(value) for name, value in records.items()}
    return records, {name: p.grad.clone() for name, p in expert.model.named_parameters() if p.grad is not None}


def labelled_batch():
    generator = torch.Generator().manual_seed(0)
    wavs = torch.randn(4, 8_000, generator=generator) * 0.1
    targets = torch.randint(1, 29, (4, 6), generator=generator)
    return wavs, torch.full((4,), 8_000), targets, torch.tensor([6, 5, 4, 3])


def test_accumulating_two_part_batches_equals_one_whole_batch(asr):
    whole = labelled_batch()
    parts = [tuple(x[:1] for x in whole), tuple(x[1:] for x in whole)]
    (once, gradients), (twice, others) = step_of(asr, [whole], 0.9), step_of(asr, parts, 0.9)
    assert twice == pytest.approx(once, rel=1e-5) and gradients.keys() == others.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(others[name], gradient, rtol=1e-3, atol=1e-6, msg=name)
    assert {"head.projection.weight", "gates.layers.0.int"} <= gradients.keys()


def test_the_size_term_raises_thresholds_below_the_band_lowers_them_above_and_is_0_inside(asr):
    batch = labelled_batch()
    standing = step_of(asr, [batch], 0.9)[0]["expected_sparsity"]
    assert 0.1 < standing < 0.8
    found = {
        name: step_of(asr, [batch], target) for name, target in (("under", 0.9), ("inside", standing), ("over", 0.01))
    }
    assert found["under"][0]["size_penalty"] == pytest.approx(1 - standing)
    assert found["inside"][0]["size_penalty"] == 0
    assert found["over"][0]["size_penalty"] == pytest.approx(-(1 - standing))
    name = "gates.layers.1.int"
    inside = float(found["inside"][1][name])
    assert float(found["under"][1][name]) < inside < float(found["over"][1][name])  # descent raises t below the band
    assert float(found["under"][1][name]) + float(found["over"][1][name]) == pytest.approx(2 * inside, rel=1e-3)
    assert inside != 0, "CTC has a gradient to the thresholds too"


def test_the_head_has_a_learning_rate_of_its_own_on_the_common_schedule(asr):
    config = from_dict(AsrModelConfig, {"teacher": str(asr.teacher), "sparsity": {"target_sparsity": 0.5}}, "x")
    runner = from_dict(
        AsrRunnerConfig, {**RUNNER, "optimizer": {"lr": 1e-3, "head_lr": 1e-2, "warmup_proportion": 0.5}}, "x"
    )
    expert = UpstreamPretrainExpert(
        {**RUNNER["pretrain_expert"]["datarc"], "corpus": str(asr.corpus)}, config, "cpu", family="wavlm"
    )
    optimizers = build_optimizers(expert, runner.optimizer, 10)
    assert optimizers.set_step(2) == pytest.approx(1e-3 * 2 / 5)
    head = {id(p) for p in expert.model.head.parameters()}
    rates = {id(p): group["lr"] for group in optimizers.weights.param_groups for p in group["params"]}
    assert [rates[i] for i in head] == pytest.approx([1e-2 * 2 / 5] * 2)
    assert [rate for i, rate in rates.items() if i not in head] == pytest.approx([1e-3 * 2 / 5] * (len(rates) - 2))
    assert len(rates) == len(list(expert.model.student.parameters())) + 2


# --- data -----------------------------------------------------------------------------------------


def batches_of(labelled, **changes):
    datarc = from_dict(AsrDataConfig, {**RUNNER["pretrain_expert"]["datarc"], **changes}, "x")
    return LabelledBatches(labelled, Characters(), tiny_wavlm(), datarc, seed=3)


def test_batches_are_whole_utterances_with_transcripts_and_depend_only_on_their_number(asr):
    labelled = read_sets(asr.corpus, ["train-clean-100"])
    batches, same = batches_of(labelled), batches_of(labelled)
    texts = {tuple(Characters().encode(item.transcript)): item.utterance.num_samples for item in labelled}
    seen = []
    for index in reversed(range(len(batches))):
        wavs, lengths, targets, target_lengths = batches.batch(index)
        for wav, length, target, size in zip(wavs, lengths.tolist(), targets, target_lengths.tolist()):
            assert texts[tuple(target[:size].tolist())] in {length, 8_000, 11_200} and not wav[length:].any()
            seen.append(length)
        assert all(torch.equal(a, b) for a, b in zip(batches.batch(index), same.batch(index)))
    assert sorted(seen) == [8_000 + 800 * i for i in range(5)]


@pytest.mark.parametrize("bound", [{"train_batch_size": 5}, {"max_batch_seconds": 2.4, "max_seconds": 1.0}])
def test_the_parts_of_processes_make_up_the_batch_with_its_padding(asr, bound, monkeypatch):
    monkeypatch.setattr("s3prl_pruned.data.batches.BUCKETS", 2)
    batches = batches_of(read_sets(asr.corpus, ["train-clean-100"]), **bound)
    assert batches.smallest > 1
    for index in range(len(batches)):
        whole = batches.batch(index)
        for parts in range(1, len(whole[0]) + 1):
            for part in range(parts):
                wavs, lengths, targets, target_lengths = batches[index, part, parts]
                for found, all_of_it in ((wavs, whole[0]), (lengths, whole[1]), (target_lengths, whole[3])):
                    assert torch.equal(found, all_of_it[part::parts])
                for found, expected in zip(targets, whole[2][part::parts], strict=True):
                    assert torch.equal(found[found > 0], expected[expected > 0])


def test_utterances_too_long_or_too_short_for_their_transcript_are_left_out_with_a_warning(asr, caplog):
    labelled = read_sets(asr.corpus, ["train-clean-100"])
    assert batches_of(labelled, max_seconds=0.6).num_utterances == 3  # 8,000, 8,800 and 9,600 samples
    assert "2 of 5 training utterances are left out" in caplog.text
    frames = tiny_wavlm().num_frames(8_000)
    fits = next(n for n in range(99) if frames_needed(Characters().encode("A" * n)) > frames) - 1
    for length, kept in ((fits, 1), (fits + 1, 0)):
        utterance = Utterance("x", labelled[0].utterance.path, 8_000)
        extra = [labelled[1], Labelled(utterance, "A" * length)]
        assert batches_of(extra).num_utterances == 1 + kept
    with pytest.raises(UserError, match="none of the 5 training utterances has a transcript that fits"):
        batches_of(labelled, max_seconds=0.45, min_seconds=0.4)


def test_characters_outside_the_vocabulary_are_listed_over_all_sets(asr, tmp_path):
    corpus = tmp_path / "corpus"
    shutil.copytree(asr.corpus, corpus)
    for split, old, new in (
        ("train-clean-100", "ONE", "ÖNE"),
        ("dev-clean", "TWO", "TWO2"),
        ("test-clean", "ONE", "ÕNE"),
    ):
        (listing,) = (corpus / split).glob("*/*/*.trans.txt")
        listing.write_text(listing.read_text().replace(old, new))
    with pytest.raises(UserError, match="transcripts hold 3 characters outside the vocabulary") as refusal:
        asr.train(tmp_path / "run", "--corpus", str(corpus))
    for found in ("'2' in 2, such as dev-clean/2-7-0001", "'Ö' in 5, such as train-clean-100/1-7-0000", "'Õ' in 3"):
        assert found in str(refusal.value)
    with pytest.raises(UserError, match="hold 2 characters outside"):  # in the training transcripts
        asr.train(tmp_path / "run", "--corpus", str(corpus), "-o", "ctc.characters=null")
    assert not (tmp_path / "run").exists()


# --- already pruned, out of reach, other families -------------------------------------------------


def test_a_pruned_model_is_fine_tuned_without_gates_and_keeps_its_structure(asr, run, tmp_path):
    pruned, _ = load_encoder(run / "export")
    options = "self_pinching=null,,runner.total_steps=2,,ctc.characters=null"
    folder = asr.train(tmp_path / "run", "--teacher", str(run / "export"), "-o", options)
    encoder, provenance = load_encoder(folder / "export")
    assert encoder.spec == pruned.spec and provenance["method"].startswith("CTC fine-tuning without pruning")
    before, after = pruned.state_dict(), encoder.state_dict()
    assert any(not torch.equal(before[name], after[name]) for name in before if "layers" in name), "it was trained"
    assert load_recognizer(folder / "export").characters.text == " 'DENOPSTW"
    assert read_log(folder)[-1]["expected_sparsity"] == pytest.approx(provenance["sparsity"]["realised"])


def test_a_pruned_model_is_pruned_further_but_not_to_a_lower_sparsity(asr, run, tmp_path):
    with pytest.raises(UserError, match=r"is already pruned to 0\.\d+; gates of the kinds \['head', 'int'\] reach"):
        asr.train(tmp_path / "less", "--teacher", str(run / "export"), "-o", "sparsity.target_sparsity=0.01")
    more = asr.train(
        tmp_path / "more", "--teacher", str(run / "export"), "-o", "sparsity.target_sparsity=0.95,,runner.total_steps=2"
    )
    before, after = (load_encoder(folder / "export")[0] for folder in (run, more))
    assert after.num_parameters() <= before.num_parameters()


def test_a_rate_out_of_reach_names_the_range(asr, tmp_path):
    with pytest.raises(
        UserError, match=r"is 0.9, but gates of the kinds \['head'\] reach 0\.\d+ at most .*\(from 0.0000\)"
    ):
        asr.train(tmp_path / "run", "-o", "self_pinching.kinds=[head],,sparsity.target_sparsity=0.9")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["-u", "hubert_pruned_asr"],
            "must be a hubert encoder, but 'embedded' is a wavlm.*or train -u wavlm_pruned_asr",
        ),
        (
            ["-u", "wav2vec2_pruned_asr", "--recipe", "self_pinching_asr"],
            "no corpus is set. Add --corpus /data/LibriSpeech",
        ),
        (["-u", "wavlm_pruned_tts"], "`-u` must be one of .*'wavlm_pruned_asr'.* but is 'wavlm_pruned_tts'"),
        (["-u", "wavlm_pruned_asr", "-o", "pretrain_expert.datarc.sets=null"], "`sets` must name the folders"),
        (["-u", "wavlm_pruned_asr", "-o", "ctc.dropout=1"], r"`dropout` must be in \[0, 1\), but is 1"),
    ],
)
def test_wrong_calls_are_refused_with_what_to_do(arguments, message, tmp_path):
    with pytest.raises(UserError, match=message):
        main([*arguments, "-p", str(tmp_path / "run"), "--device", "cpu"])
    assert not (tmp_path / "run").exists()


def test_a_checkpoint_and_an_export_are_converted_with_their_head(run, tmp_path):
    head = (run / "export" / "ctc_head.safetensors").read_bytes()
    convert(run / "states-4.ckpt", tmp_path / "again", "folder")
    convert(run / "export", tmp_path / "int8", "folder", int8=True)
    wav = 0.1 * torch.randn(16_000)
    for folder in ("again", "int8"):
        assert (tmp_path / folder / "ctc_head.safetensors").read_bytes() == head
        assert set(load_recognizer(tmp_path / folder).transcribe(wav)) <= set(Characters().text)


def test_an_export_without_a_head_and_a_damaged_head_are_refused(run, tmp_path):
    folder = tmp_path / "export"
    shutil.copytree(run / "export", folder)
    (folder / "ctc_head.safetensors").write_bytes(b"half")
    with pytest.raises(UserError, match="holds no matching CTC head"):
        load_recognizer(folder)
    (folder / "ctc_head.safetensors").unlink()
    with pytest.raises(UserError, match="holds no matching CTC head"):
        load_recognizer(folder)
    with pytest.raises(UserError, match="is not a test result of an ASR run"):
        read_test(folder)


# --- recipes --------------------------------------------------------------------------------------


def recipe_of(name):
    model = from_dict(AsrModelConfig, load_recipe(RECIPES / name / MODEL_FILE, MODEL_FILE), name)
    return model, from_dict(AsrRunnerConfig, load_recipe(RECIPES / name / RUNNER_FILE, RUNNER_FILE), name)


@pytest.mark.parametrize(
    ("name", "shape", "removed"),
    [
        ("self_pinching_asr", families.wav2vec2_base, 0.65),
        ("self_pinching_asr_hubert_large_s60", families.hubert_large, 0.60),
    ],
)
def test_the_recipes_targets_are_the_papers_shares_of_all_parameters(name, shape, removed):
    model, runner = recipe_of(name)
    config = shape()
    dense = CompactSpec.dense(config)
    kept = 1 - model.sparsity.goal
    ffn = tuple(range(round(config.ffn_dim * kept)))
    layers = []
    for number, layer in enumerate(dense.layers):  # heads removed as evenly as whole heads allow
        heads = round((number + 1) * config.num_heads * kept) - round(number * config.num_heads * kept)
        layers.append(type(layer)(attention=True, heads=layer.heads[:heads], feed_forward=True, ffn=ffn))
    before, after = (sum(parameters(config, spec).values()) for spec in (dense, CompactSpec(layers=tuple(layers))))
    assert 1 - after / before == pytest.approx(removed, abs=0.003)
    assert runner.optimizer.gate_lr == 1e-4 and runner.pretrain_expert.datarc.sets == ("train-clean-100",)
    assert runner.pretrain_expert.datarc.test_sets == ("test-clean",) and model.self_pinching.kinds == ("head", "int")


def test_the_second_stages_differ_from_the_one_pass_recipes_in_the_gates_only():
    for one, two in (("self_pinching_asr", "finetune_asr"), ("self_pinching_asr_embedded", "finetune_asr_embedded")):
        (model, runner), (plain, stage) = recipe_of(one), recipe_of(two)
        assert model.self_pinching is not None and plain.self_pinching is None
        plain.self_pinching, plain.sparsity, stage.optimizer.gate_lr = (
            model.self_pinching,
            model.sparsity,
            runner.optimizer.gate_lr,
        )
        assert plain == model and stage == runner


def test_the_head_depends_on_the_seed_and_random_encoders_are_labelled(asr, tmp_path):
    heads = []
    for folder, seed in (("a", 1), ("b", 1), ("c", 2)):
        torch.manual_seed(len(heads))  # earlier random numbers in the process must not matter
        options = "optimizer.lr=1e-9,,runner.total_steps=1,,sparsity.target_sparsity=0.5"
        run = asr.train(tmp_path / folder, "--seed", str(seed), "--teacher", "random", "-o", options)
        heads.append(load_recognizer(run / "export").head.projection.weight)
    assert torch.allclose(heads[0], heads[1], atol=1e-6) and not torch.allclose(heads[0], heads[2], atol=1e-3)
    config = json.loads((run / "export" / "config.json").read_text())
    assert config["provenance"]["teacher_note"] == "random teacher"
