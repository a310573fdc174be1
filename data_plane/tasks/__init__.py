"""The data plane's own tasks, one module each."""

BUILTIN: tuple[str, ...] = (
    "data_plane.tasks.train_lora",
    "data_plane.tasks.train_image_lora",
    "data_plane.tasks.train_voice",
    "data_plane.tasks.compare_voice",
    "data_plane.tasks.render_video",
    "data_plane.tasks.simulate",
    "data_plane.tasks.simulate_gpu",
    "data_plane.tasks.capabilities",
)
