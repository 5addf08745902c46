# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     name: python3
# ---

# %% [markdown]
# # From a prompt to a patching heatmap
#
# > When Mary and John went to the shop, John gave a book to **Mary**
#
# A model that goes on with *Mary* has to notice that *John* stood there twice. Where inside does it keep that, and
# where does it move it? We read a model's activations, change one of them by hand, and then change all of them, one
# at a time: that is a patching heatmap.

# %%
import os
import tempfile
from pathlib import Path

import torch

import mechkit as mk
from mechkit import figures
from mechkit.errors import NetworkError

torch.set_num_threads(1)  # on a shared machine two threads are slower than one

# the one parameter: a zoo name (`mechkit models` lists them), a hub id, a folder, a .gguf file, or "small"
MODEL = os.environ.get("MECHKIT_DEMO_MODEL", "smollm2-135m-instruct")

# %% [markdown]
# ## A model
#
# "small" is a decoder of three layers that mechkit trains itself on sentences of this kind (about a minute, once). It
# also stands in where the model cannot be fetched.

# %%
try:
    model = mk.training.small_ioi() if MODEL == "small" else mk.load(MODEL)
except NetworkError as error:
    print(error)
    model = mk.training.small_ioi()
model

# %% [markdown]
# ## A behaviour
#
# A task is a list of pairs of prompts with a metric. The *clean* prompt shows the behaviour. The *corrupted* one has
# the same length and differs in one word: the second mention (`S2`) is the other name, so that the other answer is
# right. The metric is the logit of the right name minus the logit of the wrong one, both as in the clean prompt.
#
# All pairs have the same sentence here, with other names and words, so that a position is the same place in each.

# %%
task = mk.tasks.ioi(model, n=16, seed=0, templates=1, order="ABBA", same_length=True)
task.table(n=3)

# %% [markdown]
# Does the model show the behaviour at all? The interval of the gap must stay clear of 0.

# %%
print(task.baseline(model))

# %% [markdown]
# ## Reading
#
# `run` gives logits and any site that is asked for: `resid_post.1` is the residual stream after layer 1, `pattern.1`
# the attention of layer 1. Prompts may have different lengths; rows are padded on the right.

# %%
prompt = task.pairs.clean[0]
middle = model.n_layers // 2
run = model.run([prompt], read=[f"resid_post.{middle}", f"pattern.{middle}"])
print(run)
print(f"after layer {middle}: {list(run[f'resid_post.{middle}'].shape)}  (prompt, position, d_model)")
print(f"most likely next token: {model.to_str_tokens(run.logits[0, -1:].argmax(-1))[0]!r}")

# %%
figures.attention(
    run[f"pattern.{middle}"][0].float().cpu().numpy(),
    model.to_str_tokens(prompt),
    heads=[f"L{middle}H{head}" for head in range(model.n_heads)],
    title=f"Attention in layer {middle}, first prompt",
)

# %% [markdown]
# ## Two edits by hand
#
# An edit is data: a site, a value, and which part of the site. Before the middle layer, is the difference still at
# `S2`, or already at `END`? We put the clean residual stream into the corrupted run at one of the two, and look
# whether the logit difference moves from the corrupted run's to the clean run's. Each is one cell of the heatmap below.

# %%
pair = task[0]
site = f"resid_pre.{middle}"
clean = model.run(pair.pairs.clean, read=[site])
corrupted = model.run(pair.pairs.corrupted)
print(f"clean {pair.metric(clean.logits[:, -1], pair.pairs).item():+.2f}")
print(f"corrupted {pair.metric(corrupted.logits[:, -1], pair.pairs).item():+.2f}")

by_hand = {}
for place in ("S2", "END"):
    position = pair.pairs.positions[place].item()
    edit = mk.Edit(site, clean[site][:, position], positions=position)
    logits = model.run(pair.pairs.corrupted, edits=[edit], logits="last").logits
    by_hand[position] = pair.metric(logits, pair.pairs).item()
    print(f"clean at {place}: {by_hand[position]:+.2f}   {edit}")

# %% [markdown]
# ## Every cell: the sweep
#
# `patch` does this for every layer and position and for every pair. It computes again only what the change can reach,
# which gives the numbers of the full forward pass sooner. An effect of 0 means "like the corrupted run", 1 "like the
# clean one". Blue is positive, red negative; grey is what was not measured.

# %%
residual = mk.patch(model, task, sites="resid_pre", over=("layer", "position"))
residual.plot(title="Denoising: clean residual stream into the corrupted run")

# %% [markdown]
# The cells that we did by hand are in there.

# %%
for position, found in by_hand.items():
    in_sweep = residual.raw.sel(layer=middle, position=position, example=0).item()
    print(f"position {position}: by hand {found:.4f}, in the sweep {in_sweep:.4f}")
    assert abs(found - in_sweep) < 1e-3

# %% [markdown]
# Before the names differ, nothing can change, and those columns are exactly 0. The difference enters at `S2`, and
# where it leaves that column and appears at `END`, something has moved it.
#
# ## Noising beside denoising
#
# Denoising asks what *restores* the behaviour, noising what *breaks* it: corrupted activations go into the clean run.
# The scale stays the same, so that an untouched cell now reads 1. The two need not mirror each other: where two parts
# do the same work, restoring one may be enough, while breaking one does nothing.

# %%
noising = mk.patch(model, task, sites="resid_pre", over=("layer", "position"), direction="noising")
noising.plot(title="Noising: corrupted residual stream into the clean run")

# %% [markdown]
# ## Which heads
#
# The same question about every head's output at the last token: 1 there would mean that this head alone moves the
# whole answer.

# %%
heads = mk.patch(model, task, sites="z", over=("layer", "head"), positions="END")
heads.plot(title="Denoising: every head's output at END")

# %% [markdown]
# As a table, largest first, with 95 % intervals over the pairs. Intervals are per cell: that these are the largest of
# many is not corrected for, and the prompts that chose them also measured them. A lead, not yet a claim.

# %%
heads.top(8)

# %% [markdown]
# The attention of the strongest head, and the values of every pair behind its mean:

# %%
best = heads.top(1).iloc[0]
layer, head = int(best["layer"]), int(best["head"])
run = model.run([prompt], read=[f"pattern.{layer}"], logits=None)
figures.attention(
    run[f"pattern.{layer}.{head}"][0].float().cpu().numpy(),
    model.to_str_tokens(prompt),
    title=f"Attention of L{layer}H{head}, first prompt",
)

# %%
heads.raw.sel(layer=layer, head=head).values.round(2)

# %% [markdown]
# ## Keeping it
#
# A result is saved with its labels, the value of every pair, and what it was made with. It loads back as the same
# class, and `to_pandas()` is one row per cell and pair.

# %%
with tempfile.TemporaryDirectory() as folder:
    path = heads.save(Path(folder) / "heads.nc")
    again = mk.Result.load(path)
print(again)
print({name: again.attrs[name] for name in ("model", "task", "seed", "metric", "direction", "method")})
again.to_pandas().head(3)

# %% [markdown]
# The figure is a plotly figure: `figure.write_html("heatmap.html")` keeps it interactive, and
# `figures.write_image(figure, "heatmap.png")` draws it, where Chrome is installed.

# %%
figure = residual.plot(title="Where the difference is carried: residual stream")
figure
