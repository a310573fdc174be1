// The page of a job is asked for what it draws first while the other modules are still on their way.
import { getEarly, jobPath, root } from "./api.js";

const [, jobId] = /^\/console\/jobs\/([\w.-]+)$/.exec(location.pathname.slice(root.length)) ?? [];
if (jobId) for (const what of ["", "/graph"]) getEarly(jobPath(jobId) + what);
