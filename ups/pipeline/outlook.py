"""What a pipeline would do, without doing any of it."""

from __future__ import annotations

from ups import runs
from ups.errors import DataError
from ups.pipeline.chain import STEPS, Chain, State, check_step, is_there, with_tasks
from ups.pipeline.champion import load_throne
from ups.pipeline.sources import found_here, way_to_get
from ups.registry import load_card
from ups.training.run import find_same_run
from ups.training.session import open_session


def outlook(chain: Chain, start: str | None = None) -> list[tuple[str, str]]:
    """Each step with what is there, or what would be done."""
    check_step(start)
    state = chain.state
    again = set() if start is None else set(STEPS[STEPS.index(start) :])
    known = {} if "train" in again else state.done.get("train", {})
    trained = bool(known) and is_there(known)
    return [
        ("validate", f"config, cards{' and benchmark' if chain.rules else ''} can be read"),
        *[("data", text) for text in _data(chain, is_again="data" in again)],
        ("train", f"done: {known['run']}" if trained else _training(chain, "train" in again)),
        ("small eval", _small(chain, state, trained and "small-eval" not in again)),
        ("gate", "exit 5 when the small evaluation is not good enough"),
        ("full eval", _full(chain, state, trained and "full-eval" not in again)),
        ("promote", _promotion(chain)),
    ]


def _data(chain: Chain, *, is_again: bool) -> list[str]:
    lines = []
    for task in chain.experiment.data.tasks:
        store = None if is_again else found_here(task)
        if store is not None:
            lines.append(f"there: {store.name}, {store.num_trajectories} trajectories")
            continue
        card = load_card(task.dataset)
        name = "a version" if task.version == "latest" else f"version '{task.version}'"
        how = way_to_get(card, chain.source)
        first = "" if how == "raw files" else f"{how} {card.key}, "
        lines.append(f"would {first}convert {card.key} to {name}, audit")
    return lines


def _training(chain: Chain, is_again: bool) -> str:
    stores = [found_here(task) for task in chain.experiment.data.tasks]
    stages = chain.experiment.stages.order
    anew = f"would train {', '.join(stages)}" if stages else "would train codec and model"
    if is_again or any(store is None for store in stores):
        return anew
    tasks = [
        task.model_copy(update={"version": store.metadata.version})
        for task, store in zip(chain.experiment.data.tasks, stores, strict=True)
        if store is not None
    ]
    try:
        session = open_session(with_tasks(chain.experiment, tasks))
    except DataError as error:
        return f"cannot: {error}"
    run, found = find_same_run(session)
    if run is None:
        return anew
    what = "there" if found == "finished" else "would continue"
    return f"{what}: {runs.run_id(run)}"


def _small(chain: Chain, state: State, is_known: bool) -> str:
    known = state.done.get("small-eval") if is_known else None
    if known:
        met = all(gate["passed"] for gate in known["gates"])
        return f"done: {'met' if met else 'not met'}, asked again of another champion"
    if chain.rules is None:
        return "would judge a few trajectories; be better than the trivial predictor"
    proxy = chain.rules.proxy
    return (
        f"would judge {proxy.trajectories} trajectories of each task; at most "
        f"{proxy.margin:.0%} worse than the champion"
    )


def _full(chain: Chain, state: State, is_known: bool) -> str:
    if is_known and "full-eval" in state.done:
        return f"done: {', '.join(state.done['full-eval']['reports'])}"
    names = ", ".join(chain.rules.protocols) if chain.rules else "the config's"
    return f"would judge the whole split by {names}, and enter it on the leaderboard"


def _promotion(chain: Chain) -> str:
    if chain.rules is None:
        return "no benchmark: the config's gates decide"
    champion = load_throne(chain.rules.name).champion
    return f"would be held against {champion.run}" if champion else "would be the first champion"
