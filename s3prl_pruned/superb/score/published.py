"""Published models with their authors' numbers: metrics, parameters, multiply-accumulates. Nothing is filled in.

Metrics are in percent (QbE: MTWV x 100), as in the source named with each model. A model may lack some tasks, or all
of them: it is listed with its size, and has no score.
"""

from __future__ import annotations

from dataclasses import dataclass, field

WANG = "Wang et al. 2023, Table 1"
_PENG = "Peng et al. 2023"
_STAR = "Jang et al. 2024, Table 1"
_ARM = "Jang et al. 2023, Table 1"
_DIARIZEN = "Han et al. 2025; DiariZen's README"
_USAD = "Chang et al. 2025 (USAD)"


@dataclass(frozen=True, kw_only=True)
class PublishedModel:
    """The published numbers of one model. Metrics in percent."""

    model: str
    source: str
    params_millions: float | None = None
    table1_score: float | None = None
    """The score that Wang et al. 2023 print in Table 1."""
    leaderboard_score: float | None = None
    """The score on superbbenchmark.org, or on its scale in a paper."""
    leaderboard_macs: float | None = None
    """Multiply-accumulates on superbbenchmark.org's own audio, as shown there or in a paper; 10^9."""
    macs_per_second: float | None = None
    """Multiply-accumulates per second of audio, as printed; 10^9."""
    structure: str | None = None
    """The model's name in ``models.peers.shape_of_published``, where its structure is known exactly."""
    note: str | None = None
    metrics: dict[str, tuple[float, ...]] = field(default_factory=dict)
    """Metrics by task, in the order of ``Task.metrics``."""


_ORDER = ("ks", "ic", "pr", "asr", "er", "qbe", "sf", "sid", "sv", "sd")


def _model(model: str, source: str, numbers: str = "", **known: float | str | None) -> PublishedModel:
    """``numbers``: KS IC PR ASR ER QbE SF-F1/CER SID SV SD, as in Table 1; ``-`` for a task that is not published."""
    texts = dict(zip(_ORDER, numbers.split() or ["-"] * len(_ORDER), strict=True))
    metrics = {task: tuple(map(float, text.split("/"))) for task, text in texts.items() if text != "-"}
    return PublishedModel(model=model, source=source, metrics=metrics, **known)  # type: ignore[arg-type]


