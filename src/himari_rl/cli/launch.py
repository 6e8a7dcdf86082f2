"""himari launch: a training job on Google Cloud, or its command as a process of this machine.

himari launch --model base --dry-run
himari launch --model walk-forward --profile run-job base --folds 48

vertex_training/launch_training.py is the same command. What it does not know itself goes to the job's own command, and
that command's own parser reads it before anything is asked of Google.
"""

from __future__ import annotations

import secrets
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Any

import click

from himari_rl.cli.options import CLOUD_FILE, ROOT, Json, configured
from himari_rl.cli.signature import Option, make_command
from himari_rl.config import Resolved

if TYPE_CHECKING:
    from himari_rl.cloud.jobs import CloudJob, JobEstimate, WorkSize


def register(app: click.Group) -> None:
    """Adds `himari launch`."""
    passing = {"allow_extra_args": True, "ignore_unknown_options": True}
    app.add_command(make_command(launch(), "launch", context_settings=passing))


@configured("launch", "launch.profile", "launch.spot", "launch.max_cost", usual=CLOUD_FILE, launches=True)
def launch(
    ctx: click.Context,
    model: Annotated[str, Option(help="base, lstm, multi, walk-forward or certify.")],
    settings: Resolved,
    others: tuple[list[str], str | None],
    dry_run: Annotated[bool, Option("--dry-run", help="Print the plan, and ask nothing of anybody.")] = False,
    local: Annotated[
        bool, Option("--local", help="Run the container's command as a process here; with run-job every task.")
    ] = False,
    launch_id: Annotated[
        str | None, Option(help="Of a launch that was cut off: goes on with the job that it has begun.")
    ] = None,
    detach: Annotated[bool, Option("--detach", help="Do not follow the job to its end.")] = False,
    as_json: Json = False,
) -> None:
    """Begins a training job on Vertex AI (Gemini Enterprise Agent Platform) or Cloud Run, once, and follows it.

    Everything else goes to the job: --num-episodes, --symbols, --seeds, --fresh, --folds and so on.

    Example: himari launch --model base --profile t4 --dry-run --num-episodes 1000
    """
    import json
    import re
    import sys
    from functools import partial

    from himari_rl.cloud.launch import launch as begun
    from himari_rl.cloud.local import run_here
    from himari_rl.errors import ConfigError
    from himari_rl.evaluation.terminal import say

    tell = partial(say, stream=sys.stderr)
    identity = launch_id or secrets.token_hex(6)
    if not re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?", identity):
        raise ConfigError(f"--launch-id {identity!r}", "up to 40 small letters, digits and dashes")
    try:
        job = planned(model, list(ctx.args), settings, *others, identity, local=local)
    except SystemExit as refused:  # the trainer's own parser has said why
        raise click.exceptions.Exit(2) from refused
    how, machines = settings["launch"], settings["machines"]
    machine = machines.profile(how.profile)
    if dry_run:
        plan = document(job, settings)
        sys.stdout.write(json.dumps(plan) + "\n" if as_json else page(plan))
        return
    if local:
        code = run_here(job, machine, ROOT, tell=tell)
        if code:
            raise click.exceptions.Exit(code)
        return
    if job.output and not job.output.startswith("gs://"):
        raise ConfigError(f"{job.output} is on this machine", "a place in a bucket", "--bucket-name, or --local")
    tell(f"launch {identity}; if this program is cut off: --launch-id {identity} goes on with the same job")
    done = begun(job, machine, settings["cloud"], how, follow=not detach, tell=tell)
    if as_json:
        sys.stdout.write(json.dumps({"launch": identity, **vars(done)}) + "\n")


def planned(
    model: str,
    words: list[str],
    settings: Resolved,
    assignments: list[str],
    file: str | None,
    identity: str,
    *,
    local: bool = False,
) -> CloudJob:
    """The job, after its own parser has read its words.

    Args:
        local: on this machine, where no platform counts the time in which a container starts.

    Raises:
        HimariError, TyperException, SystemExit: that parser's refusal.
    """
    from himari_rl.cloud.jobs import MODELS, SCRIPTS, CloudJob, command_of, own_limit, places_in, tasks_of
    from himari_rl.errors import ConfigError

    if model not in MODELS:
        raise ConfigError(f"--model {model}", f"one of {', '.join(MODELS)}")
    cloud, how = settings["cloud"], settings["launch"]
    machine = settings["machines"].profile(how.profile)
    kind = model if model in SCRIPTS else "base"
    if model not in SCRIPTS and words and not words[0].startswith("-"):
        kind = words.pop(0)
    given = [*words, *_forwarded(model, kind, assignments, file)]
    find = _trainer if model in SCRIPTS else _command
    output, extra, size = find(model, kind, given, cloud)
    bucket = output.removeprefix("gs://").partition("/")[0] if output.startswith("gs://") else ""
    share = own_limit(
        how.max_cost / tasks_of(model, size, machine), machine, 0.0 if local else machine.start_s, how.spot
    )
    extra += [f"--max-cost={share:g}", "--set", f"budget.usd_per_hour={machine.price(how.spot):g}"]
    return CloudJob(
        model=model,
        kind=kind,
        command=command_of(model, kind, [*given, *extra]),
        output=output,
        size=size,
        launch=identity,
        environment=places_in(cloud, bucket if output else cloud.bucket, identity),
    )


