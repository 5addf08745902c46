"""The greater-than study: how does a model know that an event ends after it began?

    The war lasted from the year 1743 to the year 174  ->  4, 5, 6, 7, 8 or 9

The corrupted prompt's start year excludes nothing (it ends in 0, or in 01), so denoising shows where the limit is
carried: 1. the residual stream at the start year's ending and at the end; 2. every head's output at the end;
3. attention and MLP layers.

    python circuits/greater_than.py [--model NAME] [--out FOLDER] [--n PAIRS]

writes FOLDER/index.html, offline and self-contained, and a PNG of every figure. Source of the task: Hanna et al. 2023,
arXiv 2305.00586.
"""

import sys

from _study import Study, arguments, strongest

import mechkit as mk
from mechkit.cli import exit_code


def main() -> None:
    """Run the study."""
    given = arguments(__doc__, "greater_than", n=32)
    model = mk.load(given.model)
    task = mk.tasks.greater_than(model, given.n, given.seed)
    study = Study("Greater-than", given.out)
    study.text(repr(model), f"The behaviour: {task.baseline(model)}.")

    residual = mk.patch(model, task, "resid_pre", ("layer", "position"), positions=["YY", "END"])
    study.text(heading="Where the limit is carried: residual stream")
    study.figure("residual", residual.plot(title="Clean residual stream patched into the corrupted run"))
    study.write()

    at_end = mk.patch(model, task, "z", ("layer", "head"), positions="END")
    study.text(f"Strongest: {strongest(at_end)}.", heading="Which heads bring it to the last token")
    study.figure("heads-at-END", at_end.plot(title="Every head's output at END, clean into corrupted"))
    study.table(at_end, "The largest effects at END")

    layers = mk.patch(model, task, ["attn_out", "mlp_out"], ("layer", "position"), positions=["YY", "END"])
    study.text(f"Strongest: {strongest(layers)}.", heading="Attention and MLP layers")
    study.figure("layers", layers.plot(title="Whole attention and MLP layers, clean into corrupted"))
    study.provenance(layers)
    study.write()


if __name__ == "__main__":
    sys.exit(exit_code(main))
