"""Manifests of launch/gke: filled in, against schemas, and against what the training run expects.

Always: schemas of the fields in use (tests/launch/manifests.py). With kubernetes-validate installed:
jobs and pods against Kubernetes' own. With GSJAX_CRDS, a folder of CustomResourceDefinitions (JobSet:
config/components/crd/bases of kubernetes-sigs/jobset; Kueue: the same of kubernetes-sigs/kueue):
JobSet and Kueue against theirs, unknown fields forbidden.
"""

import copy
import os
import re

import pytest

from gsjax.train import preemption
from tests.launch import manifests

pytest.importorskip("yaml", reason="PyYAML is not installed")
jsonschema = pytest.importorskip("jsonschema", reason="jsonschema is not installed")

FILES = sorted(path.name for path in manifests.GKE.glob("*.yaml"))
JOBSETS = ["jobset_gpu.yaml", "jobset_tpu.yaml"]
KUBERNETES = "1.37"


def _check(document, schemas=manifests.OWN):
    jsonschema.Draft202012Validator(schemas[document["kind"]]).validate(document)


def _definitions():
    folder = os.environ.get("GSJAX_CRDS", "")
    if not folder:
        pytest.skip("GSJAX_CRDS names no folder of CustomResourceDefinitions")
    return {kind: schema for (version, kind), schema in manifests.definitions(folder).items()
            if version in ("jobset.x-k8s.io/v1alpha2", "kueue.x-k8s.io/v1beta2")}  # fmt: skip


CUSTOM = [name for name in FILES if name != "fit_indexed_job.yaml"]


@pytest.mark.parametrize("name", CUSTOM)
def test_custom_kinds_pass_the_schemas_of_the_fields_in_use(name):
    for document in manifests.load(name):
        _check(document)


@pytest.mark.parametrize("name", CUSTOM)
def test_custom_kinds_pass_their_own_definitions(name):
    for document in manifests.load(name):
        _check(document, _definitions())


def _plant(document, place, value):
    """A copy with one value put at a path of keys."""
    broken = copy.deepcopy(document)
    node = broken
    for key in place[:-1]:
        node = node[key]
    node[place[-1]] = value
    return broken


PLANTED = {
    "misspelled field": (("spec", "failurePolicy", "maxRestart"), 5),
    "unknown action": (("spec", "failurePolicy", "rules", 0, "action"), "RestartJobset"),
    "text for a number": (("spec", "replicatedJobs", 0, "replicas"), "two"),
    "field in the wrong place": (("spec", "backoffLimit"), 0),
}


@pytest.mark.parametrize("source", ["own", "definitions"])
@pytest.mark.parametrize("planted", PLANTED)
def test_planted_errors_in_a_jobset_are_found(planted, source):
    (document,) = manifests.load("jobset_gpu.yaml")
    schemas = manifests.OWN if source == "own" else _definitions()
    with pytest.raises(jsonschema.ValidationError):
        _check(_plant(document, *PLANTED[planted]), schemas)


def test_errors_deep_in_the_pods_of_a_jobset_are_found_by_its_definition():
    (document,) = manifests.load("jobset_tpu.yaml")
    pod = ("spec", "replicatedJobs", 0, "template", "spec", "template", "spec")
    for place, value in (((*pod, "restartpolicy"), "Never"), ((*pod, "containers", 0, "image"), 3)):
        with pytest.raises(jsonschema.ValidationError):
            _check(_plant(document, place, value), _definitions())


def _jobs():
    (fit,) = manifests.load("fit_indexed_job.yaml")
    sets = [manifests.load(name)[0] for name in JOBSETS]
    return [fit, *(manifests.job_of(job) for s in sets for job in s["spec"]["replicatedJobs"])]


def test_jobs_and_pods_pass_the_schemas_of_kubernetes_and_planted_errors_do_not():
    validator = pytest.importorskip("kubernetes_validate")
    pod = ("spec", "template", "spec")
    for job in _jobs():
        validator.validate(job, KUBERNETES, strict=True)
        for place, value in (
            ((*pod, "terminationGracePeriod"), 300),
            ((*pod, "containers", 0, "resources", "limits"), 8),
        ):
            with pytest.raises(validator.ValidationError):
                validator.validate(_plant(job, place, value), KUBERNETES, strict=True)


@pytest.mark.parametrize("name", FILES)
def test_every_setting_is_needed_and_the_head_says_so(name):
    text = (manifests.GKE / name).read_text()
    body = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    used = set(re.findall(r"\$\{([A-Z_]*)\}", body))
    head = text[: text.index("apiVersion")]
    for setting in used:
        assert f"{setting}=" in head
        done = manifests.fill(name, **{setting: None})
        assert done.returncode == 2 and not done.stdout
        assert f"{setting} is not set" in done.stderr
    assert "${" not in body or used
    filled = manifests.fill(name).stdout
    assert "${" not in "\n".join(x for x in filled.splitlines() if not x.startswith("#"))


