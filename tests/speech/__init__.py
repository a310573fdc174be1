"""Speaking: engines, the task, and what is heard."""