def _forwarded(model: str, kind: str, assignments: list[str], file: str | None) -> list[str]:
    """`--set` and the lines of a `--config` of ours, as `--set` for the job: its image knows no other file."""
    from himari_rl.cli.settings import COMMANDS, sections_of
    from himari_rl.config import from_yaml, settings_of
    from himari_rl.storage import name_of, read_bytes

    sections = sections_of("cloud-train" if kind == model else model, kind)
    own = set(COMMANDS["launch"]) - {"cloud"}
    words = [word for word in assignments if word.partition(".")[0] not in own]
    words = [word for word in words if word.partition(".")[0] != "cloud" or "cloud" in sections]
    if file is not None:
        keys = {
            each.key for name, kind_of in sections.items() if name not in own for each in settings_of(kind_of, name)
        }
        lines = [one for one in from_yaml(read_bytes(file), name_of(file)) if one.key in keys]
        words = [*(f"{one.key}={_text(one.raw)}" for one in lines), *words]
    return [part for word in words for part in ("--set", word)]


def _text(raw: Any) -> str:
    return ",".join(map(str, raw)) if isinstance(raw, list | tuple) else str(raw)


def _trainer(model: str, kind: str, words: list[str], cloud: Any) -> tuple[str, list[str], WorkSize]:
    """A trainer script's output, what is added to its words, and how much work it is."""
    from himari_rl.cli import vertex
    from himari_rl.cloud.jobs import SCRIPTS, WorkSize
    from himari_rl.errors import ConfigError
    from himari_rl.storage import is_remote, join

    given, typed, resolved = vertex.checked(kind, vertex.arguments(kind, SCRIPTS[model]), words, ROOT)
    bucket = given.bucket_name or ("" if given.data else cloud.bucket)  # bars without a bucket are somebody's own
    model_dir = given.model_dir or (bucket and cloud.model_dir(kind))
    if not model_dir or not (bucket or given.data):
        raise ConfigError("nothing says where the bars or the model are", "--bucket-name, or --data and --model-dir")
    extra = [] if "bucket_name" in typed or not bucket else ["--bucket-name", bucket]
    extra += [] if "model_dir" in typed else ["--model-dir", model_dir]
    train = resolved["train"]
    inside = bucket and not is_remote(model_dir) and not model_dir.startswith("/")
    output = join(f"gs://{bucket}", model_dir) if inside else model_dir
    return output, extra, WorkSize(episodes=train.num_episodes, seeds=len(train.seeds))


def _command(model: str, kind: str, words: list[str], cloud: Any) -> tuple[str, list[str], WorkSize]:
    """The same for a walk-forward or a certification, which are commands of himari itself."""
    from himari_rl.cli import check
    from himari_rl.cloud.jobs import USUAL_EPISODES, USUAL_FOLDS, WorkSize
    from himari_rl.errors import ConfigError

    if model == "certify":
        check([model, kind, *words])
        return "", [], WorkSize()
    typed = {word.partition("=")[0] for word in words if word.startswith("--")}
    if not cloud.bucket and not {"--data", "--out"} <= typed:
        raise ConfigError("nothing says where the bars or the run are", "cloud.bucket, or --data and --out")
    usual = f"gs://{cloud.bucket}/{cloud.walk_forward_dir}/{kind}"
    said = [after if after else following for (word, _, after), following in _pairs(words) if word == "--out"]
    output = said[-1] if said else usual
    extra = [] if "--data" in typed else ["--data", f"gs://{cloud.bucket}/{cloud.data}"]
    if not typed & {"--data", "--symbol", "--symbols"}:
        extra += ["--symbols", *cloud.symbols] if kind == "multi" else ["--symbol", cloud.symbol]
    extra += [] if said else ["--out", output]
    walk = check([model, kind, *words, *extra])["walk_forward"]
    size = WorkSize(
        episodes=walk.num_episodes or USUAL_EPISODES, seeds=len(walk.seeds), folds=walk.folds or USUAL_FOLDS
    )
    return output, extra, size


