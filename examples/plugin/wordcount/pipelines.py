"""Pipeline `count_files`: one node, whose files are given with the submission."""

ARTIFACT = {
    "type": "object",
    "x-artifact": {"accept": ["text/*", ".txt"], "bucket": "inputs", "format": "text"},
    "additionalProperties": False,
    "required": ["bucket", "key"],
    "properties": {"bucket": {"type": "string"}, "key": {"type": "string"}},
}
TEXTS = {"type": "array", "minItems": 1, "maxItems": 64, "items": ARTIFACT, "description": "Text files"}
COUNT_FILES = {
    "id": "count_files",
    "label": "Count words",
    "description": "Counts the words of text files.",
    "params": {
        "type": "object",
        "additionalProperties": False,
        "required": ["texts"],
        "properties": {"texts": TEXTS},
    },
    "graph": {
        "schema": "langgraph.v1",
        "nodes": [
            {"id": "count", "task": "count_files", "plane": "python", "params": {"texts": {"$param": "texts"}}},
        ],
        "edges": [],
    },
}
