"""Groups of examples taken from a Transformer's last block: influence, proximal responses and real retraining.

A GPT of 6 layers and width 128 on the descriptions that scikit-learn ships with its data sets, and a ViT of 4 layers
and width 64 on images of CIFAR-10, both built by `transformers` from a configuration and trained here. Influence is
taken in the last block, damped Gauss-Newton from where training ended, and the truths are changes of test losses when a
random tenth of the training examples goes:

- *pbrf*, *proximal*: what `ProximalBregman` and `Proximal` minimise, in the block, with the estimate's damping;
- *warm*: the block is trained on, in minibatches, with and without the group; *cold*: the whole network from another
  initialisation. Both several times: how well repeats agree says how well any estimate could.

The blocks before the last do not move, so that they are run once: what is retrained is the last block on what it
receives, whose outputs are checked to be those of the whole network.

    python -m benchmarks.transformer_groups gpt
    python -m benchmarks.transformer_groups vit --data-folder FOLDER
    python -m benchmarks.transformer_groups gpt --audit
"""

from __future__ import annotations

import copy
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from torch import Tensor, nn

import bayes_influence as bi
from bayes_influence.data.images import load_images
from bayes_influence.evaluation.agreement import agreement_by_run, summarise
from bayes_influence.evaluation.ceiling import retraining_ceiling
from bayes_influence.evaluation.statistics import spearman
from bayes_influence.objectives.objective import Likelihood
from bayes_influence.objectives.reweighting import Removals
from bayes_influence.retraining.refits import control_drift

TOLERANCE = 1e-4
"""Gradient norm of proximal refits: some five-hundredth of that of a group."""

LENGTH, TESTS = 16, 8
"""Letters of a sequence, and test examples, those of largest loss among 200."""


@dataclass(frozen=True)
class Case:
    """A network, its examples, and its last block.

    Attributes:
        make: Builds the network from a seed.
        inputs: Of training and test examples, under the name by which the network takes them.
        targets: Theirs.
        likelihood: Its loss per example.
        tail: The last block and what follows it, and what that receives of all examples.
        block: How names of the block's parameters begin there.
        rate: Of learning.
    """

    make: Callable[[int], nn.Module]
    inputs: dict[str, Tensor]
    targets: Tensor
    likelihood: Likelihood
    tail: Callable[[nn.Module, dict[str, Tensor]], tuple[nn.Module, dict[str, Tensor]]]
    block: str
    rate: float = 1e-3


def gpt(examples: int, _: Path | None) -> Case:
    """Letters of scikit-learn's descriptions of its data sets, cut into sequences."""
    from transformers import GPT2Config, GPT2LMHeadModel

    pages = sorted(page.name for page in files("sklearn.datasets.descr").iterdir() if page.name.endswith(".rst"))
    read = ((files("sklearn.datasets.descr") / page).read_text(encoding="utf-8") for page in pages)
    text = re.sub(r"\s+", " ", " ".join(read))
    letters = {letter: code for code, letter in enumerate(sorted(set(text)))}
    codes = torch.tensor([letters[letter] for letter in text])
    sequences = codes[: len(codes) // LENGTH * LENGTH].reshape(-1, LENGTH)
    tokens = sequences[torch.randperm(len(sequences), generator=torch.Generator().manual_seed(0))[: examples + 200]]

    def make(seed: int, layers: int = 6) -> nn.Module:
        torch.manual_seed(seed)
        sizes = {"n_positions": LENGTH, "n_embd": 128, "n_layer": layers, "n_head": 4, "vocab_size": len(letters)}
        without = dict.fromkeys(("embd_pdrop", "attn_pdrop", "resid_pdrop"), 0.0)
        config = GPT2Config(**sizes, **without, bos_token_id=0, eos_token_id=0, tie_word_embeddings=False)
        return GPT2LMHeadModel(config).eval()

    def tail(network: nn.Module, inputs: dict[str, Tensor]) -> tuple[nn.Module, dict[str, Tensor]]:
        last = make(0, layers=1).to(next(network.parameters()).dtype)
        state = {
            name.replace(".h.5.", ".h.0."): value
            for name, value in network.state_dict().items()
            if ".h." not in name or ".h.5." in name
        }
        # Places were added before the first block.
        last.load_state_dict(state | {"transformer.wpe.weight": torch.zeros_like(state["transformer.wpe.weight"])})
        return last, {"inputs_embeds": network(**inputs, output_hidden_states=True).hidden_states[5]}

    return Case(make, {"input_ids": tokens}, tokens, bi.NextToken("mean"), tail, "transformer.h.0.")


class LastBlock(nn.Module):
    """The last block of a ViT, its norm, and the head on the class token."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.block, self.norm, self.head = network.vit.layers[-1], network.vit.layernorm, network.classifier

    def forward(self, hidden: Tensor) -> Tensor:
        """Logits of what the block receives."""
        returned = self.block(hidden)
        hidden = returned if isinstance(returned, Tensor) else returned[0]
        return self.head(self.norm(hidden)[:, 0])


def vit(examples: int, folder: Path | None) -> Case:
    """Images of CIFAR-10."""
    from transformers import ViTConfig, ViTForImageClassification

    split = load_images("cifar10", folder, download=False)
    train, test = split.train.select(range(examples)), split.test.select(range(200))

    def make(seed: int) -> nn.Module:
        torch.manual_seed(seed)
        sizes = {"hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 256}
        return ViTForImageClassification(ViTConfig(image_size=32, patch_size=8, num_labels=10, **sizes)).eval()

    def tail(network: nn.Module, inputs: dict[str, Tensor]) -> tuple[nn.Module, dict[str, Tensor]]:
        return LastBlock(copy.deepcopy(network)), {
            "hidden": network(**inputs, output_hidden_states=True).hidden_states[3]
        }

    inputs, targets = (torch.cat([getattr(part, name) for part in (train, test)]) for name in ("inputs", "targets"))
    return Case(make, {"pixel_values": inputs}, targets, bi.CrossEntropy(), tail, "block.")


CASES = {"gpt": gpt, "vit": vit}
HELD = {"pbrf": bi.ProximalBregman, "proximal": bi.Proximal}


def logits(network: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    """Of a network that returns them, or a record of them."""
    returned = network(**inputs)
    return getattr(returned, "logits", returned)


def fitted(
    network: nn.Module,
    free: list[nn.Parameter],
    case: Case,
    inputs: dict[str, Tensor],
    kept: Tensor,
    n: int,
    *,
    seed: int,
    epochs: int,
    decay: float,
) -> nn.Module:
    """Anybody's loop: minibatches of 32, Adam, the rate brought to 0; of J with 1/n fixed, whatever is left out."""
    optimiser = torch.optim.Adam(free, lr=case.rate, weight_decay=decay * n / len(kept))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, epochs)
    order = torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        for rows in kept[torch.randperm(len(kept), generator=order)].split(32):
            optimiser.zero_grad()
            outputs = logits(network, {name: value[rows] for name, value in inputs.items()})
            case.likelihood(outputs, case.targets[rows]).mean().backward()
            optimiser.step()
        schedule.step()
    return network


