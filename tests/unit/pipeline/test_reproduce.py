"""From a leaderboard entry alone: the same data, the same numbers, or a reason why not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
import yaml
from tiny_runs import SMALL
from typer.testing import CliRunner

from ups import files, paths
from ups.cli.main import app
from ups.config.loading import merged
from ups.config.schema import Experiment
from ups.data.convert import Recipe, convert
from ups.data.download.run import Outcome
from ups.data.generate import Request, generate, generate_request
from ups.data.versions import open_store
from ups.errors import CheckpointError, DataError
from ups.evaluation.provenance import RawRecord
from ups.leaderboard import entries
from ups.pipeline.judge import Request as Judgement
from ups.pipeline.judge import judge
from ups.pipeline.parts import Teller
from ups.pipeline.remake import remake
from ups.pipeline.reproduce import data_record, reproduce
from ups.registry import load_card
from ups.training.run import train


def raw_file(folder: Path, *, seed: int = 3) -> Path:
    return generate(load_card("advection1d"), parameters={"beta": 0.4}, num_trajectories=24,
                    seed=seed, points=32, frames=9, batch_size=8, out_dir=folder)  # fmt: skip


@pytest.fixture(scope="module")
def entry_file(tmp_path_factory) -> Path:
    """An entry of a tiny run; its UPS_HOME is gone afterwards."""
    home, kept = tmp_path_factory.mktemp("author"), tmp_path_factory.mktemp("entry")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UPS_HOME", str(home))
        raw = raw_file(home / "somewhere")
        convert(load_card("advection1d"), [raw], recipe=Recipe(stride_t=2), version="tiny")
        content = merged(SMALL, {
            "data": {"dataset": "advection1d", "version": "tiny"}, "seed": 5,
            "stages": {"operator": {"steps": 20, "validate_every": 20}},
            "tracking": {"wandb": "disabled"},
        })  # fmt: skip
        run = train(Experiment.model_validate(content))
        (found,) = judge(run, Judgement(brief=True, protocols=("own",)))
        entry, _ = entries.add(found.evaluation.path, home / "board")
        file = shutil.copy(entry.path(home / "board"), kept)
    shutil.rmtree(home)
    return Path(file)


def changed(entry_file: Path, folder: Path, change) -> Path:
    """The entry with other content, under the name that belongs to it."""
    content = json.loads(entry_file.read_text())
    change(content)
    path = folder / f"{files.sha256_json(content)[:16]}.json"
    path.write_text(json.dumps(content))
    return path


def ups(*arguments, code=0):
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == code, (arguments, result.output, result.exception)
    return result


def test_an_entry_alone_is_enough_to_come_back_to_its_numbers(home, entry_file):
    plan = ups("reproduce", str(entry_file), "--dry-run").stdout
    assert "seed 3" in plan
    assert "codec, operator, seed 5" in plan
    assert not home.exists(), "a dry run makes nothing"

    told = json.loads(ups("reproduce", str(entry_file), "--json").stdout)
    assert told["reproduced"]
    assert told["equal"], "the same machine gives the same digits"
    entry = entries.load(entry_file)
    assert told["nrmse"] == pytest.approx(entry.rows[0].value("nrmse"), rel=1e-9)
    assert open_store("advection1d", "tiny").metadata.data_sha256 == entry.protocol.data_sha256

    def better(content):
        for row in content["rows"][:1]:
            row["metrics"]["nrmse"]["mean"] *= 0.2
            row["intervals"]["nrmse"]["mean"] = [v * 0.2 for v in row["intervals"]["nrmse"]["mean"]]

    boasted = changed(entry_file, home, better)
    missed = ups("reproduce", str(boasted), code=5)
    assert "is not reproduced: nrmse_mean: nRMSE" in missed.stderr
    assert "protocol" not in missed.stderr, "only what differs is named"


def test_other_values_than_recorded_are_found_before_anything_is_trained(home, entry_file):
    def forged(content):
        record = content["sections"]["data"]["trained"]["advection1d"]
        record["data_sha256"] = "0" * 64
        record["statistics"]["u"]["rms"] *= 1.1

    missed = ups("reproduce", str(changed(entry_file, home_of(home), forged)), code=5)
    assert "data: advection1d: sha256" in missed.stderr
    assert not paths.runs_dir().exists()


def home_of(home: Path) -> Path:
    home.mkdir(exist_ok=True)
    return home


def test_data_of_the_same_recipe_that_differ_in_last_bits_will_do(home, entry_file):
    def elsewhere(content):
        content["sections"]["data"]["trained"]["advection1d"]["data_sha256"] = "0" * 64

    entry = entries.load(changed(entry_file, home_of(home), elsewhere))
    result = reproduce(entry, data_only=True)
    assert result.failed == []
    assert "last bits depend on hardware" in result.gates[0].detail


def test_a_version_of_the_same_name_is_left_alone(home, entry_file):
    card = load_card("advection1d")
    convert(card, [raw_file(home / "mine", seed=8)], version="tiny")
    mine = open_store("advection1d", "tiny").metadata.data_sha256
    result = reproduce(entries.load(entry_file), data_only=True)
    assert result.failed == []
    assert open_store("advection1d", "tiny").metadata.data_sha256 == mine
    again = reproduce(entries.load(entry_file), data_only=True)
    assert again.steps[0].reused


def test_an_entry_without_a_record_of_its_data_says_so(home, entry_file):
    entry = entries.load(changed(entry_file, home_of(home), lambda one: one["sections"].clear()))
    with pytest.raises(CheckpointError, match="holds no record of its data"):
        reproduce(entry)


def test_a_recorded_request_makes_the_same_bytes_again(tmp_path):
    first = raw_file(tmp_path / "a")
    store = convert(load_card("advection1d"), [first], version="v").store
    (source,) = store.metadata.sources
    assert source.made["request"]["seed"] == 3
    assert source.made["batch_size"] == 8
    card = load_card("advection1d")
    request = Request.read(source.made["request"], card)
    again = generate_request(card, request, out_dir=tmp_path / "b", batch_size=8)
    assert again.read_bytes() == first.read_bytes()
    with pytest.raises(DataError, match="record of how it was generated"):
        Request.read({"seed": "three"}, card)


def test_a_store_from_before_making_was_recorded_is_still_the_same_version(tmp_path):
    card, raw = load_card("advection1d"), raw_file(tmp_path)
    store = convert(card, [raw], version="v").store
    with h5py.File(store.path, "r+") as file:
        text = store.metadata.without_making().to_json()
        assert "made" not in text
        del file["metadata"]
        file["metadata"] = np.frombuffer(text.encode(), np.uint8)
    assert convert(card, [raw], version="v").reused


def test_raw_files_by_hand_are_recognised_by_content(tmp_path, entry_file):
    record = data_record(entries.load(entry_file)).trained["advection1d"]
    theirs = raw_file(tmp_path / "theirs")
    made = record.files[0]
    by_hand = RawRecord(**{**made.model_dump(), "made": {}, "url": None, "md5": None})
    record = record.model_copy(update={"files": (by_hand,)})
    with pytest.raises(DataError, match="the file was not given"):
        remake("a", record, [], Teller())
    other = raw_file(tmp_path / "other", seed=4)
    with pytest.raises(DataError, match="none of the given files is it"):
        remake("a", record, [other], Teller())
    assert remake("a", record, [theirs], Teller()).is_exact


def test_a_card_of_the_authors_own_travels_with_the_entry(home, entry_file):
    card = yaml.safe_load((paths.registry_dirs()[0] / "advection1d.yaml").read_text())

    def own(content):
        record = content["sections"]["data"]["trained"]["advection1d"]
        record["dataset"], record["card"] = "my_advection", {**card, "key": "my_advection"}

    record = data_record(entries.load(changed(entry_file, home_of(home), own)))
    remade = remake("a", record.trained["advection1d"], [], Teller())
    assert remade.store.metadata.dataset == "my_advection"
    assert remade.is_exact
    assert (home / "registry" / "my_advection.yaml").is_file()


@pytest.mark.parametrize(("name", "limit"), [("{}.hdf5", None), ("{}.first24.hdf5", 24)])
def test_published_files_are_downloaded_as_far_as_they_were_used(
    name, limit, tmp_path, entry_file, monkeypatch
):
    record = data_record(entries.load(entry_file)).trained["advection1d"]
    published = load_card("advection1d").source.file("1D_Advection_Sols_beta0.4.hdf5")
    name = name.format(Path(published.name).stem)
    one = record.files[0].model_copy(
        update={"name": name, "made": {}, "url": published.url, "md5": published.md5}
    )
    asked = []

    def fetch(card, *, trajectories):
        asked.append((card.source.files, trajectories))
        path = raw_file(tmp_path).rename(tmp_path / name)
        return [Outcome(name, path, "fetched", 1, 1)]

    monkeypatch.setattr("ups.pipeline.remake.download", fetch)
    remade = remake("a", record.model_copy(update={"files": (one,)}), [], Teller())
    assert asked == [((published,), limit)]
    assert remade.is_exact
    gone = one.model_copy(update={"md5": "0" * 32})
    with pytest.raises(DataError, match="does not list it with MD5 0000"):
        remake("a", record.model_copy(update={"files": (gone,), "data_sha256": "1"}), [], Teller())
