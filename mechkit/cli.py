"""The command line: `mechkit patch`, `mechkit models`, `mechkit tasks`.

Exit codes: 0 all went well, 1 an error that mechkit explains, 2 wrong usage, 130 interrupted.
"""

import argparse
import inspect
import sys
import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import psutil

INTERRUPTED = 130

PATCH_HELP = """\
Patch activations of one run into the other, cell by cell, and draw what the task's metric does.

Denoising (the default) puts clean activations into the corrupted run: what restores the behaviour. Noising puts
corrupted ones into the clean run: what breaks it. Either way 0 is like corrupted and 1 like clean.

  mechkit patch --task ioi                                       the residual stream, layer × named position
  mechkit patch --task ioi --sites z --over layer head --positions END        what every head writes at the end
  mechkit patch --task ioi --sites attn_out mlp_out --positions S2 END        layers, at two places
  mechkit patch --pairs mine.jsonl --model gpt2 --over layer position --positions all     pairs of your own

A line of a JSONL file is {"clean": "…", "corrupted": "…", "answer": " Mary", "foil": " John"}.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    parser = _parser()
    given = parser.parse_args(argv)
    if given.command is None:
        parser.print_help()
        return 2
    if "threads" in given:
        set_threads(given.threads)
    return exit_code(lambda: given.run(given))


def exit_code(work: Callable[[], None]) -> int:
    """Do the work; say errors and warnings in one line each, and turn Ctrl-C into its customary exit code."""
    from .errors import MechkitError

    try:
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *_where: print(f"mechkit: {message}", file=sys.stderr)
            work()
    except (MechkitError, OSError) as error:
        print(f"mechkit: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nmechkit: interrupted; nothing half-written was left behind", file=sys.stderr)
        return INTERRUPTED
    return 0


def add_threads(parser: argparse.ArgumentParser) -> None:
    """`--threads`, with the same meaning in every command and script."""
    half = max(1, (psutil.cpu_count(logical=False) or 1) // 2)
    parser.add_argument(
        "--threads", type=int, default=half, help="of torch; more than are free is far slower (default: half the cores)"
    )


def set_threads(threads: int) -> None:
    """Let torch use so many threads."""
    import torch

    torch.set_num_threads(max(1, threads))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mechkit",
        description="Locate circuits in language models and verify them causally.",
        epilog="mechkit COMMAND --help teaches each command. In Python: import mechkit as mk",
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    _add_patch(commands)
    about = "list the models that load by name, and the families that are known"
    models = commands.add_parser("models", help=about, description=about)
    models.set_defaults(run=_models)
    about = "list the tasks; with a name, explain it; with a model as well, show prompts and the model's baseline"
    tasks = commands.add_parser("tasks", help=about, description=about)
    tasks.add_argument("task", nargs="?", help="the task to show")
    tasks.add_argument("--model", help="zoo name, folder, .gguf file or hub id")
    tasks.add_argument("--n", type=int, default=16, help="pairs to draw (default: %(default)s)")
    tasks.add_argument("--seed", type=int, default=0)
    add_threads(tasks)
    tasks.set_defaults(run=_tasks)
    return parser


def _add_patch(commands: argparse._SubParsersAction) -> None:
    patch = commands.add_parser(
        "patch",
        help="a patching heatmap for a task",
        description=PATCH_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = patch.add_argument
    add(
        "--model", default="smollm2-135m-instruct", help="zoo name, folder, .gguf file or hub id (default: %(default)s)"
    )
    source = patch.add_mutually_exclusive_group()
    source.add_argument("--task", default="ioi", help="a task's name, see `mechkit tasks` (default: %(default)s)")
    source.add_argument("--pairs", type=Path, help="a .jsonl or .csv file of your own pairs")
    add("--n", type=int, default=16, help="pairs to draw (default: %(default)s)")
    add("--seed", type=int, default=0, help="seed of the prompts (default: %(default)s)")
    add("--sites", nargs="+", default=["resid_pre"], metavar="SITE", help="resid_pre, z, attn_out, mlp_out, … or z.5.3")
    add("--over", nargs="*", default=None, metavar="DIM", help="layer, head, position (default: layer position)")
    add("--positions", nargs="+", metavar="P", help="token numbers or named positions, or `all` (default: those named)")
    add("--direction", choices=("denoising", "noising"), default="denoising")
    add("--metric", help="logit_difference, probability_difference, kl_divergence, … (default: the task's)")
    add("--out", type=_ending(".html"), default=Path("out/patch.html"), help="page to write (default: %(default)s)")
    add("--png", type=_ending(".png", ".svg", ".pdf"), help="also draw the figure there (or .svg, .pdf); needs Chrome")
    add("--save", type=_ending(".nc"), help="also keep the numbers there (.nc), for mechkit.results.EffectResult.load")
    add("--quiet", action="store_true", help="no progress bar")
    add_threads(patch)
    patch.set_defaults(run=_patch)


def _ending(*suffixes: str) -> Callable[[str], Path]:
    """A path with one of these endings; checked before anything is computed."""

    def path(text: str) -> Path:
        if not text.lower().endswith(suffixes):
            raise argparse.ArgumentTypeError(f"expected a path that ends in {' or '.join(suffixes)}, got {text!r}")
        return Path(text)

    return path


def _patch(given: argparse.Namespace) -> None:
    from . import figures, load, pages, patch

    _check_names(given)
    model = load(given.model)
    task = _task(given, model)
    over = ("layer", "position") if given.over is None else tuple(given.over)
    positions = _positions(given.positions, task.pairs.positions if "position" in over else ())
    baseline = task.baseline(model)
    result = patch(
        model, task, given.sites, over, positions=positions, direction=given.direction, progress=not given.quiet
    )
    figure = result.plot()
    blocks: list[pages.Block] = [
        pages.Text(f"{model!r}"),
        pages.Text(str(baseline)),
        pages.Figure(figure, f"{given.direction}: 0 is like corrupted, 1 like clean"),
        pages.Table(result.top(20), "The largest effects, with 95 % intervals"),
        pages.Details("The first prompts", [pages.Table(task.table(model, 5))]),
        pages.Details("Provenance", [pages.Preformatted("\n".join(f"{k}: {v}" for k, v in result.attrs.items()))]),
    ]
    print(baseline)
    print(result.top(10).to_string(index=False, float_format="{:.3g}".format))
    print(f"wrote {pages.write_page(given.out, result.title, blocks)}")
    if given.save:
        result.save(given.save)
        print(f"wrote {given.save}")
    if given.png:
        print(f"wrote {figures.write_image(figure, given.png)}")


def _check_names(given: argparse.Namespace) -> None:
    """What can be said to be wrong before a model is loaded, or even fetched."""
    from . import tasks
    from .errors import TaskError
    from .models.sites import GLOBAL_SITES, Site

    if given.pairs and not given.pairs.is_file():
        raise TaskError(f"--pairs {given.pairs}: no such file; give the path of an existing UTF-8 file, .jsonl or .csv")
    if not given.pairs:
        tasks.get(given.task)
    if given.metric:
        tasks.metrics.get(given.metric)
    for site in given.sites:
        Site.parse(site if "." in site or site in GLOBAL_SITES else f"{site}.0")


def _task(given: argparse.Namespace, model: Any) -> Any:
    from . import tasks

    if given.pairs:
        read = tasks.from_table if given.pairs.suffix.lower() == ".csv" else tasks.from_jsonl
        task = read(given.pairs, model)
    else:
        task = tasks.get(given.task)(model, n=given.n, seed=given.seed)
    return task.with_metric(given.metric) if given.metric else task


def _positions(asked: list[str] | None, named: Iterable[str]) -> str | list[int | str] | None:
    """What was asked for; by default the task's named positions, which line up across sentences."""
    if asked is None:
        return list(named) or None
    if asked == ["all"]:
        return "all"
    return [int(p) if p.lstrip("-").isdigit() else p for p in asked]


def _models(given: argparse.Namespace) -> None:
    from .models import known_models
    from .models.families import HUGGING_FACE_FAMILIES

    print("By name:")
    for name, entry in known_models().items():
        print(f"  {name:24} {entry.summary} ({entry.licence})")
    print(f"\nAny hub id, folder or .gguf file of these architectures: {', '.join(HUGGING_FACE_FAMILIES)};")
    print("and folders that mechkit.Decoder.save wrote.")


def _tasks(given: argparse.Namespace) -> None:
    from . import load, tasks
    from .errors import TaskError

    if given.task is None and given.model is not None:
        raise TaskError(f"tasks --model {given.model}: name the task as well; there are {', '.join(tasks.TASKS)}")
    if given.task is None:
        for name in tasks.TASKS:
            print(f"{name:14} {tasks.describe(name)}")
        print("\nmechkit tasks NAME explains one; with --model MODEL it shows prompts and the model's baseline.")
        return
    build = tasks.get(given.task)
    if given.model is None:
        print(inspect.getdoc(build))
        return
    model = load(given.model)
    task = build(model, n=given.n, seed=given.seed)
    print(task.table(model, 5).to_string())
    print(task.baseline(model))


if __name__ == "__main__":
    sys.exit(main())