PUBLISHED: tuple[PublishedModel, ...] = (
    _model("wav2vec", WANG, "95.59 84.92 31.58 15.86 59.79 4.85 76.37/43.71 56.56 7.99 9.90",
         table1_score=491.59),
    _model("wav2vec2 Base", WANG, "96.23 92.35 5.74 6.43 63.43 2.33 88.3/24.77 75.18 6.02 6.08",
         params_millions=95.04, table1_score=735.00, leaderboard_score=818, structure="wav2vec2_base"),
    _model("HuBERT Base", WANG, "96.30 98.34 5.41 6.42 64.92 7.36 88.53/25.2 81.42 5.11 5.88",
         params_millions=94.68, table1_score=837.63, leaderboard_score=941, leaderboard_macs=1669,
         structure="hubert_base"),
    _model("WavLM Base", WANG, "96.79 98.63 4.84 6.21 65.94 8.70 89.38/22.86 84.51 4.69 4.55",
         params_millions=94.70, table1_score=895.99, leaderboard_score=1019, leaderboard_macs=1670,
         structure="wavlm_base"),
    _model("DistilHuBERT", WANG, "95.98 94.99 16.27 13.37 63.02 5.11 82.57/35.39 73.54 8.55 6.19",
         params_millions=23.49, table1_score=647.88, leaderboard_score=717, structure="distilhubert"),
    _model("DistilWavLM", WANG, "96.40 96.39 14.18 13.24 63.69 7.07 85.27/31.80 71.00 8.87 7.2",
         params_millions=23.5, table1_score=668.39),
    _model("Wang 2023, proposed", WANG, "96.57 98.08 9.09 10.61 63.61 7.40 87.14/27.13 74.56 6.17 6.11",
         params_millions=26.57, table1_score=769.62,
         note="Table 3 prints its ASR as 10.29, Table 1 as 10.61"),
    _model("Wang 2023, w/o FAHP", WANG, "96.14 98.05 10.51 11.83 63.78 5.19 85.57/30.91 70.03 6.12 7.18",
         table1_score=721.79),
    _model("Wang 2023, w/o STE", "Wang et al. 2023, Tables 2 and 3", "- 97.07 - 10.61 64.17 - - 74.65 - -",
         params_millions=26.37),
    _model("WavLM Large", "superbbenchmark.org, the state of the art of Wang et al. 2023",
         "97.86 99.31 3.06 3.44 70.62 8.86 92.21/18.36 95.49 3.77 3.24",
         params_millions=316.6, macs_per_second=17.8, structure="wavlm_large",
         note="parameters and MACs per second as DiariZen's README prints them"),
    _model("FBANK", "superbbenchmark.org, the zero of both scales",
         "41.38 9.65 82.01 23.18 48.24 0.58 69.64/52.94 20.06 9.56 10.05"),
    _model("LightHuBERT small", "Wang R. et al. 2022",
         "96.07 98.23 6.60 8.34 64.12 7.64 87.58/26.90 69.70 5.42 5.85",
         params_millions=27.0, leaderboard_score=901, leaderboard_macs=860.7, structure="lighthubert_small"),
    _model("DPHuBERT", _PENG, "96.36 97.92 9.67 10.47 63.16 6.93 86.86/28.26 76.83 5.84 5.92",
         params_millions=23.59, leaderboard_score=866, leaderboard_macs=654.1),
    _model("DPWavLM (teacher Base+)", _PENG, "96.27 98.58 8.22 10.19 65.24 8.74 87.68/26.11 82.11 5.98 5.53",
         params_millions=23.59, leaderboard_score=926, leaderboard_macs=589),
    _model("DPWavLM, in USAD's table", _USAD, "96.3 98.6 8.2 10.2 65.2 - - 82.1 - 5.5", params_millions=23.59),
    _model("USAD Small", _USAD, "96.8 95.5 7.8 9.5 66.3 - - 73.5 - 4.9", params_millions=24.0),
    _model("STaRHuBERT-L", _STAR, "96.56 97.50 7.97 8.91 63.48 6.77 88.01/25.36 78.66 5.45 5.83",
         params_millions=26.63, leaderboard_score=896, leaderboard_macs=511.9),
    _model("STaRHuBERT", _STAR, "96.27 97.55 8.16 9.35 63.01 6.88 87.94/25.31 77.58 5.39 6.05",
         params_millions=22.31, leaderboard_score=887, leaderboard_macs=463.5),
    _model("STaRHuBERT-S", "Jang et al. 2024; its README", params_millions=14.1),
    _model("STaRHuBERT-XS", "Jang et al. 2024; its README", params_millions=9.39),
    _model("ARMHuBERT", _ARM, "96.88 97.07 7.72 9.96 62.86 6.35 87.59/26.06 65.03 5.68 7.10", params_millions=26.45),
    _model("ARMHuBERT-S", _ARM, "96.82 97.02 8.63 10.82 62.96 7.20 86.34/29.02 63.76 5.58 7.01",
         params_millions=22.39, leaderboard_score=828, leaderboard_macs=449.4),
    _model("ARMwavLM-S", _ARM, "97.01 97.76 7.42 10.03 64.54 7.41 87.41/26.97 71.29 5.99 7.11", params_millions=22.39),
    _model("MaskHuBERT", _ARM, "96.36 97.05 7.30 9.77 62.37 6.64 87.31/27.10 62.83 5.38 6.79",
         params_millions=26.64, structure="maskhubert"),
    _model("FitHuBERT", f"Lee et al. 2022, in {_ARM}",
         "96.27 91.25 13.32 12.09 59.82 4.89 84.06/32.46 55.71 8.00 6.84", params_millions=22.49),
    _model("FitW2V2", f"Lee et al. 2022, in {_ARM}",
         "96.04 93.38 12.22 11.44 62.35 4.75 86.65/29.40 64.71 6.65 6.44", params_millions=31.63),
    _model("3-L One-Pred", f"Ashihara et al. 2022, in {_ARM}",
         "96.69 94.15 13.34 12.23 63.95 4.89 82.89/34.65 75.71 6.48 6.56", params_millions=30.58),
    _model("12-L Half-L2L", f"Ashihara et al. 2022, in {_ARM}",
         "97.24 96.97 10.67 10.96 63.24 6.04 86.11/30.93 69.52 6.13 6.81", params_millions=26.87),
    _model("DiariZen Base+, 80 %", _DIARIZEN, params_millions=18.8, macs_per_second=1.1, structure="diarizen_base_s80",
         note="4.0 times as fast as dense on a GPU, as printed"),
    _model("DiariZen Base+, 90 %", _DIARIZEN, params_millions=9.4, macs_per_second=0.6,
         note="5.7 times as fast as dense on a GPU, as printed"),
    _model("DiariZen Large, 80 %", _DIARIZEN, params_millions=63.3, macs_per_second=3.8,
         note="2.6 times as fast as dense on a GPU, as printed"),
    _model("DiariZen Large, 90 %", _DIARIZEN, params_millions=30.6, macs_per_second=1.8,
         note="3.5 times as fast as dense on a GPU, as printed"),
)  # fmt: skip
"""Table 1's rows first, in its order."""
