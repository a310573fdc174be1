"""Twenty goals that were written after the matcher was finished, to see how it does with goals that it was not tuned on.

The rate of the first try is in docs/planner.md; goals that failed then are repaired by now, or marked.
"""

from tests.planner.goals import HIGH, LOW, Goal

HELD_OUT: list[Goal] = [
    Goal("I want to hear the sentence “Tomorrow we sail” spoken at double speed", (), ("speak",), {"speak.text": "Tomorrow we sail", "speak.speed": 2.0}),
    Goal("Turn holiday1.jpg, holiday2.jpg and holiday3.jpg into a half a minute movie in full HD", ("holiday1.jpg", "holiday2.jpg", "holiday3.jpg"), ("render_video",),
         {"render_video.pictures": 3, "render_video.seconds": 30, "render_video.width": 1920, "render_video.height": 1080}),
    Goal("Please narrate my two photographs with the words 'First the mountain, then the valley.' and put song.mp3 underneath as background music", ("m.jpg", "v.jpg", "song.mp3"),
         ("speak", "render_video"), {"render_video.background": "song.mp3"}),
    Goal("Bitte sprich den Text „Wir sehen uns morgen“ mit meiner Stimme", ("ich.wav",), ("train_voice", "speak"), {"speak.text": "Wir sehen uns morgen"}),
    Goal("which of these voices is in unknown.flac", ("unknown.flac", LOW, HIGH), ("compare_voice",), {"compare_voice.recordings": 1}),
    Goal("teach it the voice in interview.wav, 50 iterations", ("interview.wav",), ("train_voice",), {"train_voice.iterations": 50}),
    Goal("recolour beach.png in the style of vangogh.png", ("beach.png", "vangogh.png"), ("train_image_lora", "render_video"), {"train_image_lora.pictures": "vangogh.png"}),
    Goal("explain photosynthesis in a short talking film", (), ("generate_script", "speak", "lip_sync", "render_video")),
    Goal("compose a narration about the history of bread, 8 lines please", (), ("generate_script",), {"generate_script.prompt": "the history of bread", "generate_script.lines": 8}),
    Goal("an audiobook of chapter.txt", ("chapter.txt",), ("speak",)),
    Goal("make a slideshow of these images without film grain and without the spectrum", ("a.png", "b.png"), ("render_video",), {"render_video.grain": 0, "render_video.spectrum": False}),
    Goal("anounce 'The shop closes in ten minutes' calmly", (), ("speak",), {"speak.speed": 0.9}),
    Goal("save the note 'buy milk' as shopping.txt", (), ("upload_artifact",), {"upload_artifact.name": "shopping.txt"}),
    Goal("pretend to work for 20 steps", (), ("simulate",), {"simulate.steps": 20}),
    Goal("upscale this image to 4k", ("a.png",), cannot=True),
    Goal("send an email to my boss", (), cannot=True),
    Goal("remove the background from portrait.png", ("portrait.png",), cannot=True),
    Goal("summarise this document", ("report.txt",), cannot=True),
    Goal("speak it", (), ("speak",), asks=("speak.text",)),
    Goal("train on these", ("x.bin",), asks=("*",)),
]  # fmt: skip
