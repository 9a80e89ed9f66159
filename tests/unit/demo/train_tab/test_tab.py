"""What the Train tab answers, without a browser or a server: refusals, and what they leave behind."""

import asyncio
import errno
import html
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import gradio as gr
import pytest
from helpers.data import NAMED, encode_image, save_base, write_zip
from helpers.hub_server import Repo
from helpers.page import from_browser, started

from resnet_hub import jobs
from resnet_hub.demo import corrections
from resnet_hub.demo import page as page_module
from resnet_hub.demo.i18n import MESSAGES, PageError
from resnet_hub.demo.runs.run import PageRun
from resnet_hub.demo.train_tab.model_step import TrainForm
from resnet_hub.errors import DataError
from resnet_hub.training.config import TrainConfig
from resnet_hub.training.events import Epoch, Failed, Finished, Pushed, Started, TimeUp
from resnet_hub.training.loop import error_reason


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tab")
    save_base(folder / "shelf" / "tiny")
    write_zip(folder / "colors.zip")
    return folder


@pytest.fixture(scope="module")
def page(folder: Path) -> Any:
    async def built() -> Any:  # where an event loop runs: Gradio would leave one of its own open
        return page_module.build(folder / "shelf")

    with pytest.MonkeyPatch.context() as settings:
        settings.setenv("RESNET_HUB_RUNS", str(folder / "runs"))
        settings.setenv("GRADIO_TEMP_DIR", str(folder / "served"))
        return asyncio.run(built())


@pytest.fixture(scope="module")
def tab(page: Any) -> Iterator[Any]:
    tab = next(fn.fn.__self__ for fn in page.fns.values() if getattr(fn.fn, "__name__", "") == "begin")
    yield tab
    tab.scheduler.close()


FORM = TrainForm("tiny", "head", None, "resnet20", None, False, None, None, "auto", None, None, "accuracy", None)


def fill(tab: Any, run_id: str, **job: str) -> dict[Any, Any]:
    """What Gradio passes to the handlers of the form, by component."""
    values = {component: getattr(FORM, name) for name, component in tab.model.inputs.items()}
    values |= dict(zip(tab.job.inputs, job.values(), strict=False))
    return values | {tab.state.run: run_id, tab.state.browser: None}


def test_uploads_are_for_the_user_of_the_page_alone(page: Any, folder: Path) -> None:
    """Gradio creates the folder with the first button that has an icon, open to all users."""
    assert (folder / "served").stat().st_mode & 0o777 == 0o700
    assert list((folder / "served").rglob("*.jpg"))


def test_calls_that_show_no_progress_name_one_small_component_for_it(page: Any) -> None:
    """By default Gradio's script copies, at each step of a call, all that is below each of its outputs."""
    shown_on = [fn.show_progress_on for fn in page.fns.values() if fn.show_progress == "hidden"]
    assert len(shown_on) > 20 and all(len(components) == 1 for components in shown_on)


