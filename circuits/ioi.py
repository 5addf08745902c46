"""The indirect-object study: which parts of a model find the name that was mentioned once?

    When Mary and John went to the shop, John gave a book to  ->  Mary

Clean and corrupted prompts differ in the second mention alone (its other name flips the answer), so denoising shows
where that difference is carried: 1. the residual stream, layer × position, on one sentence; 2. what every head writes
at the last token, and at the second mention, over many sentences; 3. attention and MLP layers at the named positions.

    python circuits/ioi.py [--model NAME] [--out FOLDER] [--n PAIRS]

writes FOLDER/index.html, offline and self-contained, and a PNG of every figure. Source of the task: Wang et al. 2023,
arXiv 2211.00593.
"""

import sys

from _study import Study, arguments, attention_of, load_or_make, strongest

import mechkit as mk
from mechkit.cli import exit_code


def main() -> None:
    """Run the study."""
    given = arguments(__doc__, "ioi", n=32)
    model, which = load_or_make(given.model)
    study = Study("Indirect object identification", given.out)

    sentence = mk.tasks.ioi(model, given.n, given.seed, templates=1, order="ABBA", same_length=True)
    task = mk.tasks.ioi(model, given.n, given.seed)
    study.text(
        which,
        f"The behaviour: {task.baseline(model)}.",
        f"On the one sentence of the first figure: {sentence.baseline(model)}.",
        "Effect 0 means like the corrupted prompt, 1 like the clean one; brackets hold 95 % intervals over "
        f"{task.clustered_by}s. These are effects on the prompts that chose them: a lead, not yet a claim.",
    )

    residual = mk.patch(model, sentence, "resid_pre", ("layer", "position"))
    study.text(heading="Where the difference is carried: residual stream")
    study.figure("residual", residual.plot(title="Clean residual stream patched into the corrupted run"))
    study.write()

    at_end = mk.patch(model, task, "z", ("layer", "head"), positions="END")
    study.text(f"Strongest: {strongest(at_end)}.", heading="Which heads move the answer at the last token")
    study.figure("heads-at-END", at_end.plot(title="Every head's output at END, clean into corrupted"))
    study.table(at_end, "The largest effects at END")
    top = at_end.top(3)
    heads = list(zip(top["layer"].astype(int), top["head"].astype(int), strict=True))
    study.figure("attention", attention_of(model, task.pairs.clean[0], heads))
    study.write()

    at_second = mk.patch(model, task, "z", ("layer", "head"), positions="S2")
    study.text(f"Strongest: {strongest(at_second)}.", heading="What happens at the second mention")
    study.figure("heads-at-S2", at_second.plot(title="Every head's output at S2, clean into corrupted"))
    study.table(at_second, "The largest effects at S2")

    layers = mk.patch(model, task, ["attn_out", "mlp_out"], ("layer", "position"), positions=["S2", "END"])
    study.text(heading="Attention and MLP layers")
    study.figure("layers", layers.plot(title="Whole attention and MLP layers at S2 and END, clean into corrupted"))
    study.provenance(layers)
    study.write()


if __name__ == "__main__":
    sys.exit(exit_code(main))
