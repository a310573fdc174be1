"""The contract said a second time, by hand, and documents made of it.

Written from what clients are promised, never read from the schemas: a constraint that is lost there is still here, so the
two disagree. Every definition of every schema file stands here; a test counts them.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

from tests.contracts.kinds import (
    ADDRESS,
    ANYTHING,
    BUCKET,
    FLAG,
    ID,
    LOCAL,
    MOMENT,
    NETWORK,
    OBJECT,
    ORIGIN,
    POOL,
    ROOT_PATH,
    SECRET,
    SHA256,
    SHARE,
    STAMP,
    TAG,
    TITLE,
    Kind,
    choice,
    exactly,
    identifier,
    many,
    named,
    nullable,
    number,
    optional,
    text,
    whole,
)

Shape = dict[str, Kind]
NO_OBJECTS: tuple[Any, ...] = ([], "x", 5, True, None)


class Document(NamedTuple):
    content: Any
    good: bool
    why: str


def documents(shape: Kind | Shape) -> Iterator[Document]:
    if isinstance(shape, Kind):
        yield from (Document(value, True, "a value of the kind") for value in shape.good)
        yield from (Document(value, False, "no value of the kind") for value in shape.bad)
        return
    whole_document, least = full(shape), {name: kind.good[0] for name, kind in shape.items() if not kind.optional}
    yield Document(whole_document, True, "every field")
    yield Document(least, True, "required fields only")
    yield Document({**least, "strange": 1}, False, "an unknown field")
    yield from (Document(value, False, "no object") for value in NO_OBJECTS)
    for name, kind in shape.items():
        rest = {key: value for key, value in whole_document.items() if key != name}
        yield Document(rest, kind.optional, f"without {name}")
        yield from (Document({**rest, name: value}, True, f"a good {name}") for value in kind.good)
        yield from (Document({**rest, name: value}, False, f"a bad {name}") for value in kind.bad)


def full(shape: Shape) -> dict[str, Any]:
    return {name: kind.good[0] for name, kind in shape.items()}


def of(shape: Shape) -> Kind:
    """A field that holds a shape; what is wrong inside it is the shape's own matter."""
    return Kind((full(shape),), (*NO_OBJECTS, {**full(shape), "strange": 1}))


def either(*shapes: Shape) -> Kind:
    """A tagged union."""
    every = [full(shape) for shape in shapes]
    first = next(iter(every[0]))
    wrong = [{**every[0], first: "strange"}, {key: value for key, value in every[0].items() if key != first}]
    crossed = [{**every[0], first: every[-1][first]}]
    return Kind(tuple(every), (*wrong, *crossed, {**every[0], "strange": 1}, {}, [], "x", 5, None))


CODE = text(1, 128)

PLANE = choice("node", "python")
NODE_STATUS = choice("pending", "ready", "running", "completed", "failed", "skipped", "cancelled")
EDGE_KIND = choice("normal", "on_success", "on_failure")
REMEDY_CLASS = choice("change_inputs", "retry", "resume", "wait", "free_space", "ask_operator")
REMEDY: Shape = {"class": REMEDY_CLASS, "advice": text(), "param": optional(text())}
NODE_ERROR: Shape = {"code": CODE, "message": text(), "details": OBJECT, "remedy": optional(of(REMEDY))}
RETRIES: Shape = {"attempt": whole(0), "maxAttempts": whole(1, 100)}
TIMEOUT = number(above=0, high=2_592_000)
WEIGHT = number(low=0, high=1_000_000)
TAGS = many(text(1, 100), at_most=64)
NODE: Shape = {
    "id": ID,
    "task": ID,
    "plane": PLANE,
    "status": NODE_STATUS,
    "name": optional(text(0, 200)),
    "params": OBJECT,
    "input": optional(OBJECT),
    "output": optional(ANYTHING),
    "error": optional(of(NODE_ERROR)),
    "retries": of(RETRIES),
    "pool": optional(POOL),
    "timeoutSeconds": optional(TIMEOUT),
    "tags": TAGS,
    "telemetry": optional(OBJECT),
    "progressWeight": WEIGHT,
}
EDGE: Shape = {"from": ID, "to": ID, "kind": EDGE_KIND, "metadata": OBJECT}
ESTIMATE: Shape = {"low": number(low=0), "high": number(low=0)}
GRAPH: Shape = {
    "estimate": optional(of(ESTIMATE)),
    "schema": exactly("langgraph.v1"),
    "workflowId": ID,
    "nodes": many(of(NODE), 1, 2000),
    "edges": many(of(EDGE), 0, 20_000),
    "context": OBJECT,
    "metadata": OBJECT,
}