def test_refused_settings_leave_no_run_directory(tab: Any, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def kept() -> int:
        return len(list(tab.runs.root.iterdir()))

    for breaks, words in (
        (FileNotFoundError(errno.ENOENT, "gone"), MESSAGES["zh"]["files_gone"]),
        (OSError(errno.ENOSPC, "full"), MESSAGES["zh"]["disk_full"]),
    ):
        with monkeypatch.context() as broken:
            broken.setattr(PageRun, "import_zip", Mock(side_effect=breaks))
            assert words in tab.data.check_zip("", "photos.zip", from_browser("zh"))[tab.data.report]
    with pytest.raises(TypeError):  # crafted: the page answers it
        tab.data.check_files("", from_browser(), *(["a"] * 12), *([7] * 12))
    assert kept() == 0

    checked = tab.data.check_zip("", str(folder / "colors.zip"), from_browser())
    run = tab.runs.find(checked[tab.state.run])
    run.log.write_text('{"event": "Finished"}\n')
    with monkeypatch.context() as broken:
        broken.setattr(tab.scheduler, "start", Mock(side_effect=PageError("queue_full")))
        assert MESSAGES["en"]["queue_full"] in tab.begin(fill(tab, run.id), from_browser())[tab.state.notice]
    with monkeypatch.context() as broken:
        broken.setattr(PageRun, "update_facts", Mock(side_effect=OSError(errno.ENOSPC, "full")))
        assert MESSAGES["en"]["disk_full"] in tab.begin(fill(tab, run.id), from_browser())[tab.state.notice]
    assert kept() == 1 and tab.runs.find(run.id)
    tab.scheduler.delete(run)


def test_names_of_a_hub_dataset_reach_its_run(tab: Any, tables: Repo) -> None:
    refused = tab.data.check_hub("", "user/tables", from_browser(), "", "", "photo", "kind")
    assert "has subsets. Choose one of two, three" in refused[tab.data.report]
    checked = tab.data.check_hub("", "user/tables", from_browser(), *NAMED.values())
    run = tab.runs.find(checked[tab.state.run])
    assert run.read_facts()["names"] == NAMED | {"data_revision": tables.refs["main"]}
    with pytest.MonkeyPatch.context() as idle:
        idle.setattr(tab.scheduler, "start", start := Mock())
        tab.begin(fill(tab, run.id), from_browser())
    config = start.call_args.args[2]
    assert {name: getattr(config, name) for name in NAMED} == NAMED
    drawn = tab.model.preview(fill(tab, run.id), from_browser())[tab.model.augmented]
    assert drawn.count("<figure>") == 12
    tab.scheduler.delete(run)


def test_a_search_that_fails_is_said_and_leaves_the_models_of_the_page(
    tab: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    step, typed = tab.model, Mock(input_value="resnet")
    for found, notice in ((["timm/resnet18.a1_in1k"], ""), ([], ""), (None, MESSAGES["en"]["search_failed"])):
        monkeypatch.setattr(step.models, "search", lambda text, found=found: found)
        update, shown = step._suggest(from_browser(), typed)
        assert [name for _, name in update["choices"]] == [*(found or []), "tiny"]
        assert notice in shown and bool(notice) == bool(shown)


def test_a_model_too_large_for_memory_is_refused_with_the_sizes(tab: Any) -> None:
    run = tab.runs.create()
    run.log_event(Failed(error_reason(MemoryError(), TrainConfig(data="", run="run"))))
    for language in ("en", "zh"):
        assert (
            MESSAGES[language]["memory_full"]
            in tab.training.watch(run.id, None, from_browser(language))[tab.training.progress]
        )
    tab.scheduler.delete(run)


def test_a_run_without_a_model_has_no_web_page(tab: Any) -> None:
    run = tab.runs.create()
    for run_id, key in ((run.id, "no_model"), ("absent", "no_run")):
        with pytest.raises(gr.Error) as caught:
            (tab.result.export_web_page if key == "no_run" else tab.result.export_onnx)(run_id, from_browser())
        assert caught.value.message == MESSAGES["en"][key]
    tab.scheduler.delete(run)


def test_a_toast_escapes_the_error(tab: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    evil = "<img src=x> & co"  # Gradio shows what it is told as markup
    monkeypatch.setattr(tab.runs, "find", Mock(side_effect=DataError(evil)))
    with pytest.raises(gr.Error) as caught:
        tab.data.export("x", from_browser())
    assert caught.value.message == "&lt;img src=x&gt; &amp; co"


def test_a_job_asks_the_visitor_to_sign_in(tab: Any) -> None:
    told = tab.begin_job(fill(tab, "x", repo="user/name", flavor="t4-small", limit="2h"), from_browser(), None)
    assert MESSAGES["en"]["sign_in_job"] in told[tab.state.notice]


def test_a_job_that_ran_out_of_time_is_a_success_with_a_note(tab: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tab.runs.create("")
    job = jobs.Job("job0", "ann", "https://huggingface.co/jobs/ann/job0", "ann/x-input/end-1")
    run.update_facts(data="hf://datasets/ann/x", job=job._asdict(), config=vars(TrainConfig(data="x", run="run")))
    said = [
        Started("run", ["a", "b"], 8, 2, "20% held out", 1, 0, 50, "cpu"),
        TimeUp(0, 3),
        Epoch(0, 0.7, 0.6, 0.5, True, 0.1, 60.0),
        Finished("run/model", 0, 0.5, 0.6, 60.0),
        Pushed("https://huggingface.co/ann/x/commit/1"),
    ]
    monkeypatch.setattr("resnet_hub.jobs.follow", lambda job, token: iter(said))
    list(tab.job.follow(run.id, from_browser(), Mock(token="hf_x")))
    for language in ("en", "zh"):
        shown = tab.training.watch(run.id, None, from_browser(language))[tab.training.progress]
        assert MESSAGES[language]["time_up"] in shown and MESSAGES[language]["is_finished"] in shown
        assert "https://huggingface.co/ann/x/commit/1" in shown
    tab.scheduler.delete(run)


def test_stop_asks_a_job_to_end_and_keep_and_delete_ends_it_at_once(tab: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tab.runs.create("")
    job = jobs.Job("job0", "ann", "https://huggingface.co/jobs/ann/job0", "ann/x-input/end-1")
    run.update_facts(data="hf://datasets/ann/x", job=job._asdict(), config=vars(TrainConfig(data="x", run="run")))
    run.log.touch()
    asked: list[tuple[str, jobs.Job, str]] = []
    for name in ("end", "cancel"):
        monkeypatch.setattr(jobs, name, lambda job, token, name=name: asked.append((name, job, token)))
    with tab.scheduler.supervise(run, {"ann"}):
        with pytest.warns(UserWarning, match="Sign in with Hugging Face first"):
            shown = tab.training.stop(run.id, from_browser(), None)  # by a stranger
        assert asked == [] and shown[tab.training.stop_button]["interactive"] is True
        shown = tab.training.stop(run.id, from_browser("zh"), Mock(token="hf_x"))
        assert MESSAGES["zh"]["job_ending"] in shown[tab.training.progress]
        assert (
            shown[tab.training.stop_button] | {"visible": True, "interactive": False} == shown[tab.training.stop_button]
        )
    tab.delete(run.id, None, from_browser(), Mock(token="hf_x"))
    assert asked == [("end", job, "hf_x"), ("cancel", job, "hf_x")] and tab.runs.find(run.id) is None


def test_a_job_that_this_page_does_not_follow_names_who_can(tab: Any) -> None:
    run = tab.runs.create("")
    job = {"id": "job0", "owner": "ann", "url": "https://huggingface.co/jobs/ann/job0"}
    run.update_facts(job=job)
    run.log.touch()
    out = tab.training.watch(run.id, None, from_browser())
    assert (
        "sign in as ann and reload the page" in out[tab.training.progress] and job["url"] in out[tab.training.progress]
    )
    assert out[tab.training.resume_button]["visible"] is False
    tab.scheduler.delete(run)


def test_a_plan_shows_the_chosen_settings_and_the_time(tab: Any, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("resnet_hub.training.plan._START_AND_END", 5.0)  # a slow machine adds some seconds
    checked = tab.data.check_zip("", str(folder / "colors.zip"), from_browser())
    run = tab.runs.find(checked[tab.state.run])
    values = fill(tab, run.id)
    assert "about 10 to 20 seconds on this machine" in tab.model.plan(values, from_browser())[tab.model.planned]
    values[tab.model.inputs["recipe"]] = "finetune"
    planned = tab.model.plan(values, from_browser())
    assert "Auto: 10 epochs over 29 images" in planned[tab.model.planned]
    placeholders = {name: planned[tab.model.inputs[name]]["placeholder"] for name in ("epochs", "image_size")}
    assert placeholders == {"epochs": "10", "image_size": "16"}
    values[tab.model.inputs["epochs"]] = 3
    assert "约 10 到 20 秒" in tab.model.plan(values, from_browser("zh"))[tab.model.planned]
    assert "Auto" not in tab.model.plan(values, from_browser())[tab.model.planned]
    values[tab.model.inputs["image_size"]] = "x"  # crafted
    assert tab.model.plan(values, from_browser()) == {tab.model.planned: ""}
    assert tab.model.plan(fill(tab, ""), from_browser()) == {tab.model.planned: ""}
    tab.scheduler.delete(run)


def test_a_large_network_gets_a_plan_without_a_time(tab: Any, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """To measure the time, the page would train it: some gigabytes, in the process that answers everyone."""
    monkeypatch.setattr("resnet_hub.training.plan.plan_run", measure := Mock(return_value=Mock(seconds=60)))
    checked = tab.data.check_zip("", str(folder / "colors.zip"), from_browser())
    run = tab.runs.find(checked[tab.state.run])
    values = fill(tab, run.id) | {tab.model.inputs["recipe"]: "modern", tab.model.inputs["architecture"]: "resnet50"}
    for size, is_measured in ((1024, False), (224, True)):
        values[tab.model.inputs["image_size"]] = size
        planned = tab.model.plan(values, from_browser())
        assert planned[tab.model.inputs["image_size"]]["placeholder"] == str(size)
        assert ("on this machine" in planned[tab.model.planned]) == is_measured == measure.called
    tab.scheduler.delete(run)


def test_images_that_exceed_the_memory_are_no_reason_to_refuse_a_run(tab: Any, folder: Path) -> None:
    """They are decoded again in each epoch, or cached on the disk."""
    checked = tab.data.check_zip("", str(folder / "colors.zip"), from_browser())
    run = tab.runs.find(checked[tab.state.run])
    report = run.read_report()
    rows = tuple(replace(row, images=7_200) for row in report.classes)
    (run.folder / "report.json").write_text(replace(report, classes=rows).to_json())
    values = fill(tab, run.id) | {tab.model.inputs["image_size"]: 224}
    with pytest.MonkeyPatch.context() as idle:
        idle.setattr(tab.scheduler, "start", start := Mock())
        assert tab.begin(values, from_browser())[tab.state.notice] == ""
        assert start.called
        assert (
            "user/absent"
            in tab.begin(values | {tab.model.inputs["base"]: "user/absent"}, from_browser())[tab.state.notice]
        )
    tab.scheduler.delete(run)


def test_only_data_that_was_accepted_is_trained_on_at_once(tab: Any, folder: Path) -> None:
    checked = tab.data.check_zip("", str(folder / "colors.zip"), from_browser())
    run = tab.runs.find(checked[tab.state.run])
    refused = tab.data.check_zip(run.id, None, from_browser())
    assert refused[tab.state.checked] == "" and checked[tab.state.checked] == run.id
    values = fill(tab, run.id)
    with pytest.MonkeyPatch.context() as idle:
        idle.setattr(tab.scheduler, "start", start := Mock())
        tab.begin_checked(values | {tab.state.checked: ""}, from_browser())
        assert not start.called
        tab.begin_checked(values | {tab.state.checked: run.id}, from_browser())
        assert start.call_args.args[0] == run
    tab.scheduler.delete(run)


def test_a_browser_remembers_its_runs_and_lists_those_that_exist(tab: Any) -> None:
    old, new = tab.runs.create(""), tab.runs.create("")
    for run in (old, new):
        run.update_facts(title="colors")
        run.log_event(Failed("x"))
    stored = tab.state.remember({"runs": [old.id, "x", 7, new.id], "visitor": "v" * 20}, new.id)[tab.state.browser]
    assert stored == {"visitor": "v" * 20, "run": new.id, "runs": [new.id, old.id, "x", 7]}
    assert tab.panel.rename(new.id, " my   <i>") == "my <i>"
    table = tab.panel.list_runs(new.id, stored, from_browser())[tab.panel.table]
    assert table.index(new.id) < table.index(old.id) and "my &lt;i&gt;" in table
    chosen = f"{new.id} {old.id} x"
    left = tab.panel.delete_chosen(new.id, stored, chosen, from_browser(), None)[tab.panel.table]
    assert tab.runs.find(new.id) and not tab.runs.find(old.id) and old.id not in left
    assert MESSAGES["en"]["choose_two"] in tab.panel.compare(new.id, from_browser())
    for broken in (None, [], {"runs": "x"}):
        assert tab.panel.list_runs("", broken, from_browser())[tab.panel.mine]["visible"] is False
    tab.scheduler.delete(new)


def test_a_run_in_the_queue_is_listed(tab: Any, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tab.scheduler, "at_once", 0)  # it waits
    run = started(tab.scheduler, folder / "colors.zip", folder / "shelf" / "tiny", "ann")
    table = tab.panel.list_runs(run.id, None, from_browser())[tab.panel.table]
    assert run.id in table and MESSAGES["en"]["state_queued"] in table
    tab.scheduler.delete(run)


def test_both_buttons_delete_all_of_a_run(tab: Any, page: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    canceled: list[tuple[jobs.Job, str]] = []
    monkeypatch.setattr(jobs, "cancel", lambda job, token: canceled.append((job, token)))
    job, ann = jobs.Job("job0", "ann", "https://huggingface.co/jobs/ann/job0", "ann/x-input/end-1"), Mock(token="hf_x")
    for delete in (
        lambda run: tab.delete(run.id, None, from_browser(), ann),
        lambda run: tab.panel.delete_chosen("", None, run.id, from_browser(), ann),
    ):
        run = tab.runs.create("")
        run.update_facts(data="x", title="x", job=job._asdict())
        run.log.touch()
        save_base(run.run_dir.model)
        assert tab.models.get(run.id).config.labels == ["a", "b"]
        delete(run)
        assert canceled.pop() == (job, "hf_x") and not tab.runs.find(run.id) and run.id not in tab.models._loaded
    calls = {getattr(call.fn, "__name__", ""): number for number, call in page.fns.items()}
    following = [
        call.trigger_after for call in page.fns.values() if getattr(call.fn, "__name__", "") == "leave_deleted"
    ]
    assert sorted(following) == sorted([calls["delete"], calls["delete_chosen"]])  # Predict leaves the model


def test_a_deleted_model_gives_way_to_the_default_and_its_id_is_not_shown(tab: Any) -> None:
    run = tab.runs.create("")
    assert tab.result.leave_deleted("tiny", from_browser()) == gr.skip()
    tab.scheduler.delete(run)
    assert tab.result.leave_deleted(run.id, from_browser())["value"] == "tiny"
    with pytest.raises(PageError, match="deleted with its run"):
        tab.models.source(run.id)
    assert tab.models.title(run.id) == ""


def test_duplicates_are_shown_and_corrected_with_one_click(tab: Any, folder: Path, tmp_path: Path) -> None:
    files: dict[str, list[str | Path]] = {"red <i>": [], "green": []}
    for channel, paths in enumerate(files.values()):
        for number in range(4):
            paths.append(tmp_path / f"{channel}-{number}.png")
            Path(paths[-1]).write_bytes(encode_image(channel, number))
    Path(files["green"][0]).write_bytes(Path(files["red <i>"][0]).read_bytes())
    run = tab.runs.create("")
    run.import_photos(files)
    shown = corrections.render_duplicates(run, from_browser())
    assert shown.count('<img src="data:image/jpeg') == 2 and "red &lt;i&gt;" in shown and "<i>" not in shown
    fixes = [html.unescape(fix) for fix in re.findall(r'data-fix="([^"]*)"', shown)]
    assert len(fixes) == 3  # leave out either, keep one
    for fix, counts in ((fixes[0], [3, 4]), (fixes[2], [4, 3])):
        copy = tab.runs.copy(run)
        updates = tab.correct(copy.id, from_browser(), Mock(value=fix))
        fixed = tab.runs.find(updates[tab.state.run])
        assert not tab.runs.find(copy.id) and updates[tab.data.duplicates] == ""
        assert sorted(row.images for row in fixed.read_report().classes) == sorted(counts)
        tab.scheduler.delete(fixed)
    for crafted in ("", "[]", '{"images": [["train", "../x"]], "to": "none"}', None):
        copy = tab.runs.copy(run)
        updates = tab.correct(copy.id, from_browser(), Mock(value=crafted))
        fixed = tab.runs.find(updates[tab.state.run])
        assert fixed.read_report().images == 8
        tab.scheduler.delete(fixed)
    assert MESSAGES["en"]["no_run"] in tab.correct("x", from_browser(), Mock(value=fixes[0]))[tab.data.report]
    tab.scheduler.delete(run)
