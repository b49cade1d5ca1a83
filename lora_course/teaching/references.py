"""The papers of the course, in one table: nothing in the repository may cite an arXiv id that does not stand here.

Each entry says what to read the paper for and which lesson sends you there. The ids were checked against the papers'
own titles and authors; `NOT_OURS` holds two ids that circulate in slides on this subject and lead somewhere else.
`reading` writes the table out, by lesson; READING.md is what it makes.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lora_course.atomic import write_files
from lora_course.tables import markdown_table


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
    Paper("1511.04561", "8-Bit Approximations for Parallelism in Deep Learning", "Dettmers", 2015,
          "the dynamic 8-bit numbers that double quantization puts the scales into", "10"),
    Paper("2305.14152",
          "Memory-Efficient Fine-Tuning of Compressed Large Language Models via sub-4-bit Integer Quantization",
          "Kim et al.", 2023, "another way to tune a quantized model: train nothing but its scales", "10"),
    Paper("1810.03993", "Model Cards for Model Reporting", "Mitchell et al.", 2018,
          "what somebody who uses your model has to know", "14"),
    Paper("2205.05638", "Few-Shot Parameter-Efficient Fine-Tuning is Better and Cheaper than In-Context Learning",
          "Liu et al.", 2022, "(IA)³: vectors that stretch and shrink what passes through", "14"),
    Paper("2108.06098", "FedPara: Low-Rank Hadamard Product for Communication-Efficient Federated Learning",
          "Hyeon-Woo, Ye-Bin, Oh", 2021, "LoHa: a product, entry by entry, has a higher rank than its factors", "14"),
    Paper("2212.10650", "KronA: Parameter Efficient Tuning with Kronecker Adapter", "Edalati et al.", 2022,
          "LoKr: a large matrix as the Kronecker product of two small ones", "14"),
    Paper("2309.14859", "Navigating Text-To-Image Customization: From LyCORIS Fine-Tuning to Model Evaluation",
          "Yeh et al.", 2023, "LoHa and LoKr as they are used, and compared, on images", "14"),
    Paper("1907.10902", "Optuna: A Next-generation Hyperparameter Optimization Framework",
          "Akiba, Sano, Yanase, Ohta, Koyama", 2019,
          "a space that is written as the program runs, pruning, and one study for many machines", "12"),
    Paper("1909.03004", "Show Your Work: Improved Reporting of Experimental Results",
          "Dodge, Gururangan, Card, Schwartz, Smith", 2019,
          "what the best of n trials is worth, as a function of n", "12"),
    Paper("2304.10255", "PED-ANOVA: Efficiently Quantifying Hyperparameter Importance in Arbitrary Subspaces",
          "Watanabe, Bansal, Hutter", 2023, "importance among the good trials instead of among all", "12"),
)
NOT_OURS = {
    "2203.14493": "a computer vision paper; for dynamic ranks cite 2210.07558 or 2303.10512",
    "2303.16742": "not identifiable as a paper on this subject",
}
BY_ARXIV = {paper.arxiv: paper for paper in PAPERS}


def reading(root: Path) -> str:
    """READING.md: a table for each lesson that sends you to a paper. Lessons are linked where their notebook is there.

    root: the folder that has notebooks/.
    """
    names = {path.name[:2]: path for path in sorted((root / "notebooks").glob("[0-9][0-9]_*.ipynb"))}
    parts = [
        "# Reading",
        "Every arXiv paper that the course cites, by the lesson that sends you there, oldest first. Nothing in "
        "lessons or the code cites one that is not here.\n"
        "(Made by `lora-course table` from `lora_course/teaching/references.py`.)",
    ]
    for lesson in sorted({paper.lesson for paper in PAPERS}):
        title = f"Lesson {lesson}"
        if lesson in names:
            said = names[lesson].stem[3:].replace("_", " ")
            title = f"[Lesson {lesson}, {said}](notebooks/{names[lesson].name})"
        rows = [
            [f"[{p.title}]({p.link})", f"{p.authors} {p.year}", p.read_it_for]
            for p in sorted(PAPERS, key=lambda paper: (paper.year, paper.arxiv))
            if p.lesson == lesson
        ]
        parts += [f"## {title}", markdown_table([["paper", "by", "read it for"], *rows])]
    return "\n\n".join(parts) + "\n"


def update_reading(root: Path, check: bool = False) -> bool:
    """Bring READING.md in `root` up to date, unless `check`. Returns whether it was already."""
    path, made = root / "READING.md", reading(root)
    same = path.exists() and path.read_text(encoding="utf-8") == made
    if not same and not check:
        write_files({path: made})
    return same