@contextmanager
def timed(what: str) -> Iterator[None]:
    """Says what was done, and the processor's seconds."""
    began = time.process_time()
    yield
    print(f"{what}: {time.process_time() - began:.0f} s of a processor", flush=True)


@dataclass(frozen=True)
class Study:
    """What is asked, of a network that is trained.

    Attributes:
        case: The network and its examples.
        network: Where training ended.
        objective: Its last block on what it receives, in float64.
        train: The training examples as the block takes them.
        test: Test examples likewise.
        groups: Ids of the training examples that go together.
        damping: Of estimate, proximal objective and PBRF.
        decay: Of all weights.
        epochs: Of the first training, and of cold retrainings; warm ones take a third.
    """

    case: Case
    network: nn.Module
    objective: bi.Objective
    train: bi.Dataset
    test: bi.Dataset
    groups: list[Tensor]
    damping: float
    decay: float
    epochs: int

    @property
    def influence(self) -> bi.Influence:
        """The estimate."""
        return bi.Influence(self.objective, self.train, curvature="ggn", damping=self.damping)

    def estimates(self) -> np.ndarray:
        """(t, G): sums of removal effects."""
        removal = self.influence.on_loss(self.test).removal
        return torch.stack([removal[:, self.train.positions(ids)].sum(1) for ids in self.groups], 1).numpy()

    def held(self, protocol: bi.Proximal) -> np.ndarray:
        """(t, G): changes when the block is held near its fit; what does not converge, and drift, are said."""
        refits = protocol.refit(self.objective, self.train, Removals.of_groups(self.groups, 1))
        drift = control_drift(refits, self.test, warn=False).relative.median()
        print(f"{protocol.name}: {refits!r}; control drift {float(drift):.2g} of an effect")
        return bi.loss_changes(refits, self.test)[0].T.numpy()

    def retrained(self, seed: int, *, cold: bool) -> np.ndarray:
        """(t, G): changes against the same retraining with nothing left out."""
        n, losses = len(self.train), []
        for ids in [torch.tensor([], dtype=torch.int64), *self.groups]:
            kept = torch.tensor([one for one in range(n) if one not in ids.tolist()])
            if cold:
                network, inputs = self.case.make(seed), self.case.inputs
                free = list(network.parameters())
            else:
                network, inputs = self.case.tail(copy.deepcopy(self.network), self.case.inputs)
                inputs = {name: value.detach() for name, value in inputs.items()}
                free = [value for name, value in network.named_parameters() if name.startswith(self.case.block)]
            epochs = self.epochs if cold else max(1, self.epochs // 3)
            fitted(network, free, self.case, inputs, kept, n, seed=seed, epochs=epochs, decay=self.decay)
            with torch.no_grad():
                outputs = logits(network, {name: value[self.test.ids] for name, value in inputs.items()})
                losses.append(self.case.likelihood(outputs, self.case.targets[self.test.ids]))
        found = torch.stack(losses, 1).double()
        return (found[:, 1:] - found[:, :1]).numpy()


def prepared(case: Case, examples: int, groups: int, damping: float, decay: float, epochs: int) -> Study:
    """Trains the network, and takes its last block on what that receives."""
    network = case.make(0)
    everything = torch.arange(examples)
    with timed("training"):
        fitted(
            network,
            list(network.parameters()),
            case,
            case.inputs,
            everything,
            examples,
            seed=0,
            epochs=epochs,
            decay=decay,
        )
    with torch.no_grad():
        double = {name: value.double() if value.is_floating_point() else value for name, value in case.inputs.items()}
        whole = copy.deepcopy(network).double()
        last, received = case.tail(whole, double)
        outputs = logits(whole, double)
        torch.testing.assert_close(logits(last, received), outputs)
        losses = case.likelihood(outputs, case.targets)
    print(f"mean loss, training {losses[:examples].mean():.3f}, test {losses[examples:].mean():.3f}")
    names = [name for name, _ in last.named_parameters() if name.startswith(case.block)]
    data = bi.Dataset(bi.Arguments(**received), case.targets, torch.arange(len(case.targets)))
    objective = bi.Objective(last, case.likelihood, bi.WeightDecay(decay), parameters=names)
    shuffled = torch.Generator().manual_seed(0)
    chosen = [everything[torch.randperm(examples, generator=shuffled)[: examples // 10]] for _ in range(groups)]
    test = data.select(examples + losses[examples:].argsort(descending=True)[:TESTS])
    return Study(case, network, objective, data.select(everything), test, chosen, damping, decay, epochs)


def row(name: str, estimates: np.ndarray, truths: list[np.ndarray]) -> str:
    """Agreement over groups with the mean of the repeats, a mean over test examples, and what repeats allow."""
    found = summarise(agreement_by_run(estimates, np.mean(truths, axis=0))).intervals
    numbers = [f"{found[which].estimate:.2f}" for which in ("spearman", "pearson", "slope")]
    ceiling = "exact"
    if len(truths) > 1:
        repeats = [np.stack([truth[test] for truth in truths]) for test in range(len(estimates))]
        ceiling = f"{np.mean([retraining_ceiling(one, spearman).average for one in repeats]):.2f}"
    return f"| {name} | {' | '.join(numbers)} | {ceiling} |"


def main(
    network: Annotated[str, typer.Argument(help="gpt or vit.")],
    examples: Annotated[int | None, typer.Option(help="Training examples; 96 sequences, 200 images.")] = None,
    groups: Annotated[int, typer.Option(help="Random tenths that are left out.")] = 8,
    repeats: Annotated[int, typer.Option(help="Seeds of warm and cold retraining.")] = 2,
    epochs: Annotated[int, typer.Option(help="Of training.")] = 60,
    decay: Annotated[float, typer.Option(help="lambda of the weight decay (lambda/2)|theta|^2.")] = 3e-3,
    damping: Annotated[float, typer.Option(help="Of estimate, proximal objective and PBRF.")] = 0.1,
    truths: Annotated[str, typer.Option(help="Of pbrf, proximal, warm and cold.")] = "pbrf,proximal,warm,cold",
    audit: Annotated[bool, typer.Option(help="Audit single removals in the block, in place of groups.")] = False,
    data_folder: Annotated[Path | None, typer.Option(help="Where cifar-10-batches-py is.")] = None,
) -> None:
    """Prints agreement with every truth, or what `bi.audit` says of the same block."""
    torch.set_num_threads(1)
    count = examples or {"gpt": 96, "vit": 200}[network]
    if unknown := set(truths.split(",")) - {*HELD, "warm", "cold"}:
        raise typer.BadParameter(f"unknown truths {', '.join(sorted(unknown))}; known: pbrf, proximal, warm, cold")
    study = prepared(CASES[network](count, data_folder), count, groups, damping, decay, epochs)
    print(study.objective)
    if audit:
        few = replace(study, test=study.test.select(range(3)))
        settings = bi.AuditSettings(
            removals=5, damping=damping, refit_schedule=bi.Schedule(30, study.case.rate / 10), tolerance=TOLERANCE
        )
        with timed("audit"):
            found = bi.audit(few.objective, few.train, few.test, settings)
        columns = ["stage", "spearman", "pearson", "slope"]
        print(found.agreement[columns].to_string(index=False, float_format="{:.2f}".format))
        print("\n".join([*found.notes, found.verdict.sentence]))
        return
    with timed("estimates"):
        estimates = study.estimates()
    rows = []
    for name in truths.split(","):
        with timed(name):
            if name in HELD:
                found = [study.held(HELD[name](damping, TOLERANCE))]
            else:
                found = [study.retrained(seed, cold=name == "cold") for seed in range(1, repeats + 1)]
        rows.append(row(name, estimates, found))
        print(rows[-1], flush=True)
    print("| truth | Spearman | Pearson | slope | a perfect estimate's Spearman |\n|---|---|---|---|---|")
    print("\n".join(rows))


if __name__ == "__main__":
    typer.run(main)
