"""The embedded teacher's model card: what it is, what it was fed, whom to thank."""

from collections.abc import Iterable

from s3prl_pruned.models.encoder import SpeechEncoder

CREDITS = {
    "asterisk-core-sounds-en-g722": "copyright 2003-2010 Allison Smith (<http://www.theivrvoice.com>)",
    "asterisk-core-sounds-es-g722": "copyright 2003-2010 Allison Smith (<http://www.theivrvoice.com>)",
    "asterisk-core-sounds-fr-g722": "copyright 2006-2008 June Wallack (<http://www.junewallack.com>)",
    "asterisk-core-sounds-it-g722": "copyright 2012 Carlo Flora (<http://www.carloflora.com>)",
    "asterisk-core-sounds-ru-g722": "copyright 2010 Maxim Topal (<http://www.ivrvoice.ru>)",
    "festvox-ru": "copyright 2005 Nickolay V. Shmyrev",
    "fillets-ng-data-cs": "Fish Fillets NG (<http://fillets.sourceforge.net>), ALTAR interactive and others",
    "fillets-ng-data-nl": "Fish Fillets NG (<http://fillets.sourceforge.net>), ALTAR interactive and others",
    "kajongg": "copyright 2009-2012 Wolfgang Rohdewald",
    "klettres-data": "copyright 2001-2011 Anne-Marie Mahfouf and the speakers of KLettres",
    "ktuberling-data": "copyright 2007-2017 Albert Astals Cid and the speakers of KTuberling",
    "tuxpaint-stamps-default": "copyright 2002-2022 Bill Kendrick and the speakers of Tux Paint",
}
"""By package, as its Debian copyright file has it."""


def teacher_card(encoder: SpeechEncoder, about: dict) -> str:
    """Markdown.

    Args:
        encoder: the teacher.
        about: `sources` (dicts with `source`, `licence`, `minutes`, `languages`), `recipe`, `step`, `hours` of audio
            passed, `wall_minutes`, `held_out` (name to value), `train` (name to value), `hardware`, `date`, `command`.
    """
    config, recipe = encoder.config, about["recipe"]
    minutes = sum(source["minutes"] for source in about["sources"])
    channels = config.conv_layers[0][0]
    return "\n".join(
        [
            "# The embedded teacher",
            "",
            f"A small speech encoder of WavLM's architecture: {encoder.num_parameters():,} parameters, really trained on real",
            "speech, so that there is something to prune without a download. It is **not WavLM**: none of WavLM's weights are in",
            "it. It is **not self-supervised from scratch** either: it was taught to predict the states of Whisper tiny.en's",
            "encoder (Radford et al. 2023), which OpenAI trained on transcribed speech.",
            "",
            "| | |",
            "|---|---|",
            f"| convolutions | {len(config.conv_layers)} of {channels} channels, WavLM Base's kernels and strides (a frame every 20 ms), GroupNorm |",
            f"| Transformer | {config.num_layers} layers, width {config.embed_dim}, {config.num_heads} heads, feed-forward {config.ffn_dim}, post-norm, gated relative position bias |",
            "| weights | `model.safetensors`, fp16, to be run in fp32; Microsoft's names, their `cfg` as JSON in the metadata |",
            f"| made on | {about['date']} |",
            "",
            "## Training",
            "",
            *_training(about, recipe),
            "",
            "## Losses",
            "",
            "Held out: the English dev prompts of the embedded corpus, whose texts (and those of the test prompts) are not in",
            "the training speech; the voice is. The exported weights are a moving average; the losses in training are those",
            "of the weights as they were, over the last steps logged.",
            "",
            "| | in training | held out |",
            "|---|---|---|",
            *_losses(about["train"], about["held_out"]),
            "",
            "## Speech",
            "",
            f"{minutes / 60:.1f} h, from Debian packages; nothing non-commercial is in it.",
            "",
            "| package | minutes | languages | licence | credit |",
            "|---|---|---|---|---|",
            *_rows(about["sources"]),
            "",
            "Whisper's weights: copyright 2022 OpenAI, MIT licence. Licences of the speech:",
            "[CC BY-SA 3.0](https://creativecommons.org/licenses/by-sa/3.0/),",
            "[CC BY 3.0](https://creativecommons.org/licenses/by/3.0/),",
            "[GPL 2](https://www.gnu.org/licenses/old-licenses/gpl-2.0.html). None of the authors has endorsed this model.",
            "",
        ]
    )


def _training(about: dict, recipe: dict) -> Iterable[str]:
    first, second, last = recipe["student_layers"]
    yield f"- Targets: outputs of Whisper tiny.en's blocks 2 and 3 and of its final norm, predicted from layers {first}, {second} and {last}"
    yield "  through LayerNorm and a linear map each. They are standardised per dimension, and what depends on the place in"
    yield "  Whisper's 30 s window alone is taken out. Loss: L1 - log sigmoid(cosine), and"
    yield f"  {recipe['mel_weight']} x L1 of the log10-mel spectrum predicted from the convolutions' output."
    yield f"- {about['step']:,} steps of {recipe['batch_seconds']:g} s of audio in crops of {_list(recipe['crop_seconds'])} s, the first"
    yield f"  {recipe['cnn_steps']} on the convolutions alone: {about['hours']:.1f} h of audio passed in all."
    yield f"- AdamW, learning rate {recipe['lr']:g}, constant after a warm-up of {recipe['warmup_steps']} steps, falling to 0 over the last"
    yield f"  {100 * recipe['decay_fraction']:.0f} % of {recipe['total_steps']:,}; weight decay {recipe['weight_decay']:g}; average of the weights with decay {recipe['ema_decay']}."
    yield f"- English is drawn {recipe['english_weight']:g} times as often as the rest and comes in three speeds (0.9, 1, 1.1)."
    yield f"- {about['wall_minutes']:.0f} minutes of training on {about['hardware']}, beside other work."
    yield f"- Again: `{about['command']}`"


def _losses(train: dict[str, float], held_out: dict[str, float]) -> Iterable[str]:
    names = {
        "loss": "whole loss",
        "l1": "L1, standardised targets",
        "cosine_1": "cosine, block 2",
        "cosine_2": "cosine, block 3",
        "cosine_3": "cosine, final norm",
        "mel": "L1, log10-mel",
    }
    for name, text in names.items():
        passed = f"{train[name]:.3f}" if name in train else ""
        yield f"| {text} | {passed} | {held_out[name]:.3f} |"


def _rows(sources: list[dict]) -> Iterable[str]:
    for source in sources:
        package = source["source"].split()[0]
        languages = ", ".join(sorted(source["languages"]))
        credit = CREDITS.get(package, "")
        yield f"| `{source['source']}` | {source['minutes']:.1f} | {languages} | {source['licence']} | {credit} |"


def _list(numbers: list[float]) -> str:
    return ", ".join(f"{number:g}" for number in numbers)