@pytest.mark.parametrize(
    "value", ["a b", 'x"', "x\n  privileged: true", "$(id)", "`id`", "{a: b}", "a;b", "a#b"]
)
def test_values_that_could_change_the_manifest_are_refused(value):
    done = manifests.fill("jobset_gpu.yaml", IMAGE=value)
    assert done.returncode == 2 and not done.stdout
    assert "IMAGE: found" in done.stderr


@pytest.mark.parametrize("name", JOBSETS)
def test_a_jobset_restarts_all_or_nothing_and_42_without_end(name):
    (document,) = manifests.load(name)
    policy = document["spec"]["failurePolicy"]
    mistake, preempted = policy["rules"]
    assert mistake["action"] == "FailJobSet"
    assert preempted["action"] == "RestartJobSetAndIgnoreMaxRestarts"
    assert preempted["onJobFailureReasons"] == ["PodFailurePolicy"]
    assert policy["maxRestarts"] > 0  # other deaths
    # What the Job controller writes of a rule that matched.
    (pattern,) = mistake["onJobFailureMessagePatterns"]
    message = "Container train for pod default/x failed with exit code {} matching FailJob rule"
    assert re.search(pattern, message.format(2)) and not re.search(pattern, message.format(42))
    for replicated in document["spec"]["replicatedJobs"]:
        job = replicated["template"]["spec"]
        pod = job["template"]["spec"]
        assert job["backoffLimit"] == 0 and job["completionMode"] == "Indexed"
        assert job["completions"] == job["parallelism"] > 0
        assert pod["restartPolicy"] == "Never" and pod["terminationGracePeriodSeconds"] >= 120
        rules = job["podFailurePolicy"]["rules"]
        assert {rule["action"] for rule in rules} == {"FailJob"}
        assert set(rules[0]["onExitCodes"]["values"]) == {2, preemption.EXIT_CODE}
        assert rules[0]["onExitCodes"]["containerName"] == pod["containers"][0]["name"]
        assert rules[1]["onPodConditions"][0]["type"] == "DisruptionTarget"


def _arguments(container):
    """Flags of main.py as the pod of index 1 gets them, and what Kubernetes puts in."""
    known = {item["name"] for item in container["env"]}
    for argument in container["args"]:
        assert set(re.findall(r"\$\(([A-Z_]+)\)", argument)) <= known
    assert container["command"] == ["python3", "main.py"]
    return dict(argument.removeprefix("--").split("=", 1) for argument in container["args"])


def test_the_gpu_run_tells_every_pod_where_process_0_is():
    (document,) = manifests.load("jobset_gpu.yaml")
    spec = document["spec"]
    assert spec["coordinator"]["replicatedJob"] == spec["replicatedJobs"][0]["name"]
    job = spec["replicatedJobs"][0]["template"]["spec"]
    (container,) = job["template"]["spec"]["containers"]
    flags = _arguments(container)
    assert flags["config"] == manifests.SETTINGS["CONFIG"]
    assert flags["coordinator_address"] == "$(COORDINATOR):8476"
    assert flags["process_id"] == "$(PROCESS_ID)"
    assert int(flags["num_processes"]) == job["completions"] == 2


def test_the_tpu_run_leaves_it_to_jax():
    (document,) = manifests.load("jobset_tpu.yaml")
    job = document["spec"]["replicatedJobs"][0]["template"]["spec"]
    (container,) = job["template"]["spec"]["containers"]
    assert _arguments(container)["coordinator_address"] == "auto"
    assert container["resources"]["limits"] == {"google.com/tpu": "4"}
    assert document["spec"]["replicatedJobs"][0]["replicas"] == 2


def test_all_runs_name_the_queue_that_there_is():
    queues = manifests.load("kueue_queue.yaml")
    local = [d["metadata"]["name"] for d in queues if d["kind"] == "LocalQueue"]
    for name in [*JOBSETS, "fit_indexed_job.yaml"]:
        (document,) = manifests.load(name)
        assert document["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] in local
    (cluster,) = [d for d in queues if d["kind"] == "ClusterQueue"]
    flavours = {d["metadata"]["name"] for d in queues if d["kind"] == "ResourceFlavor"}
    for group in cluster["spec"]["resourceGroups"]:
        for flavour in group["flavors"]:
            assert flavour["name"] in flavours
            # Kueue wants the resources in the order in which they are covered.
            assert [r["name"] for r in flavour["resources"]] == group["coveredResources"]
    wanted = {"cpu", "memory"}
    for job in _jobs():
        wanted |= set(job["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"])
    covered = {r for g in cluster["spec"]["resourceGroups"] for r in g["coveredResources"]}
    assert wanted <= covered
