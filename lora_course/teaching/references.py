"""The papers of the course, in one table: a lesson may cite an arXiv id only if it stands here.

Each entry says what to read the paper for and which lesson sends you there. The ids were checked against the papers'
own titles and authors; `NOT_OURS` holds two ids that circulate in slides on this subject and lead somewhere else.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Paper:
    """arxiv: the id without version; lesson: two digits."""

    arxiv: str
    title: str
    authors: str
    year: int
    read_it_for: str
    lesson: str

    @property
    def link(self) -> str:
        return f"https://arxiv.org/abs/{self.arxiv}"


PAPERS = (
    Paper("1412.6980", "Adam: A Method for Stochastic Optimization", "Kingma, Ba", 2014,
          "why the scale of a gradient does not matter, in section 2.1", "06"),
    Paper("1706.03762", "Attention Is All You Need", "Vaswani et al.", 2017,
          "the block whose matrices every adapter changes", "03"),
    Paper("1804.08838", "Measuring the Intrinsic Dimension of Objective Landscapes",
          "Li, Farkhoor, Liu, Yosinski", 2018,
          "training in a random subspace, and how small it may be", "01"),
    Paper("1810.04805", "BERT: Pre-training of Deep Bidirectional Transformers for Language Understanding",
          "Devlin, Chang, Lee, Toutanova", 2018, "what fine-tuning a pretrained encoder meant before adapters", "04"),
    Paper("1902.00751", "Parameter-Efficient Transfer Learning for NLP", "Houlsby et al.", 2019,
          "the first adapters, and the question that LoRA answers differently", "01"),
    Paper("2012.13255", "Intrinsic Dimensionality Explains the Effectiveness of Language Model Fine-Tuning",
          "Aghajanyan, Zettlemoyer, Gupta", 2020, "why so few directions are enough", "01"),
    Paper("2106.09685", "LoRA: Low-Rank Adaptation of Large Language Models", "Hu et al.", 2021,
          "the method itself; section 4 is the whole of it", "02"),
    Paper("2106.14448", "R-Drop: Regularized Dropout for Neural Networks", "Liang et al.", 2021,
          "two dropouts that must agree: a strong regulariser for small data", "04"),
    Paper("2308.03303", "LoRA-FA: Memory-efficient Low-rank Adaptation for Large Language Models Fine-tuning",
          "Zhang, Zhang, Shi, Chu, Li", 2023, "which activations a frozen A makes superfluous", "05"),
    Paper("2310.11454", "VeRA: Vector-based Random Matrix Adaptation", "Kopiczko, Blankevoort, Asano", 2023,
          "how far shared random matrices carry", "05"),
    Paper("2402.12354", "LoRA+: Efficient Low Rank Adaptation of Large Models", "Hayou, Ghosh, Yu", 2024,
          "why A and B want different learning rates", "06"),
    Paper("2309.02411", "Delta-LoRA: Fine-Tuning High-Rank Parameters with the Delta of Low-Rank Matrices",
          "Zi et al.", 2023, "an update of the frozen weight, and what it telescopes to", "06"),
    Paper("2312.03732", "A Rank Stabilization Scaling Factor for Fine-Tuning with LoRA", "Kalajdzievski", 2023,
          "what alpha/rank does to learning as the rank grows", "07"),
    Paper("2402.09353", "DoRA: Weight-Decomposed Low-Rank Adaptation", "Liu et al.", 2024,
          "magnitude and direction learned apart", "07"),
    Paper("2404.02948",
          "PiSSA: Principal Singular Values and Singular Vectors Adaptation of Large Language Models",
          "Meng, Wang, Zhang", 2024, "starting from the large singular values instead of from zero", "07"),
    Paper("2406.01775", "OLoRA: Orthonormal Low-Rank Adaptation of Large Language Models", "Büyükakyüz", 2024,
          "the same start by QR, far cheaper than an SVD", "07"),
    Paper("2310.08659", "LoftQ: LoRA-Fine-Tuning-Aware Quantization for Large Language Models", "Li et al.", 2023,
          "starting at what quantization lost", "07"),
    Paper("1904.09751", "The Curious Case of Neural Text Degeneration", "Holtzman, Buys, Du, Forbes, Choi", 2019,
          "why the likeliest text is dull, and what top p cuts off", "08"),
    Paper("1909.05858", "CTRL: A Conditional Transformer Language Model for Controllable Generation",
          "Keskar, McCann, Varshney, Xiong, Socher", 2019, "labels as prompts, learned from the start", "08"),
    Paper("2005.14165", "Language Models are Few-Shot Learners", "Brown et al.", 2020,
          "what examples in the prompt can do, and cost", "08"),
    Paper("1604.06174", "Training Deep Nets with Sublinear Memory Cost", "Chen, Xu, Zhang, Guestrin", 2016,
          "checkpointing, and what the second forward costs", "09"),
    Paper("2205.05198", "Reducing Activation Recomputation in Large Transformer Models", "Korthikanti et al.", 2022,
          "what a transformer layer keeps for backward, term by term", "09"),
    Paper("2411.09009", "Cut Your Losses in Large-Vocabulary Language Models",
          "Wijmans, Huval, Hertzberg, Koltun, Krähenbühl", 2024,
          "a loss whose logits never reach memory", "09"),
    Paper("2305.14314", "QLoRA: Efficient Finetuning of Quantized LLMs", "Dettmers, Pagnoni, Holtzman, Zettlemoyer",
          2023, "NF4, double quantization, and where the adapter stays in full precision", "10"),
    Paper("2208.07339", "LLM.int8(): 8-bit Matrix Multiplication for Transformers at Scale",
          "Dettmers, Lewis, Belkada, Zettlemoyer", 2022, "outliers, and one scale for each row and column", "10"),
    Paper("2306.06965", "NF4 Isn't Information Theoretically Optimal (and that's Good)", "Yoshida", 2023,
          "why the sixteen codes are not used equally often, and need not be", "10"),
    Paper("2210.07558",
          "DyLoRA: Parameter Efficient Tuning of Pre-trained Models using Dynamic Search-Free Low-Rank Adaptation",
          "Valipour, Rezagholizadeh, Kobyzev, Ghodsi", 2022, "one training run that serves every smaller rank", "11"),
    Paper("2303.10512", "AdaLoRA: Adaptive Budget Allocation for Parameter-Efficient Fine-Tuning", "Zhang et al.",
          2023, "spending a budget of ranks where it matters", "11"),
)
NOT_OURS = {
    "2203.14493": "a computer vision paper; for dynamic ranks cite 2210.07558 or 2303.10512",
    "2303.16742": "not identifiable as a paper on this subject",
}
BY_ARXIV = {paper.arxiv: paper for paper in PAPERS}