SUBMITTED_RETRIES: Shape = {name: optional(kind) for name, kind in RETRIES.items()}
NODE_SUBMISSION: Shape = {
    name: kind if name in ("id", "task", "plane") else optional(kind)
    for name, kind in {**NODE, "status": exactly("pending"), "retries": of(SUBMITTED_RETRIES)}.items()
}
EDGE_SUBMISSION: Shape = {**EDGE, "kind": optional(EDGE_KIND), "metadata": optional(OBJECT)}
GRAPH_SUBMISSION: Shape = {
    "estimate": optional(of(ESTIMATE)),
    "schema": exactly("langgraph.v1"),
    "workflowId": optional(ID),
    "nodes": many(of(NODE_SUBMISSION), 1, 2000),
    "edges": optional(many(of(EDGE_SUBMISSION), 0, 20_000)),
    "context": optional(OBJECT),
    "metadata": optional(OBJECT),
}

KEY = text(1, 900)
ARTIFACT_REF: Shape = {"bucket": BUCKET, "key": KEY}
MODEL_REF: Shape = {"bucket": optional(BUCKET), "key": optional(KEY), "local": optional(LOCAL)}
ARTIFACT_META: Shape = {
    "bucket": BUCKET,
    "key": KEY,
    "size_bytes": whole(0),
    "content_type": text(1),
    "sha256": nullable(SHA256),
    "created_at": STAMP,
    "job_id": nullable(text()),
    "node_id": nullable(text()),
    "name": optional(text(1, 200)),
    "owner": optional(text()),
    "favourite": optional(FLAG),
}
PROVENANCE_NODE: Shape = {"id": ID, "task": ID, "params": optional(OBJECT)}
PROVENANCE_INPUT: Shape = {"bucket": BUCKET, "key": KEY, "sha256": optional(SHA256)}
PROVENANCE: Shape = {
    "dihedral": text(0, 64),
    "jobId": optional(ID),
    "node": optional(of(PROVENANCE_NODE)),
    "pipeline": optional(ID),
    "task": optional(ID),
    "params": optional(OBJECT),
    "graph": optional(of(GRAPH_SUBMISSION)),
    "inputs": optional(many(of(PROVENANCE_INPUT), at_most=64)),
    "leftOut": optional(many(text(0, 1000), at_most=64)),
}

JOB_STATUS = choice("scheduled", "queued", "running", "cancelling", "completed", "failed", "cancelled")
PRIORITY = choice("high", "normal", "low")
WAITING_REASON = choice("worker", "slot", "memory", "start_time", "retry", "service", "paused")
WAITING_FOR: Shape = {"type": WAITING_REASON, "message": text(), "position": optional(whole(1))}
JOB_ERROR: Shape = {**NODE_ERROR, "nodeId": nullable(text())}
JOB: Shape = {
    "jobId": ID,
    "status": JOB_STATUS,
    "progress": SHARE,
    "pipeline": nullable(text()),
    "created": STAMP,
    "startAt": nullable(STAMP),
    "started": nullable(STAMP),
    "finished": nullable(STAMP),
    "attempt": whole(1),
    "waitingFor": nullable(of(WAITING_FOR)),
    "error": nullable(of(JOB_ERROR)),
    "artifacts": many(of(ARTIFACT_META)),
    "name": nullable(text()),
    "tags": many(text()),
    "task": nullable(text()),
    "params": nullable(OBJECT),
    "given": many(text()),
    "rerunOf": nullable(text()),
    "thumbnail": nullable(of(ARTIFACT_REF)),
    "priority": optional(PRIORITY),
    "estimate": optional(of(ESTIMATE)),
    "startsIn": optional(of(ESTIMATE)),
}

