// What a person can do about an error, by its code: the sentence, and which button comes first. Codes of other people's tasks have none.
import { t } from "./messages.js";

const ADVICE = {
  invalid_input: ["change", t("The input does not fit this task. Change it and run the job again.")],
  invalid_params: ["change", t("The parameters do not fit this task. Change them and run the job again.")],
  invalid_model: ["change", t("A model file cannot be read. Choose another file and run the job again.")],
  invalid_output: ["retry", t("The task returned something else than it declares: a defect of the task.")],
  reference_not_found: ["change", t("It refers to the output of a node that was skipped or has no such field. Change the graph, or give the reference a default.")],
  timeout: ["change", t("It took longer than it may. Give the node a longer timeoutSeconds, or the task less to do.")],
  worker_lost: ["resume", t("The worker died or was cut off while it ran this, more than once. Look at the worker's log, then retry; its dead letter is under Workers.")],
  slot_crashed: ["resume", t("The process that ran it died; too little memory is the usual cause. The end of its stderr is below. Retry, or ask for less.")],
  output_too_large: ["change", t("Its output is too large to be kept in the job. Have the task store it as an artifact.")],
  artifact_not_found: ["change", t("A file that it needs is not there any more. Choose another one and run the job again.")],
  artifact_store_unavailable: ["resume", t("The artifact store could not be reached. When it is back, retry: what is finished is kept.")],
  no_artifact_store: ["resume", t("This worker has no artifact store it shares with the control plane. Set one up, then retry.")],
  llm_unavailable: ["resume", t("The language model could not be reached. Look at llm.endpoint, then retry.")],
  llm_misconfigured: ["resume", t("The settings of the language model do not fit. Look at the section llm of dihedral.toml.")],
  llm_refused: ["change", t("The language model refused this. Change the prompt.")],
  diverged: ["change", t("The training diverged. Run it again with a smaller learning rate.")],
  simulated_failure: ["change", t("It was asked to fail, and did. A retry runs it again as it was asked.")],
  task_failed: ["retry", t("The task raised an error; the traceback below says where. When the cause is gone, retry: what is finished is kept.")],
};
const ABOUT_INPUT = /^(invalid|no|bad|unknown|unsupported|wrong|missing)_|_(invalid|missing|unsupported|refused|too_(large|long|many))$/;

const known = (code) => (Object.hasOwn(ADVICE, code) ? ADVICE[code] : null);

const BY_CLASS = {
  free_space: t("There is no room for its files. Delete some or enlarge the store, then resume."),
  ask_operator: t("The settings of this server do not allow it. When who runs it has changed them, resume."),
  retry_later: t("What it needs is busy or away. Retry it in a while."),
};

export const adviceFor = ({ code, remedy }) => known(code)?.[1] ?? BY_CLASS[remedy?.class] ?? (ABOUT_INPUT.test(code) ? t("What it was given does not fit. Change it and run the job again.") : t("Retry it when the cause is gone: what is finished is kept."));

const CLASSES = { change_params: "change", change_inputs: "change", resume: "resume", retry: "retry", retry_later: "retry", free_space: "resume", ask_operator: "resume", sign_in: "retry" };

// change, retry or resume; the server's word where it has one.
export const remedyFor = (error) => CLASSES[error.remedy?.class] ?? known(error.code)?.[0] ?? (ABOUT_INPUT.test(error.code) ? "change" : "retry");
