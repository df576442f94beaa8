"""The embedded teacher's model card: the model, its training data, credits."""

from s3prl_pruned.models.encoder import SpeechEncoder
from s3prl_pruned.models.shape import EncoderConfig
from s3prl_pruned.tables import Column, Table

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
"""Credits by package, as in its Debian copyright file."""


TEMPLATE = """\
# The embedded teacher

A small speech encoder of WavLM's architecture: {parameters:,} parameters, really trained on real speech, so that there
is something to prune without a download. It is **not WavLM**: none of WavLM's weights are in it. It is **not
self-supervised from scratch** either: it was taught to predict the states of Whisper tiny.en's encoder (Radford et al.
2023), which OpenAI trained on transcribed speech.

{architecture}

## Training

- Targets: outputs of Whisper tiny.en's blocks 2 and 3 and of its final norm, predicted from layers {student_layers}
  through LayerNorm and a linear map each. What depends on the place in Whisper's 30 s window alone is taken out of
  them, and they are standardised per dimension. Loss: L1 - log sigmoid(cosine), and {mel_weight:g} x L1 of the
  log10-mel spectrum ({mel_decades:g} decades) predicted from the convolutions' output.
- {step:,} steps of {batch_seconds:g} s of audio in crops of {crop_seconds} s, the first {cnn_steps:,} of them on the
  convolutions alone ({cnn_batch_seconds:g} s a step): {hours:.1f} h of audio passed in all.
- AdamW, weight decay {weight_decay:g}, gradients clipped at {gradient_clipping:g}. Learning rate {cnn_lr:g} for the
  convolutions alone, then {lr:g}, constant after a warm-up of {warmup_steps} steps and falling to 0 over the last
  {decay_steps:,} of {total_steps:,}. Exported is a moving average of the weights (decay {ema_decay:g}).
- English is drawn {english_weight:g} times as often as the rest and comes in three speeds (0.9, 1, 1.1).
- {wall_minutes:.0f} minutes of training on {hardware}, beside other work on the same machine.
- Again: `{command}`

## Losses

Held out: the English dev prompts of the embedded corpus. Neither their texts nor those of its test prompts are in the
training speech; the voice is. In training: the weights as they were, not their average, over the last steps logged.

{losses}

## Speech

{total_hours:.1f} h, from Debian packages; nothing non-commercial is in it.

{sources}

Whisper's weights: copyright 2022 OpenAI, MIT licence. Licences of the speech:
[CC BY-SA 3.0](https://creativecommons.org/licenses/by-sa/3.0/),
[CC BY 3.0](https://creativecommons.org/licenses/by/3.0/),
[GPL 2](https://www.gnu.org/licenses/old-licenses/gpl-2.0.html), and for `festvox-ru` a BSD-like one. None of the
authors has endorsed this model.
"""


def teacher_card(encoder: SpeechEncoder, about: dict) -> str:
    """The model card in Markdown.

    Args:
        encoder: the teacher.
        about: `sources` (dicts with `source`, `licence`, `minutes`, `languages`), `recipe`, `step`, `hours` of audio
            used in training, `wall_minutes`, `held_out` and `train` (name of a loss to its value), `hardware`, `date`,
            `command`.
    """
    recipe = about["recipe"]
    lists = {name: ", ".join(f"{x:g}" for x in recipe[name]) for name in ("student_layers", "crop_seconds")}
    values = {
        **recipe,
        **lists,
        **{name: about[name] for name in ("step", "hours", "wall_minutes", "hardware", "command")},
        "decay_steps": round(recipe["decay_fraction"] * recipe["total_steps"]),
        "parameters": encoder.num_parameters(),
        "total_hours": sum(source["minutes"] for source in about["sources"]) / 60,
        "architecture": _architecture(encoder.config, about["date"]).markdown(),
        "losses": _losses(about["train"], about["held_out"]).markdown(),
        "sources": _sources(about["sources"]).markdown(),
    }
    return TEMPLATE.format_map(values)


def _architecture(config: EncoderConfig, date: str) -> Table:
    convolutions = f"{len(config.conv_layers)} of {config.conv_layers[0][0]} channels"
    layers = f"{config.num_layers} layers, width {config.embed_dim}, {config.num_heads} heads, FFN {config.ffn_dim}"
    rows = [
        ["convolutions", f"{convolutions}, WavLM Base's kernels and strides (20 ms a frame), GroupNorm"],
        ["Transformer", f"{layers}, post-norm, gated relative position"],
        [
            "weights",
            "`model.safetensors`, fp16, to be run in fp32; Microsoft's names and, in the metadata, their `cfg`",
        ],
        ["made on", date],
    ]
    return Table([Column("part", ""), Column("about", "")], rows)


def _losses(train: dict[str, float], held_out: dict[str, float]) -> Table:
    names = {
        "loss": "whole loss",
        "l1": "L1, standardised targets",
        "cosine_1": "cosine, block 2",
        "cosine_2": "cosine, block 3",
        "cosine_3": "cosine, final norm",
        "mel": "L1, log10-mel",
    }
    columns = ["", *(Column(title, show="{:.3f}", absent="") for title in ("in training", "held out"))]
    return Table(columns, [[text, train.get(name), held_out[name]] for name, text in names.items()])


def _sources(sources: list[dict]) -> Table:
    columns = [
        Column("source", "package", show="`{}`"),
        Column("minutes", show="{:.1f}"),
        Column("languages", show=lambda languages: ", ".join(sorted(languages))),
        "licence",
        Column("credit", absent=""),
    ]
    return Table(columns, [{**source, "credit": CREDITS.get(source["source"].split()[0])} for source in sources])