HEAD: Shape = {"seq": whole(1), "created": STAMP}
STATUS_EVENT: Shape = {
    "type": exactly("status"),
    **HEAD,
    "status": JOB_STATUS,
    "progress": SHARE,
    "attempt": whole(1),
    "error": nullable(of(JOB_ERROR)),
}
NODE_EVENT: Shape = {
    "type": exactly("node"),
    **HEAD,
    "nodeId": ID,
    "status": NODE_STATUS,
    "attempt": whole(1),
    "error": nullable(of(NODE_ERROR)),
    "worker": nullable(text()),
    "reason": nullable(text()),
}
DATA_EVENT: Shape = {"type": exactly("data"), **HEAD, "nodeId": ID, "name": text(1, 128), "data": OBJECT}
LOG_LEVEL = choice("debug", "info", "warning", "error", "stdout", "stderr")
LOG_EVENT: Shape = {"type": exactly("log"), **HEAD, "nodeId": ID, "level": LOG_LEVEL, "message": text()}
EVENT = either(STATUS_EVENT, NODE_EVENT, DATA_EVENT, LOG_EVENT)

SUBSCRIBE: Shape = {
    "action": exactly("subscribe"),
    "jobId": ID,
    "after": optional(whole(0)),
    "epoch": optional(text(0, 128)),
}
UNSUBSCRIBE: Shape = {"action": exactly("unsubscribe"), "jobId": ID}
RESPONSE_MESSAGE = choice("subscribed", "unsubscribed", "failed")
FAILURE_REASON = choice("unknown_job", "forbidden", "limit", "bad_message")
RESPONSE: Shape = {
    "type": exactly("response"),
    "action": exactly("response"),
    "message": RESPONSE_MESSAGE,
    "jobId": nullable(text()),
    "reason": optional(FAILURE_REASON),
}
STATE: Shape = {"epoch": text(), "seq": whole(0), "status": JOB_STATUS, "progress": SHARE}
UPDATE: Shape = {
    "type": exactly("update"),
    "jobId": ID,
    **STATE,
    "events": many(EVENT),
    "estimate": optional(of(ESTIMATE)),
    "startsIn": optional(of(ESTIMATE)),
}
SNAPSHOT: Shape = {**STATE, "job": of(JOB)}
RESYNC: Shape = {"type": exactly("resync"), "jobId": ID, "snapshot": of(SNAPSHOT)}

PROBLEM_DETAIL: Shape = {"pointer": text(), "code": text(1), "detail": text()}
PROBLEM: Shape = {
    "type": text(),
    "title": text(),
    "status": whole(400, 599),
    "detail": text(),
    "instance": text(),
    "code": text(1),
    "errors": many(of(PROBLEM_DETAIL), at_most=100),
}

