"""The induction study: which heads complete a repeated sequence of random tokens?

    … A B … C D …   … A  ->  B

The corrupted prompt exchanges B with a later token of the first run, so only who follows A differs. Denoising shows
1. which positions carry it (A's successor, then the end), 2. which heads move it there: the pattern of a
previous-token head at B, of an induction head at the end (Olsson et al. 2022, arXiv 2209.11895).

    python circuits/induction.py [--model NAME] [--out FOLDER] [--n PAIRS]

writes FOLDER/index.html, offline and self-contained, and a PNG of every figure.
"""

import sys

from _study import Study, arguments, attention_of, strongest

import mechkit as mk
from mechkit.cli import exit_code


def main() -> None:
    """Run the study."""
    given = arguments(__doc__, "induction", n=32)
    model = mk.load(given.model)
    task = mk.tasks.induction(model, given.n, given.seed, periods=(6, 10))
    study = Study("Induction", given.out)
    study.text(repr(model), f"The behaviour: {task.baseline(model)}.")

    residual = mk.patch(model, task, "resid_pre", ("layer", "position"), positions=["B1", "D1", "END"])
    study.text(heading="Where it is carried: residual stream")
    study.figure("residual", residual.plot(title="Clean residual stream patched into the corrupted run"))
    study.write()

    at_end = mk.patch(model, task, "z", ("layer", "head"), positions="END")
    study.text(f"Strongest: {strongest(at_end)}.", heading="Induction heads: what is written at the last token")
    study.figure("heads-at-END", at_end.plot(title="Every head's output at END, clean into corrupted"))
    study.table(at_end, "The largest effects at END")
    top = at_end.top(3)
    heads = list(zip(top["layer"].astype(int), top["head"].astype(int), strict=True))
    study.figure("attention", attention_of(model, task.pairs.clean[0], heads))

    keys = mk.patch(model, task, "k", ("layer", "head"), positions=["B1", "D1"])
    study.text(f"Strongest: {strongest(keys)}.", heading="What the successor offers as a key")
    study.figure("keys", keys.plot(title="Every key head at B1 and D1 together, clean into corrupted"))
    study.provenance(keys)
    study.write()


if __name__ == "__main__":
    sys.exit(exit_code(main))
