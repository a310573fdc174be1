"""Forty goals and what must come of each: written before the matcher was finished, and what it was tuned on.

`tasks`: every task of the graph, in any order; `params`: NODE.param → value, where `*` stands for any file. `cannot`: no graph at all.
`asks`: ids of the questions, of which at least these are asked; a goal without `asks` and `cannot` is certain.
"""

from typing import Any, NamedTuple


class Goal(NamedTuple):
    text: str
    files: tuple[str, ...] = ()
    tasks: tuple[str, ...] = ()
    params: dict[str, Any] = {}  # noqa: RUF012 - a NamedTuple's default, never changed
    asks: tuple[str, ...] = ()
    cannot: bool = False


LOW, HIGH = "voices:low/voice.safetensors", "voices:high/voice.safetensors"
BASE = ("base/config.json", "base/model.safetensors", "base/tokenizer.json", "base/lines.jsonl")

GOALS: list[Goal] = [
    # One node
    Goal("Read this aloud: 'Good evening, everyone.'", (), ("speak",), {"speak.text": "Good evening, everyone."}),
    Goal('Say "The train is late" slowly', (), ("speak",), {"speak.text": "The train is late", "speak.speed": 0.8}),
    Goal("Lies „Guten Abend“ langsam vor", (), ("speak",), {"speak.text": "Guten Abend", "speak.speed": 0.8}),
    Goal("speak: welcome to the museum", (), ("speak",), {"speak.text": "welcome to the museum"}),
    Goal("Make a film from these pictures", ("a.png", "b.png"), ("render_video",), {"render_video.pictures": 2}),
    Goal("a 12 second vertical video from a.png and b.png at 30 fps", ("a.png", "b.png"), ("render_video",),
         {"render_video.seconds": 12, "render_video.width": 720, "render_video.height": 1280, "render_video.fps": 30}),
    Goal("Erstelle einen Film aus diesen Bildern, 20 Sekunden lang", ("a.jpg", "b.jpg"), ("render_video",), {"render_video.seconds": 20}),
    Goal("slideshow of my photos with music.mp3 in the background", ("one.jpg", "two.jpg", "music.mp3"), ("render_video",),
         {"render_video.background": "music.mp3", "render_video.pictures": 2}),
    Goal("Train a voice from my recording", ("me.wav",), ("train_voice",), {"train_voice.recording": "me.wav"}),
    Goal("learn a voice model from these recordings, seed 7", ("one.wav", "two.wav"), ("train_voice",), {"train_voice.seed": 7, "train_voice.recordings": 2}),
    Goal("Learn the colours of these pictures", ("a.png", "b.png"), ("train_image_lora",), {"train_image_lora.pictures": 2}),
    Goal("Train an image LoRA on dusk.png with rank 16 for 500 steps", ("dusk.png",), ("train_image_lora",), {"train_image_lora.rank": 16, "train_image_lora.steps": 500}),
    Goal("Who is speaking in who.wav?", ("who.wav", LOW, HIGH), ("compare_voice",), {"compare_voice.voices": 2, "compare_voice.recordings": 1}),
    Goal("Fine-tune the language model on my lines, rank 16, 300 steps", BASE, ("train_lora",), {"train_lora.rank": 16, "train_lora.steps": 300, "train_lora.dataset": "lines.jsonl"}),
    Goal("Write a script about volcanoes in Iceland with five lines", (), ("generate_script",), {"generate_script.prompt": "volcanoes in Iceland", "generate_script.lines": 5}),
    Goal("Store the text 'hello' as notes.txt", (), ("upload_artifact",), {"upload_artifact.name": "notes.txt", "upload_artifact.text": "hello"}),
    Goal("Check that these files exist", ("a.png", "me.wav"), ("prepare_assets",), {"prepare_assets.assets": 2}),
    Goal("Simulate 10 steps of 0.5 seconds", (), ("simulate",), {"simulate.steps": 10, "simulate.stepSeconds": 0.5}),
    Goal("hold 2 GiB of a simulated gpu for 3 steps", (), ("simulate_gpu",), {"simulate_gpu.memoryMiB": 2048, "simulate_gpu.steps": 3}),
    Goal("What can you do?", (), ("get_capabilities",)),
    Goal("run this workflow in ComfyUI", ("workflow.json",), ("run_comfyui",)),
    # Two and three nodes
    Goal("Narrate these pictures: 'The sun goes down. The stars come out.'", ("a.png", "b.png"), ("speak", "render_video"), {"speak.text": "The sun goes down. The stars come out."}),
    Goal("Narrate these pictures with 'Here it is.' without captions", ("a.png", "b.png"), ("speak", "render_video"), {"render_video.words": None}),
    Goal("say 'Happy birthday' in my voice", ("me.wav",), ("train_voice", "speak"), {"speak.text": "Happy birthday"}),
    Goal("give b.png the look of a.png", ("a.png", "b.png"), ("train_image_lora", "render_video"), {"train_image_lora.pictures": "a.png"}),
    Goal("Make the portrait say 'Hello there'", ("portrait.png",), ("speak", "lip_sync"), {"lip_sync.portrait": "portrait.png"}, asks=("lip_sync.mouth",)),
    Goal("a talking head that says 'Welcome'", (), ("speak", "lip_sync"), {"speak.text": "Welcome"}),
    Goal("write a script about bees and speak it", (), ("generate_script", "speak"), {"generate_script.prompt": "bees"}),
    Goal("Speak 'Good night' and make a film of it with these pictures", ("a.png", "b.png"), ("speak", "render_video"), {"speak.text": "Good night"}),
    Goal("read 'One. Two.' aloud and give me a captions file", (), ("speak",)),
    Goal("train a voice from me.wav and learn the colours of dusk.png", ("me.wav", "dusk.png"), ("train_voice", "train_image_lora")),
    # Four and more
    Goal("A short film about volcanoes", (), ("generate_script", "speak", "lip_sync", "render_video"), {"generate_script.prompt": "volcanoes"}),
    Goal("tell a story about the sea in front of beach.jpg, 15 seconds, 640x360", ("beach.jpg",), ("generate_script", "speak", "lip_sync", "render_video"),
         {"generate_script.prompt": "the sea", "render_video.seconds": 15, "render_video.width": 640, "render_video.height": 360}),
    Goal("narrate these pictures with 'Look.' in the look of dusk.png", ("a.png", "b.png", "dusk.png"), ("train_image_lora", "speak", "render_video")),
    Goal("a 20 second talking postcard from these two pictures in my voice", ("a.png", "b.png", "me.wav"), ("speak", "render_video"), {"render_video.seconds": 20}, asks=("speak.text",)),
    # What cannot be met, or not decided
    Goal("delete my files", ("a.png",), cannot=True),
    Goal("order a pizza", (), cannot=True),
    Goal("write a novel in Klingon", (), cannot=True),
    Goal("transcribe this recording", ("me.wav",), cannot=True),
    Goal("draw a cat", (), cannot=True),
    Goal("Make a video", (), asks=("*",)),
    Goal('Say "Hello" in a male voice', (), ("speak",), asks=("speak.voice",)),
]  # fmt: skip
