"""The data plane's own tasks, one module each."""

BUILTIN: tuple[str, ...] = (
    "dihedral.data_plane.tasks.train_lora",
    "dihedral.data_plane.tasks.train_image_lora",
    "dihedral.data_plane.tasks.train_diffusion_lora",
    "dihedral.data_plane.tasks.train_voice",
    "dihedral.data_plane.tasks.compare_voice",
    "dihedral.data_plane.tasks.speak",
    "dihedral.data_plane.tasks.render_video",
    "dihedral.data_plane.tasks.lip_sync",
    "dihedral.data_plane.tasks.run_comfyui",
    "dihedral.data_plane.tasks.run_tool",
    "dihedral.data_plane.tasks.simulate",
    "dihedral.data_plane.tasks.simulate_gpu",
    "dihedral.data_plane.tasks.capabilities",
)
