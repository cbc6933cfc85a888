"""Reading the manifests of launch/gke, and schemas to hold them against."""

import copy
import functools
import os
import pathlib
import subprocess

LAUNCH = pathlib.Path(__file__).resolve().parents[2] / "launch"
GKE = LAUNCH / "gke"

# What a user would set; NODES and HOSTS must arrive as integers.
SETTINGS = {
    "NAME": "clip-gs", "IMAGE": "registry.io/gsjax:cuda12", "CONFIG": "configs/clip_gs.py:paper",
    "WORKDIR": "/shared/runs/clip_gs", "NODES": "2", "GPU": "nvidia-h100-80gb",
    "TPU": "tpu-v5-lite-podslice", "TOPOLOGY": "4x4", "HOSTS": "4", "CHIPS": "4", "SLICES": "2",
    "SHARDS": "64", "AT_A_TIME": "16", "SOURCE": "/shared/meshes", "OUT": "/shared/fitted",
    "RECIPE": "fast",
}  # fmt: skip


def fill(name: str, **changes) -> subprocess.CompletedProcess:
    """Runs fill.sh on a manifest with :data:`SETTINGS`; None takes one away."""
    settings = {k: v for k, v in (SETTINGS | changes).items() if v is not None}
    return subprocess.run(
        [GKE / "fill.sh", GKE / name], env={"PATH": os.environ["PATH"], **settings},
        capture_output=True, text=True,
    )  # fmt: skip


def load(name: str) -> list[dict]:
    """The documents of a manifest, filled in."""
    import yaml

    done = fill(name)
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


def _closed(properties: dict, *required: str) -> dict:
    return {
        "type": "object", "properties": properties, "required": list(required),
        "additionalProperties": False,
    }  # fmt: skip


def _list(items: dict) -> dict:
    return {"type": "array", "items": items, "minItems": 1}


_TEXT = {"type": "string", "minLength": 1}
_COUNT = {"type": "integer", "minimum": 0}
_NAME = {"type": "string", "pattern": "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", "maxLength": 63}
_LABELS = {"type": "object", "additionalProperties": _TEXT}
_QUANTITY = {"anyOf": [_COUNT, {"type": "string", "pattern": "^[0-9]+([KMGTPE]i?|m)?$"}]}
_RESTARTS = ["RestartJobSet", "RestartJobSetAndIgnoreMaxRestarts", "FailJobSet"]


def _kind(version: str, name: str, spec: dict) -> dict:
    metadata = {"name": _NAME, "namespace": _NAME, "labels": _LABELS, "annotations": _LABELS}
    return _closed(
        {
            "apiVersion": {"const": version}, "kind": {"const": name},
            "metadata": _closed(metadata, "name"), "spec": spec,
        },
        "apiVersion", "kind", "metadata", "spec",
    )  # fmt: skip


_RULE = _closed(
    {
        "name": {"type": "string", "pattern": "^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$"},
        "action": {"enum": _RESTARTS},
        "onJobFailureReasons": _list({"enum": ["PodFailurePolicy", "BackoffLimitExceeded"]}),
        "onJobFailureMessagePatterns": _list(_TEXT),
        "targetReplicatedJobs": _list(_NAME),
    },
    "name", "action",
)  # fmt: skip

# The part of each kind that the manifests use, as its documentation describes it; every field that is
# not named is an error. Pods are Kubernetes' own and checked as Jobs are (`job_of`).
OWN = {
    "JobSet": _kind(
        "jobset.x-k8s.io/v1alpha2",
        "JobSet",
        _closed(
            {
                "coordinator": _closed(
                    {"replicatedJob": _NAME, "jobIndex": _COUNT, "podIndex": _COUNT},
                    "replicatedJob",
                ),
                "failurePolicy": _closed(
                    {
                        "maxRestarts": _COUNT,
                        "restartStrategy": {"enum": ["Recreate", "BlockingRecreate"]},
                        "rules": _list(_RULE),
                    }
                ),
                "replicatedJobs": _list(
                    _closed(
                        {
                            "name": _NAME, "replicas": _COUNT,
                            "template": _closed({"spec": {"type": "object"}}, "spec"),
                        },
                        "name", "template",
                    )
                ),
            },
            "replicatedJobs",
        ),
    ),
    "ResourceFlavor": _kind(
        "kueue.x-k8s.io/v1beta2", "ResourceFlavor", _closed({"nodeLabels": _LABELS})
    ),
    "ClusterQueue": _kind(
        "kueue.x-k8s.io/v1beta2",
        "ClusterQueue",
        _closed(
            {
                "namespaceSelector": {"type": "object"},
                "queueingStrategy": {"enum": ["StrictFIFO", "BestEffortFIFO"]},
                "preemption": _closed(
                    {"withinClusterQueue": {"enum": ["Never", "LowerPriority"]}}
                ),
                "resourceGroups": _list(
                    _closed(
                        {
                            "coveredResources": _list(_TEXT),
                            "flavors": _list(
                                _closed(
                                    {
                                        "name": _NAME,
                                        "resources": _list(
                                            _closed(
                                                {"name": _TEXT, "nominalQuota": _QUANTITY},
                                                "name", "nominalQuota",
                                            )
                                        ),
                                    },
                                    "name", "resources",
                                )
                            ),
                        },
                        "coveredResources", "flavors",
                    )
                ),
            }
        ),
    ),
    "LocalQueue": _kind(
        "kueue.x-k8s.io/v1beta2", "LocalQueue", _closed({"clusterQueue": _NAME}, "clusterQueue")
    ),
}  # fmt: skip


def job_of(replicated: dict) -> dict:
    """One replicated job of a JobSet as a Job by itself, which Kubernetes' own schemas know."""
    metadata = {"name": replicated["name"]}
    spec = replicated["template"]["spec"]
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": spec}


def strict(schema: dict) -> dict:
    """A schema of a CustomResourceDefinition with unknown fields forbidden, as jsonschema reads it."""
    schema = copy.deepcopy(schema)

    def close(node, inside):
        if not isinstance(node, dict):
            return
        if node.get("x-kubernetes-int-or-string"):
            node.pop("type", None)
        if "properties" in node and not node.get("x-kubernetes-preserve-unknown-fields"):
            # Parts of allOf and the like see the fields of the whole.
            if not inside:
                node.setdefault("additionalProperties", False)
        for name, child in node.get("properties", {}).items():
            del name
            close(child, False)
        for name in ("items", "additionalProperties", "not"):
            close(node.get(name), name == "not")
        for name in ("allOf", "anyOf", "oneOf"):
            for child in node.get(name, []):
                close(child, True)

    close(schema, False)
    return schema


@functools.cache
def definitions(folder: str) -> dict[tuple[str, str], dict]:
    """(apiVersion, kind) -> strict schema, of every CustomResourceDefinition in a folder."""
    import yaml

    found = {}
    for path in sorted(pathlib.Path(folder).glob("*.y*ml")):
        for document in yaml.load_all(
            path.read_text(), getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        ):
            if not document or document.get("kind") != "CustomResourceDefinition":
                continue
            spec = document["spec"]
            for version in spec["versions"]:
                key = (f"{spec['group']}/{version['name']}", spec["names"]["kind"])
                found[key] = strict(version["schema"]["openAPIV3Schema"])
    return found