KIND = choice("cpu", "gpu")
RUNTIME: Shape = {
    "kind": KIND,
    "pool": POOL,
    "timeoutSeconds": TIMEOUT,
    "concurrency": whole(0, 100_000),
    "memoryMiB": whole(0),
    "light": optional(FLAG),
    "memoryParam": optional(text(1)),
    "needsDevice": optional(FLAG),
    "sizedBy": optional(many(text(1))),
}
IO: Shape = {"input": OBJECT, "output": OBJECT}
PARAMETER: Shape = {
    "name": text(1),
    "type": text(),
    "required": FLAG,
    "description": text(),
    "default": optional(ANYTHING),
}
CONTRACTS: Shape = {"idempotent": FLAG, "sideEffects": many(text()), "resumable": optional(FLAG)}
VOICE: Shape = {
    "id": text(1), "label": text(), "language": text(), "engine": text(), "workers": optional(many(text())),
}  # fmt: skip
BOUND = Kind((0, 1.5, "goal/seconds", "output/baseError"), ("", "seconds", "goal/", True, None))
CHECK_REPAIR: Shape = {"param": text(1), "factor": optional(number(above=0))}
CHECK: Shape = {
    "id": ID,
    "label": text(1, 200),
    "value": text(1),
    "least": optional(BOUND),
    "most": optional(BOUND),
    "tolerance": optional(number(0, 1)),
    "repair": optional(of(CHECK_REPAIR)),
}
CAPABILITY: Shape = {
    "id": ID,
    "label": text(1),
    "description": text(),
    "version": text(1),
    "plane": PLANE,
    "runtime": of(RUNTIME),
    "io": of(IO),
    "parameters": many(of(PARAMETER)),
    "examples": many(OBJECT),
    "telemetry": OBJECT,
    "security": OBJECT,
    "contracts": of(CONTRACTS),
    "keywords": optional(many(text(1, 80), 0, 200)),
    "checks": optional(many(of(CHECK), at_most=20)),
    "unavailable": optional(text(1)),
    "voices": optional(many(of(VOICE))),
}
MEMORY: Shape = {"device": text(), "usedBytes": whole(0), "totalBytes": whole(0), "utilisation": optional(number(0, 1))}
RUNNING_NODE: Shape = {
    "jobId": ID,
    "nodeId": ID,
    "task": ID,
    "startedAt": STAMP,
    "waitingFor": optional(text()),
    "waitingType": optional(choice("memory", "service")),
}
DEVICE: Shape = {"name": text(), "memoryMiB": whole(0)}
WORKER: Shape = {
    "workerId": text(1),
    "host": text(),
    "pid": whole(0),
    "plane": PLANE,
    "pool": text(1),
    "slots": whole(0),
    "running": many(of(RUNNING_NODE)),
    "device": text(),
    "memory": optional(many(of(MEMORY))),
    "metricsUrl": nullable(text()),
    "startedAt": STAMP,
    "lastSeen": STAMP,
    "version": text(),
    "protocol": whole(1),
    "tasks": many(text()),
    "devices": optional(many(of(DEVICE))),
    "gpuTasksOnCpu": optional(FLAG),
    "draining": optional(FLAG),
}
QUEUE: Shape = {
    "plane": PLANE,
    "pool": text(1),
    "depth": whole(0),
    "pending": whole(0),
    "oldestSeconds": nullable(number(low=0)),
    "paused": FLAG,
}
USAGE_SAMPLE: Shape = {"at": STAMP, "busy": whole(0), "slots": whole(0), "memory": many(of(MEMORY))}
LANE = choice("all", "gpu", "device")
WAITING_JOB: Shape = {
    "position": whole(1), "jobId": nullable(text()), "nodes": many(text()), "priority": PRIORITY, "lane": LANE, "since": STAMP,
}  # fmt: skip
STATISTICS: Shape = {
    "pipeline": nullable(text()),
    "ended": whole(0),
    "completed": whole(0),
    "failed": whole(0),
    "cancelled": whole(0),
    "successRate": nullable(SHARE),
    "medianSeconds": nullable(number(low=0)),
    "gpuSeconds": number(low=0),
}
DEAD_LETTER: Shape = {
    "id": text(1), "jobId": text(), "nodeId": text(), "attempt": whole(0), "reason": text(1), "detail": text(), "created": STAMP,
}  # fmt: skip
PRESET: Shape = {
    "name": text(1),
    "pipeline": nullable(text()),
    "task": nullable(text()),
    "params": OBJECT,
    "created": STAMP,
    "updated": STAMP,
}
SWEEP = Kind(
    ({"rank": [4, 8, "x", None, {}]}, {f"p{number}": [1] for number in range(10)}, {"a": [0] * 100}),
    (
        {},
        {"a": []},
        {"a": 4},
        {"a": None},
        {"a": [0] * 101},
        {f"p{number}": [1] for number in range(11)},
        [],
        "x",
        5,
        None,
    ),
)
PIPELINE: Shape = {
    "id": ID,
    "label": text(1),
    "description": text(),
    "params": OBJECT,
    "graph": OBJECT,
    "keywords": optional(many(text(1, 80), 0, 200)),
}

PORT = whole(0, 65_535)
STORE, LLM, LEVEL, FORMAT = (
    choice("local", "s3"),
    choice("ollama", "openai"),
    choice("debug", "info", "warning", "error"),
    choice("auto", "json", "console"),
)


def section(**fields: Kind) -> Shape:
    """Settings: nothing is required."""
    return {name: optional(kind) for name, kind in fields.items()}


