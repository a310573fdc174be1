"""deploy/kubernetes: schema-checked, not run. Kubernetes' own schemas for its kinds, one of ours for KEDA's, and what must agree."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from dihedral.bridge import settings
from dihedral.bridge.fabric import keys
from tests.support.servers import skip

FOLDER = Path(__file__).parents[2] / "deploy" / "kubernetes"
VERSION = "1.33"
KEDA = {
    "ScaledObject": {
        "type": "object",
        "required": ["scaleTargetRef", "triggers"],
        "additionalProperties": False,
        "properties": {
            "scaleTargetRef": {
                "type": "object",
                "required": ["name"],
                "additionalProperties": False,
                "properties": {"name": {"type": "string"}},
            },
            "minReplicaCount": {"type": "integer", "minimum": 0},
            "maxReplicaCount": {"type": "integer", "minimum": 1},
            "pollingInterval": {"type": "integer", "minimum": 1},
            "cooldownPeriod": {"type": "integer", "minimum": 0},
            "triggers": {
                "type": "array",
                "minItems": 1,
                "items": {
                    "type": "object",
                    "required": ["type", "metadata"],
                    "additionalProperties": False,
                    "properties": {
                        "type": {"const": "redis-streams"},
                        "authenticationRef": {"type": "object", "required": ["name"]},
                        "metadata": {
                            "type": "object",
                            "required": ["address", "stream", "consumerGroup"],
                            "additionalProperties": False,
                            "oneOf": [{"required": ["lagCount"]}, {"required": ["pendingEntriesCount"]}],
                            "properties": {
                                key: {"type": "string"}
                                for key in (
                                    "address",
                                    "stream",
                                    "consumerGroup",
                                    "lagCount",
                                    "activationLagCount",
                                    "pendingEntriesCount",
                                )
                            },
                        },
                    },
                },
            },
        },
    },
    "TriggerAuthentication": {
        "type": "object",
        "required": ["secretTargetRef"],
        "additionalProperties": False,
        "properties": {
            "secretTargetRef": {
                "type": "array",
                "items": {
                    "type": "object",
                    "required": ["parameter", "name", "key"],
                    "additionalProperties": False,
                    "properties": {key: {"type": "string"} for key in ("parameter", "name", "key")},
                },
            }
        },
    },
}
SECRETS = {
    "dihedral": {"redis-url", "s3-access-key", "s3-secret-key"},
    "dihedral-control": {"redis-url", "api-keys"},
    "dihedral-metrics": {"username", "password"},
}
"""Those that docs/operation.md makes."""
DOCUMENTS: list[dict[str, Any]] = [
    document
    for path in sorted(FOLDER.glob("*.yaml"))
    if path.name != "kustomization.yaml"
    for document in yaml.safe_load_all(path.read_text())
]


def of(kind: str) -> dict[str, dict[str, Any]]:
    return {document["metadata"]["name"]: document for document in DOCUMENTS if document["kind"] == kind}


def check(document: dict[str, Any]) -> None:
    if document["apiVersion"].startswith("keda.sh/"):
        jsonschema.validate(document["spec"], KEDA[document["kind"]])
    else:
        kubernetes_validate.validate(document, VERSION, strict=True)


@pytest.mark.parametrize(
    "document", DOCUMENTS, ids=lambda document: f"{document['kind']} {document['metadata']['name']}"
)
def test_a_manifest_fits_its_schema(document: Any) -> None:
    check(document)


def test_a_misspelt_field_is_found() -> None:
    broken = yaml.safe_load(
        (FOLDER / "control-plane.yaml").read_text().split("---")[0].replace("readinessProbe", "readynessProbe")
    )
    with pytest.raises(kubernetes_validate.ValidationError):
        check(broken)


def test_the_kustomization_names_every_file_and_builds() -> None:
    kustomization = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())
    assert set(kustomization["resources"]) == {path.name for path in FOLDER.glob("*.yaml")} - {"kustomization.yaml"}
    if shutil.which("kubectl") is None:
        skip("kubectl", "there is no kubectl on this machine")
    built = subprocess.run(["kubectl", "kustomize", str(FOLDER)], capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    documents = list(yaml.safe_load_all(built.stdout))
    assert len(documents) == len(DOCUMENTS)
    for document in documents:
        check(document)
        assert document["kind"] == "Namespace" or document["metadata"]["namespace"] == "dihedral"
        for container in document["spec"]["template"]["spec"]["containers"] if document["kind"] == "Deployment" else []:
            assert re.fullmatch(r"dihedral/[a-z-]+:[0-9.]+", container["image"])


@pytest.mark.parametrize("name", of("Deployment"))
def test_a_deployment_is_probed_bounded_spared_and_locked_down(name: Any) -> None:
    deployment = of("Deployment")[name]
    template = deployment["spec"]["template"]
    labels = template["metadata"]["labels"]
    assert deployment["spec"]["selector"]["matchLabels"].items() <= labels.items()
    assert of("PodDisruptionBudget")[name]["spec"]["selector"] == deployment["spec"]["selector"]
    pod = template["spec"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["automountServiceAccountToken"] is False
    (container,) = pod["containers"]
    port = container["ports"][0]["containerPort"]
    assert template["metadata"]["annotations"]["prometheus.io/port"] == str(port)
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        assert container[probe]["httpGet"]["path"] == ("/health/ready" if probe == "readinessProbe" else "/health/live")
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]},
    }  # fmt: skip
    assert "memory" in container["resources"]["limits"]
    policies = [
        policy["spec"] for policy in of("NetworkPolicy").values() if policy["spec"]["podSelector"].get("matchLabels")
    ]
    ports = {
        each["port"]
        for policy in policies
        if policy["podSelector"]["matchLabels"].items() <= labels.items()
        for rule in policy["ingress"]
        for each in rule["ports"]
    }
    assert ports == {port}


@pytest.mark.parametrize("name", of("Deployment"))
def test_the_planes_understand_what_they_are_given(name: Any, tmp_path: Path) -> None:
    container = of("Deployment")[name]["spec"]["template"]["spec"]["containers"][0]
    given = {
        **of("ConfigMap")["dihedral"]["data"],
        **{each["name"]: each["value"] for each in container.get("env", [])},
    }
    pod = of("Deployment")[name]["spec"]["template"]["spec"]
    secrets = {each["name"]: each["secret"]["secretName"] for each in pod["volumes"] if "secret" in each}
    mounts: dict[str, Any] = {each["mountPath"]: secrets.get(each["name"]) for each in container["volumeMounts"]}
    assert set(secrets.values()) == ({"dihedral", "dihedral-control"} if name == "control-plane" else {"dihedral"})
    mounted = dict(given)
    for variable, path in given.items():
        if path.startswith("/run/secrets/"):
            folder, _, key = path.rpartition("/")
            secret = mounts[folder]
            assert key in SECRETS[secret]
            mounted[variable] = str(tmp_path / f"{secret}-{key}")
            (tmp_path / f"{secret}-{key}").write_text(
                f"redis://{secret}@redis.example:6379/0" if key == "redis-url" else "x" * 20
            )
    loaded = settings.load(None, mounted, {})
    # A worker that is broken into has a worker's rights in Redis, no more (deploy/redis/users.acl).
    assert loaded.redis.url.startswith("redis://dihedral-control@" if name == "control-plane" else "redis://dihedral@")
    grace = of("Deployment")[name]["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
    assert loaded.jobs.drain_seconds + 20 <= grace


def test_keda_looks_at_the_streams_of_the_pool_and_at_our_group() -> None:
    (part,) = keys.partitions(1)
    for name, scaled in of("ScaledObject").items():
        template = of("Deployment")[name]["spec"]["template"]
        pool = template["metadata"]["labels"]["dihedral/pool"]
        of_device = template["metadata"]["labels"]["dihedral/device"] == "gpu"
        (container,) = template["spec"]["containers"]
        assert ("nvidia.com/gpu" in container["resources"]["limits"]) == of_device
        own = (keys.PREFERS_DEVICE, keys.NEEDS_DEVICE) if of_device else ("",)
        streams = {stream for lane in own for stream in part.streams("python", pool, lane)}
        assert scaled["spec"]["scaleTargetRef"]["name"] == name
        seen: dict[str, set[str]] = {}
        for trigger in scaled["spec"]["triggers"]:
            assert trigger["metadata"]["consumerGroup"] == keys.GROUP
            assert trigger["authenticationRef"]["name"] in of("TriggerAuthentication")
            for kind in ("lagCount", "pendingEntriesCount"):
                if kind in trigger["metadata"]:
                    seen.setdefault(kind, set()).add(trigger["metadata"]["stream"])
        assert seen == {"lagCount": streams, "pendingEntriesCount": streams}
    for authentication in of("TriggerAuthentication").values():
        for each in authentication["spec"]["secretTargetRef"]:
            assert each["key"] in SECRETS[each["name"]]


def test_gpu_workers_get_the_gpu_jobs_without_a_pool_of_their_own() -> None:
    """Both Deployments serve one pool. The GPU one starts from zero, so the CPU one must leave it what would bring it up."""
    given = {
        name: {each["name"]: each["value"] for each in found["spec"]["template"]["spec"]["containers"][0]["env"]}
        for name, found in of("Deployment").items()
        if name.startswith("worker-")
    }
    pools = {name: environ["DIHEDRAL_WORKER__POOL"] for name, environ in given.items()}
    assert pools == {"worker-default": "default", "worker-gpu": "default"}
    on_cpu = {name: environ.get("DIHEDRAL_WORKER__GPU_TASKS_ON_CPU") for name, environ in given.items()}
    assert on_cpu == {"worker-default": "false", "worker-gpu": None}
    assert of("ScaledObject")["worker-gpu"]["spec"]["minReplicaCount"] == 0


def test_the_secrets_are_those_that_the_documentation_makes() -> None:
    text = (FOLDER.parents[1] / "docs" / "operation.md").read_text()
    made = re.findall(r"create secret generic (\S+)((?: --from-\S+)+)", text)
    assert {name: set(re.findall(r"--from-(?:file|literal)=([a-z0-9-]+)", keys)) for name, keys in made} == SECRETS


def test_autoscalers_scale_what_is_there() -> None:
    for autoscaler in of("HorizontalPodAutoscaler").values():
        assert autoscaler["spec"]["scaleTargetRef"]["name"] in of("Deployment")
    assert (
        of("Service")["control-plane"]["spec"]["selector"]
        == of("Deployment")["control-plane"]["spec"]["selector"]["matchLabels"]
    )
