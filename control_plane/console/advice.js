// What a person can do about an error, by its code. Codes of other people's tasks have no advice.

const ADVICE = {
  invalid_input: "The input does not fit this task. Run the job again with changed inputs.",
  invalid_params: "The parameters do not fit this task. Run the job again with changed parameters.",
  reference_not_found: "It refers to the output of a node that was skipped or has no such field. Change the graph, or give the reference a default.",
  timeout: "It took longer than it may. Give the node a longer timeoutSeconds, or the task less to do.",
  worker_lost: "The worker died or was cut off while it ran this, more than once. Look at the worker's log, then retry; its dead letter is under Workers.",
  slot_crashed: "The process that ran it died; too little memory is the usual cause. The end of its stderr is below. Retry, or ask for less.",
  output_too_large: "Its output is too large to be kept in the job. Have the task store it as an artifact.",
  invalid_output: "The task returned something else than it declares: a defect of the task.",
  artifact_store_unavailable: "The artifact store could not be reached. When it is back, retry: what is finished is kept.",
  no_artifact_store: "This worker has no artifact store it shares with the control plane. Set one up, then retry.",
  llm_unavailable: "The language model could not be reached. Look at llm.endpoint, then retry.",
  llm_misconfigured: "The settings of the language model do not fit. Look at the section llm of dihedral.toml.",
  llm_refused: "The language model refused this. Change the prompt.",
  diverged: "The training diverged. Run it again with a smaller learning rate.",
  simulated_failure: "It was asked to fail, and did. A retry runs it again as it was asked.",
  task_failed: "The task raised an error; the traceback below says where. When the cause is gone, retry: what is finished is kept.",
};

export const adviceFor = (code) => ADVICE[code] ?? "Retry it when the cause is gone: what is finished is kept.";