REDIS = section(url=text(1), partitions=whole(1, 256))
ARTIFACTS = section(
    store=STORE,
    directory=text(1),
    endpoint=text(),
    publicEndpoint=text(),
    accessKey=text(),
    secretKey=text(),
    region=text(1),
    secure=FLAG,
    maxUploadBytes=whole(1),
    provenance=FLAG,
    presignSeconds=whole(1, 604_800),
    caFile=text(),
)
JOBS = section(
    ttlSeconds=whole(1),
    leaseMs=whole(100, 3_600_000),
    maxDeliveries=whole(1, 100),
    nodeOutputBytes=whole(1),
    nodeInputBytes=whole(1),
    outputBytes=whole(1),
    eventLogBytes=whole(65536),
    inlineGraphBytes=whole(0),
    eventLogLength=whole(10),
    drainSeconds=number(low=0),
    maxQueued=whole(0),
)
LOGS = section(level=LEVEL, format=FORMAT)
TRACING = section(endpoint=text(), sampleRatio=SHARE)
CONTROL = section(
    host=text(1),
    port=PORT,
    bodyLimitBytes=whole(1024),
    batchLimitBytes=whole(1024),
    batchItems=whole(1, 100_000),
    sweepJobs=whole(1, 1000),
    lightConcurrency=whole(1, 100_000),
    idempotencySeconds=whole(1),
    keys=text(),
    insecure=FLAG,
    allowedOrigins=many(ORIGIN),
    allowedHosts=many(text(1)),
    sessionSeconds=whole(60, 2_592_000),
    maxConnections=whole(16),
    maxConnectionsPerAddress=whole(1),
    proxies=many(NETWORK),
    rootPath=ROOT_PATH,
    headSeconds=number(above=0),
    stallSeconds=number(above=0),
    bodiesBytes=whole(1_048_576),
    requestsPerKey=whole(1),
)
WEBSOCKET = section(
    updateIntervalMs=whole(0, 60_000),
    queueLength=whole(1),
    maxSubscriptions=whole(1),
    maxMessageBytes=whole(256),
    pingSeconds=number(above=0),
    sendTimeoutSeconds=number(above=0),
    maxSocketsPerKey=whole(1),
)
PIPELINES = section(dir=text())
LLM_SECTION = section(endpoint=text(), kind=LLM, model=text(1), apiKey=text(), timeoutSeconds=number(above=0))
PLANNER = section(
    rounds=whole(0, 10),
    tokens=whole(64, 100_000),
    seconds=number(above=0, high=600),
    atOnce=whole(1, 1000),
    perMinute=whole(0, 1_000_000),
)
MODELS = section(roots=many(text(1)))
OUTGOING = section(allow=many(text(1)), webhookTimeoutSeconds=number(above=0, high=60), webhookAttempts=whole(1, 100))
GPUS = Kind(
    ("2x24GiB", "", "1x512MiB", "99x80GiB,oom@3,hang@4,poison@12,speed=0.5"),
    (
        "24GiB",
        "0x24GiB",
        "2x24",
        "2x24GB",
        "2 x 24GiB",
        "2x24GiB,",
        "2x24GiB,oom",
        "2x24GiB,oom@0",
        "2x24GiB,speed=",
        "2x24GiB\n",
        5,
        None,
        [],
    ),
)
WORKER_SECTION = section(
    pool=identifier(64),
    gpuTasksOnCpu=FLAG,
    slots=whole(0, 1024),
    lightConcurrency=whole(1, 100_000),
    host=text(1),
    port=PORT,
    tasks=many(text(1)),
    cancelGraceMs=whole(0, 600_000),
    rehearsals=FLAG,
    preemptAfterMs=whole(-1, 2_592_000_000),
    memoryCushionMiB=whole(0, 1_048_576),
    slotMemoryMiB=whole(0, 16_777_216),
    simulateGpus=GPUS,
    simulateDirectory=text(),
)

WEBHOOK: Shape = {"url": ADDRESS, "secret": SECRET}

PLAN_DEVICE = choice("cpu", "gpu")
PLANNED_BY = choice("matcher", "model")
REASON: Shape = {"nodeId": text(), "param": nullable(text()), "text": text()}
CHOICE: Shape = {"label": text(), "value": ANYTHING}
QUESTION: Shape = {"id": text(), "text": text(), "choices": many(of(CHOICE)), "schema": optional(OBJECT)}
SUGGESTION: Shape = {"label": text(), "goal": text()}
PLAN_ESTIMATE: Shape = {
    "nodes": whole(0),
    "gpuNodes": whole(0),
    "memoryMiB": whole(0),
    "seconds": nullable(number(low=0)),
}
GOAL_PLAN: Shape = {
    "goal": text(),
    "graph": optional(of(GRAPH_SUBMISSION)),
    "reasons": many(of(REASON)),
    "assumptions": many(text()),
    "unmet": many(text()),
    "questions": many(of(QUESTION)),
    "suggestions": many(of(SUGGESTION)),
    "confidence": SHARE,
    "certain": FLAG,
    "estimate": optional(of(PLAN_ESTIMATE)),
    "rounds": whole(0),
    "by": PLANNED_BY,
    "model": nullable(text()),
}

