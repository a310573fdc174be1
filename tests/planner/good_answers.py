"""What a language model that plans well answers to each goal of the table, written by hand: (task, params) in their order; a text is a question.

`of` takes another node's output, `file` one that was given. A node has the name of its task.
"""

from typing import Any

from tests.planner.goals import GOALS

Nodes = list[tuple[str, dict[str, Any]]]


def file(name: str, bucket: str = "inputs") -> dict[str, str]:
    return {"bucket": bucket, "key": name}


def of(node: str, member: str) -> dict[str, str]:
    return {"$from": node, "path": f"/{member}"}


AB = [file("a.png"), file("b.png")]
SPOKEN = of("speak", "audio")
UNEQUALISED: dict[str, Any] = {"voice": None}
"""The engine else fills in the voice of the film, a file, by the name of the voice that spoke, a text: such a graph is refused."""
FILM = ("render_video", {"pictures": AB, "narration": [SPOKEN], "words": of("speak", "words"), **UNEQUALISED})
HEAD = ("lip_sync", {"audio": SPOKEN, "phonemes": of("speak", "phonemes")})
SHOWN = ("render_video", {"scenes": [{"video": of("lip_sync", "video")}], "narration": [SPOKEN], **UNEQUALISED})
LINES = ("speak", {"lines": of("generate_script", "script/lines")})
SAVED = "base/model.safetensors"

GOOD: dict[str, Nodes | str] = {
    "Read this aloud: 'Good evening, everyone.'": [("speak", {"text": "Good evening, everyone."})],
    'Say "The train is late" slowly': [("speak", {"text": "The train is late", "speed": 0.75})],
    "Lies „Guten Abend“ langsam vor": [("speak", {"text": "Guten Abend", "speed": 0.8})],
    "speak: welcome to the museum": [("speak", {"text": "Welcome to the museum."})],
    "Make a film from these pictures": [("render_video", {"pictures": AB})],
    "a 12 second vertical video from a.png and b.png at 30 fps": [
        ("render_video", {"pictures": AB, "seconds": 12, "width": 1080, "height": 1920, "fps": 30})],
    "Erstelle einen Film aus diesen Bildern, 20 Sekunden lang": [("render_video", {"pictures": [file("a.jpg"), file("b.jpg")], "seconds": 20})],
    "slideshow of my photos with music.mp3 in the background": [
        ("render_video", {"scenes": [{"picture": file("one.jpg")}, {"picture": file("two.jpg")}], "background": file("music.mp3"), "backgroundDb": -12})],
    "Train a voice from my recording": [("train_voice", {"recording": file("me.wav")})],
    "learn a voice model from these recordings, seed 7": [("train_voice", {"recordings": [file("one.wav"), file("two.wav")], "seed": 7})],
    "Learn the colours of these pictures": [("train_image_lora", {"pictures": AB})],
    "Train an image LoRA on dusk.png with rank 16 for 500 steps": [("train_image_lora", {"pictures": [file("dusk.png")], "rank": 16, "steps": 500})],
    "Who is speaking in who.wav?": [
        ("compare_voice", {"recordings": [file("who.wav")], "voices": [file("low/voice.safetensors", "voices"), file("high/voice.safetensors", "voices")]})],
    "Fine-tune the language model on my lines, rank 16, 300 steps": [
        ("train_lora", {"weights": [file(SAVED)], "config": file("base/config.json"), "tokenizer": file("base/tokenizer.json"),
                        "dataset": file("base/lines.jsonl"), "rank": 16, "steps": 300})],
    "Write a script about volcanoes in Iceland with five lines": [("generate_script", {"prompt": "the volcanoes of Iceland", "lines": 5})],
    "Store the text 'hello' as notes.txt": [("upload_artifact", {"name": "notes.txt", "text": "hello", "contentType": "text/plain"})],
    "Check that these files exist": [("prepare_assets", {"assets": [file("a.png"), file("me.wav")]})],
    "Simulate 10 steps of 0.5 seconds": [("simulate", {"steps": 10, "stepSeconds": 0.5})],
    "hold 2 GiB of a simulated gpu for 3 steps": [("simulate_gpu", {"memoryMiB": 2048, "steps": 3})],
    "What can you do?": [("get_capabilities", {})],
    "run this workflow in ComfyUI": [("run_comfyui", {"workflow": file("workflow.json")})],
    "Narrate these pictures: 'The sun goes down. The stars come out.'": [("speak", {"text": "The sun goes down. The stars come out."}), FILM],
    "Narrate these pictures with 'Here it is.' without captions": [
        ("speak", {"text": "Here it is."}), ("render_video", {"pictures": AB, "narration": [SPOKEN], **UNEQUALISED})],
    "say 'Happy birthday' in my voice": [("speak", {"text": "Happy birthday", "like": file("me.wav")})],
    "give b.png the look of a.png": [
        ("train_image_lora", {"pictures": [file("a.png")]}), ("render_video", {"pictures": [file("b.png")], "adapter": of("train_image_lora", "adapter"), "seconds": 4})],
    "Make the portrait say 'Hello there'": [
        ("speak", {"text": "Hello there"}),
        ("lip_sync", {"audio": SPOKEN, "phonemes": of("speak", "phonemes"), "portrait": file("portrait.png"), "mouth": {"x": 0.5, "y": 0.7, "width": 0.2}})],
    "a talking head that says 'Welcome'": [("speak", {"text": "Welcome"}), HEAD],
    "write a script about bees and speak it": [("generate_script", {"prompt": "bees", "lines": 3}), LINES],
    "Speak 'Good night' and make a film of it with these pictures": [("speak", {"text": "Good night", "speed": 0.9}), FILM],
    "read 'One. Two.' aloud and give me a captions file": [("speak", {"text": "One. Two.", "speed": 1})],
    "train a voice from me.wav and learn the colours of dusk.png": [
        ("train_voice", {"recordings": [file("me.wav")]}), ("train_image_lora", {"pictures": [file("dusk.png")]})],
    "A short film about volcanoes": [("generate_script", {"prompt": "how a volcano erupts"}), LINES, HEAD, SHOWN],
    "tell a story about the sea in front of beach.jpg, 15 seconds, 640x360": [
        ("generate_script", {"prompt": "a story about the sea"}), LINES,
        ("render_video", {"pictures": [file("beach.jpg")], "narration": [SPOKEN], "seconds": 15, "width": 640, "height": 360, **UNEQUALISED})],
    "narrate these pictures with 'Look.' in the look of dusk.png": [
        ("train_image_lora", {"pictures": [file("dusk.png")]}), ("speak", {"text": "Look."}),
        ("render_video", {"pictures": AB, "narration": [SPOKEN], "adapter": of("train_image_lora", "adapter"), **UNEQUALISED})],
    "a 20 second talking postcard from these two pictures in my voice": [
        ("speak", {"text": "Greetings from here!", "like": file("me.wav")}), ("render_video", {"pictures": AB, "narration": [SPOKEN], "seconds": 20, **UNEQUALISED})],
    "delete my files": "None of these tasks deletes files. Shall something be made of them?",
    "order a pizza": "Nothing here orders food. What shall be made?",
    "write a novel in Klingon": "A script of a few lines is possible. Would that do, and in which language?",
    "transcribe this recording": "No task here writes down what is said. Shall a voice be learnt from it?",
    "draw a cat": "Pictures are not drawn here. Is there a photo of a cat?",
    "Make a video": "What shall the video show?",
    'Say "Hello" in a male voice': [("speak", {"text": "Hello", "voice": "flite:kal"})],
}  # fmt: skip

assert set(GOOD) == {goal.text for goal in GOALS}