def _pairs(words: list[str]) -> list[tuple[tuple[str, str, str], str]]:
    """Each word, cut at its =, with the one after it."""
    return [(word.partition("="), after) for word, after in pairwise([*words, ""])]


def document(job: CloudJob, settings: Resolved) -> dict[str, Any]:
    """The plan of a launch: the job on its profile, and what every profile would take."""
    from himari_rl.cloud.jobs import estimated, tasks_of, time_out_s
    from himari_rl.cloud.machines import PROFILES

    how, machines, cloud = settings["launch"], settings["machines"], settings["cloud"]
    known, chosen = settings["estimate"], machines.profile(how.profile)
    tasks = tasks_of(job.model, job.size, chosen)
    found = [estimated(job.model, job.size, name, machines.profile(name), known, how.spot) for name in PROFILES]
    return {
        "model": job.model,
        "profile": how.profile,
        "spot": how.spot,
        "places": list(getattr(chosen, "places", None) or chosen.regions),
        "image": cloud.image(cloud.training_image),
        "command": list(job.command),
        "output": job.output,
        "environment": dict(job.environment),
        "labels": job.labels,
        "service_account": cloud.account(cloud.trainer_account),
        "tasks": tasks,
        "max_cost": how.max_cost,
        "time_out_s": time_out_s(how.max_cost, chosen, tasks, how.spot),
        "attempts": [how.attempts, how.pause_s, how.call_s, how.pending_s, how.poll_s],
        "estimates": [vars(each) for each in found],
        "prices": f"{machines.price_source}, {machines.price_date}",
        "measured": known.measured,
        "planned_usd": settings["budget"].planned(job.model),
        "total_usd": settings["budget"].total_usd,
        "advice": advice(found, how.profile, settings["budget"].planned(job.model)),
        "endpoints": [end for end in (cloud.vertex_endpoint, cloud.rest_endpoint) if end],
    }


def advice(found: list[JobEstimate], profile: str, planned_usd: float | None) -> str:
    """Says plainly where another profile does the same for less."""
    costs = {each.profile: each.usd for each in found}
    best = min(costs, key=lambda name: costs[name])
    lines = []
    if best != profile and costs[best] < 0.9 * costs[profile]:
        share = costs[profile] / max(costs[best], 1e-9)
        lines.append(
            f"{best} does the same for ${costs[best]:.4f}, a {share:.0f}th of {profile}'s ${costs[profile]:.4f}"
        )
    if planned_usd and (least := costs[best]) < planned_usd / 10:
        lines.append(f"the plan gave ${planned_usd:g} for it, {planned_usd / max(least, 1e-9):,.0f} times {best}'s")
    return "; ".join(lines)


def page(plan: dict[str, Any]) -> str:
    """The plan for the eye."""
    import shlex

    attempts, pause, call, pending, poll = plan["attempts"]
    lines = [
        f"{plan['model']} on {plan['profile']}{' (spot)' if plan['spot'] else ''}: a plan, nothing was asked of Google",
        f"  places      {', '.join(plan['places'])}, in turn",
        f"  image       {plan['image']}",
        f"  command     {shlex.join(plan['command'])}",
        f"  output      {plan['output'] or 'its log'}",
        f"  environment {' '.join(f'{name}={value}' for name, value in plan['environment'].items())}",
        f"  labels      {' '.join(f'{name}={value}' for name, value in plan['labels'].items())}",
        f"  account     {plan['service_account']}",
        f"  stops       after {plan['time_out_s']:,} s each of {plan['tasks']} task(s): ${plan['max_cost']:g} at most",
        f"  calls       {attempts} attempts, pauses from {pause:g} s, deadline {call:g} s, a machine within "
        f"{pending:g} s, a look each {poll:g} s",
        *(f"  emulator    {end}" for end in plan["endpoints"]),
        "",
        f"  {'profile':<9}{'machine':<36}{'tasks':>6}{'$/hour':>9}{'minutes':>9}{'$':>10}",
    ]
    for each in plan["estimates"]:
        mark = "*" if each["profile"] == plan["profile"] else " "
        lines.append(
            f"{mark} {each['profile']:<9}{each['machine']:<36}{each['tasks']:>6}{each['usd_per_hour']:>9.3f}"
            f"{each['minutes']:>9.1f}{each['usd']:>10.4f}"
        )
    lines += ["", f"  prices: {plan['prices']}", f"  minutes: scaled from {plan['measured']}; no GPU has been timed"]
    if plan["planned_usd"]:
        lines.append(f"  the plan gave ${plan['planned_usd']:g} of ${plan['total_usd']:g} for this model")
    return "\n".join([*lines, *([f"  {plan['advice']}."] if plan["advice"] else [])]) + "\n"