SHAPES: dict[str, dict[str, Kind | Shape]] = {
    "graph": {
        "Plane": PLANE,
        "NodeStatus": NODE_STATUS,
        "EdgeKind": EDGE_KIND,
        "NodeError": NODE_ERROR,
        "Remedy": REMEDY,
        "RemedyClass": REMEDY_CLASS,
        "Retries": RETRIES,
        "Node": NODE,
        "Edge": EDGE,
        "Estimate": ESTIMATE,
        "Graph": GRAPH,
    },
    "submission": {
        "SubmittedRetries": SUBMITTED_RETRIES,
        "NodeSubmission": NODE_SUBMISSION,
        "EdgeSubmission": EDGE_SUBMISSION,
        "GraphSubmission": GRAPH_SUBMISSION,
    },
    "job": {
        "JobStatus": JOB_STATUS,
        "Priority": PRIORITY,
        "WaitingReason": WAITING_REASON,
        "WaitingFor": WAITING_FOR,
        "JobError": JOB_ERROR,
        "Job": JOB,
        "JobList": {"jobs": many(of(JOB)), "next": nullable(text())},
        "SweepPlan": {
            "jobs": whole(1),
            "combinations": many(OBJECT),
            "graph": of(GRAPH),
            "estimate": optional(of(ESTIMATE)),
        },
        "SweepJobs": {"sweep": text(1), "tag": text(1), "combinations": many(OBJECT), "jobs": many(OBJECT)},
        "JobStatusView": {"jobId": ID, "status": JOB_STATUS, "progress": SHARE},
    },
    "request": {
        "JobRequest": {
            "graph": optional(of(GRAPH_SUBMISSION)),
            "pipeline": optional(ID),
            "task": optional(ID),
            "params": optional(OBJECT),
            "sweep": optional(SWEEP),
            "preset": optional(text(1, 100)),
            "name": optional(TITLE),
            "tags": optional(many(TAG, at_most=20)),
            "rerunOf": optional(ID),
            "startAt": optional(MOMENT),
            "priority": optional(PRIORITY),
            "pool": optional(POOL),
            "metadata": optional(OBJECT),
            "webhook": optional(of(WEBHOOK)),
            "goal": optional(text(0, 4000)),
            "files": optional(many(of(ARTIFACT_REF), 0, 200)),
            "answers": optional(OBJECT),
            "change": optional(Kind((*ID.good, full(GRAPH_SUBMISSION)), ID.bad)),
            "device": optional(PLAN_DEVICE),
            "deadline": optional(MOMENT),
            "evaluate": optional(FLAG),
            "budgetSeconds": optional(number(above=0)),
        },
        "JobChange": {
            "name": optional(nullable(TITLE)),
            "tags": optional(many(TAG, at_most=20)),
            "priority": optional(PRIORITY),
        },
        "PlanDevice": PLAN_DEVICE,
        "Webhook": WEBHOOK,
        "PresetRequest": {"params": OBJECT},
        "RetryRequest": {"from": optional(exactly("start"))},
        "TrainRequest": {"prompt": optional(text(1, 10_000))},
    },
    "events": {
        "StatusEvent": STATUS_EVENT,
        "NodeEvent": NODE_EVENT,
        "DataEvent": DATA_EVENT,
        "LogLevel": LOG_LEVEL,
        "LogEvent": LOG_EVENT,
        "Event": EVENT,
        "ProgressMessage": {
            "type": exactly("progress"),
            "seq": whole(0),
            "created": STAMP,
            "progress": SHARE,
            "nodeId": ID,
            "nodeProgress": SHARE,
        },
        "EventPage": {"jobId": ID, "epoch": text(), "events": many(EVENT)},
    },
    "websocket": {
        "Subscribe": SUBSCRIBE,
        "Unsubscribe": UNSUBSCRIBE,
        "ClientMessage": either(SUBSCRIBE, UNSUBSCRIBE),
        "ResponseMessage": RESPONSE_MESSAGE,
        "FailureReason": FAILURE_REASON,
        "Response": RESPONSE,
        "Update": UPDATE,
        "Snapshot": SNAPSHOT,
        "Resync": RESYNC,
        "ServerMessage": either(RESPONSE, UPDATE, RESYNC),
    },
    "plan": {
        "PlannedBy": PLANNED_BY,
        "Reason": REASON,
        "Choice": CHOICE,
        "Question": QUESTION,
        "Suggestion": SUGGESTION,
        "PlanEstimate": PLAN_ESTIMATE,
        "GoalPlan": GOAL_PLAN,
    },
    "problem": {"ProblemDetail": PROBLEM_DETAIL, "Problem": PROBLEM},
    "capability": {
        "TaskKind": KIND,
        "Runtime": RUNTIME,
        "Io": IO,
        "Parameter": PARAMETER,
        "Contracts": CONTRACTS,
        "Voice": VOICE,
        "Check": CHECK,
        "CheckRepair": CHECK_REPAIR,
        "Bound": BOUND,
        "Capability": CAPABILITY,
        "CapabilityList": {
            "capabilities": many(of(CAPABILITY)),
            "sources": named(many(text())),
            "generatedAt": STAMP,
        },
    },
    "worker": {
        "RunningNode": RUNNING_NODE,
        "MemoryInfo": MEMORY,
        "DeviceInfo": DEVICE,
        "WorkerInfo": WORKER,
        "WorkerList": {"workers": many(of(WORKER))},
        "QueueInfo": QUEUE,
        "QueueList": {"queues": many(of(QUEUE))},
        "UsageSample": USAGE_SAMPLE,
        "WorkerUsage": {"workerId": text(1), "samples": many(of(USAGE_SAMPLE))},
        "WaitingJob": WAITING_JOB,
        "WaitingList": {"plane": PLANE, "pool": text(1), "paused": FLAG, "waiting": many(of(WAITING_JOB))},
        "DeadLetter": DEAD_LETTER,
        "DeadLetterList": {"deadLetters": many(of(DEAD_LETTER)), "next": nullable(text())},
    },
    "pipeline": {
        "Pipeline": PIPELINE,
        "PipelineList": {"pipelines": many(of(PIPELINE))},
        "Preset": PRESET,
        "PresetList": {"presets": many(of(PRESET))},
        "PipelineStatistics": STATISTICS,
        "StatisticsList": {"jobs": whole(0), "pipelines": many(of(STATISTICS))},
    },
    "artifact": {
        "ArtifactRef": ARTIFACT_REF,
        "ModelRef": MODEL_REF,
        "Limits": {"uploadBytes": whole(1), "bodyBytes": whole(1)},
        "ArtifactMeta": ARTIFACT_META,
        "ArtifactList": {"artifacts": many(of(ARTIFACT_META)), "next": nullable(text())},
        "Provenance": PROVENANCE,
        "ProvenanceNode": PROVENANCE_NODE,
        "ProvenanceInput": PROVENANCE_INPUT,
    },
    "control_plane": {
        "ControlSettings": CONTROL,
        "WebsocketSettings": WEBSOCKET,
        "PipelinesSettings": PIPELINES,
        "LlmKind": LLM,
        "LlmSettings": LLM_SECTION,
        "PlannerSettings": PLANNER,
        "OutgoingSettings": OUTGOING,
    },
    "data_plane": {"WorkerSettings": WORKER_SECTION},
    "settings": {
        "RedisSettings": REDIS,
        "StoreKind": STORE,
        "ArtifactsSettings": ARTIFACTS,
        "ModelsSettings": MODELS,
        "JobsSettings": JOBS,
        "LogLevelName": LEVEL,
        "LogFormat": FORMAT,
        "LogsSettings": LOGS,
        "TracingSettings": TRACING,
        "Settings": section(
            redis=of(REDIS),
            artifacts=of(ARTIFACTS),
            models=of(MODELS),
            jobs=of(JOBS),
            logs=of(LOGS),
            tracing=of(TRACING),
            control=of(CONTROL),
            websocket=of(WEBSOCKET),
            pipelines=of(PIPELINES),
            llm=of(LLM_SECTION),
            outgoing=of(OUTGOING),
            planner=of(PLANNER),
            worker=of(WORKER_SECTION),
            tasks=named(OBJECT),
        ),
    },
}
