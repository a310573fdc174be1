"""Forty goals in the words of different people (German-speaking English, short, long, typos, polite, an agent's). Most stop words and the German verbs of the matcher had been seen before."""

from tests.planner.goals import BASE, HIGH, LOW, Goal

TALKING = ("generate_script", "speak", "lip_sync", "render_video")

STRANGERS: list[Goal] = [
    # Short
    Goal("tts: 'Platform two is closed.'", (), ("speak",), {"speak.text": "Platform two is closed."}),
    Goal("video of x.png, 5s", ("x.png",), ("render_video",), {"render_video.seconds": 5, "render_video.pictures": 1}),
    Goal("voice clone", ("me.wav",), ("train_voice",), {"train_voice.recording": "me.wav"}),
    Goal("who's talking?", ("q.wav", LOW, HIGH), ("compare_voice",), {"compare_voice.recordings": 1, "compare_voice.voices": 2}),
    Goal("pics + music = film", ("a.jpg", "b.jpg", "m.mp3"), ("render_video",), {"render_video.background": "m.mp3", "render_video.pictures": 2}),
    Goal("same look as sunset.jpg on house.jpg", ("sunset.jpg", "house.jpg"), ("train_image_lora", "render_video"),
         {"train_image_lora.pictures": "sunset.jpg", "render_video.pictures": "house.jpg"}),
    # German-speaking English
    Goal("Please make from my pictures a film with a length from 20 seconds", ("a.jpg", "b.jpg"), ("render_video",), {"render_video.seconds": 20, "render_video.pictures": 2}),
    Goal("I become a voice from my record, please train it", ("stimme.wav",), ("train_voice",), {"train_voice.recording": "stimme.wav"}),
    Goal("The computer shall speak the text 'We meet us tomorrow at eight' with a slow tempo", (), ("speak",), {"speak.text": "We meet us tomorrow at eight", "speak.speed": 0.8}),
    Goal("Can you lay the music under.mp3 under the foto show, full HD", ("under.mp3", "f1.jpg", "f2.jpg"), ("render_video",),
         {"render_video.background": "under.mp3", "render_video.width": 1920, "render_video.height": 1080}),
    Goal("Read me the file loud", ("brief.txt",), ("speak",), {"speak.text": "Once upon a time."}),
    Goal("Make that the face on chef.jpg says 'Welcome at our house'", ("chef.jpg",), ("speak", "lip_sync"), {"speak.text": "Welcome at our house", "lip_sync.portrait": "chef.jpg"}, asks=("lip_sync.mouth",)),
    # German
    Goal("Bitte eine Diashow aus den Urlaubsfotos, Querformat in HD, 45 s, ohne Filmkorn", ("u1.jpg", "u2.jpg"), ("render_video",),
         {"render_video.seconds": 45, "render_video.grain": 0, "render_video.pictures": 2}),
    Goal("Sprich „Der Zug fällt heute aus“ schnell ein", (), ("speak",), {"speak.text": "Der Zug fällt heute aus", "speak.speed": 1.25}),
    Goal("Wem gehört diese Stimme?", ("anruf.wav", LOW, HIGH), ("compare_voice",), {"compare_voice.recordings": 1}),
    Goal("Schreib mir ein kurzes Drehbuch über einen Leuchtturm", (), ("generate_script",), {"generate_script.prompt": "einen Leuchtturm"}),
    # Typos
    Goal("tain a voise from this recroding", ("me.wav",), ("train_voice",), {"train_voice.recording": "me.wav"}),
    Goal("slidshow with 3 pitcures, 10 secnds", ("a.png", "b.png", "c.png"), ("render_video",), {"render_video.seconds": 10, "render_video.pictures": 3}),
    Goal("reed this alout: 'Mind the gap'", (), ("speak",), {"speak.text": "Mind the gap"}),
    Goal("wirte a scrpt about penguins, 4 lines", (), ("generate_script",), {"generate_script.prompt": "penguins", "generate_script.lines": 4}),
    # Polite and long
    Goal("Hello! I hope you are well. I would be very grateful if you could read the sentence \"Our office is closed on Friday\" for our answering machine. Many thanks, Gudrun", (), ("speak",),
         {"speak.text": "Our office is closed on Friday"}),
    Goal("Dear team, my daughter had her first day at school and I have two photos of it. Would it be possible to get a nice little film of about 15 seconds out of them, with the song I attached playing along? Kind regards",
         ("school1.jpg", "school2.jpg", "song.mp3"), ("render_video",), {"render_video.seconds": 15, "render_video.background": "song.mp3", "render_video.pictures": 2}),
    Goal("I'm a museum guide. For our new audio guide I need the following spoken in a calm way: 'The portrait on your left was painted in 1642.'", (), ("speak",),
         {"speak.text": "The portrait on your left was painted in 1642.", "speak.speed": 0.9}),
    Goal("We recorded grandma last summer (oma.wav). It would be wonderful to hear her say 'Happy birthday, little one' one more time.", ("oma.wav",), ("train_voice", "speak"), {"speak.text": "Happy birthday, little one"}),
    Goal("My kids love dinosaurs. Could a talking storyteller tell them a short story about dinosaurs, as a video?", (), TALKING, {"generate_script.prompt": "dinosaurs"}),
    # An agent's
    Goal("render_video with seconds=8 fps=24 width=640 height=360 on the given images", ("a.png", "b.png"), ("render_video",),
         {"render_video.seconds": 8, "render_video.fps": 24, "render_video.width": 640, "render_video.height": 360}),
    Goal("Step 1: train a voice on speaker.wav. Step 2: synthesise \"Deployment finished.\" in that voice. Return the audio.", ("speaker.wav",), ("train_voice", "speak"), {"speak.text": "Deployment finished."}),
    Goal("Generate speech audio for the input text \"Build 42 is green\" (speed: 1.5)", (), ("speak",), {"speak.text": "Build 42 is green", "speak.speed": 1.5}),
    Goal("Produce a video. Inputs: two stills. Constraints: duration 6 seconds, 1280x720, no captions.", ("s1.png", "s2.png"), ("render_video",),
         {"render_video.seconds": 6, "render_video.width": 1280, "render_video.height": 720, "render_video.pictures": 2}),
    Goal("Fine-tune an adapter for 100 steps using the dataset and base model provided", BASE, ("train_lora",), {"train_lora.steps": 100}),
    Goal("Execute the attached ComfyUI graph", ("workflow.json",), ("run_comfyui",)),
    Goal("Task: verify that all input artifacts are present before the pipeline starts", ("a.png", "b.png"), ("prepare_assets",), {"prepare_assets.assets": 2}),
    Goal("Call the tool realesrgan", (), ("run_tool",), {"run_tool.tool": "realesrgan"}),
    # What cannot be met, or not decided
    Goal("erase the watermark from this picture", ("a.png",), cannot=True),
    Goal("What is the capital of France?", (), cannot=True),
    Goal("Kannst du das Video kürzer schneiden?", ("v.mp4",), cannot=True),
    Goal("make the video louder", ("v.mp4",), cannot=True),
    Goal("compose a symphony in D minor", (), cannot=True),
    Goal("say it in my voice", ("me.wav",), asks=("speak.text",)),
    Goal("hi", (), asks=("*",)),
]  # fmt: skip

MISSED: tuple[str, ...] = (
    "who's talking?", "pics + music", "tain a voise", "slidshow", "reed this", "I'm a museum guide", "We recorded grandma", "Step 1:", "Task: verify",
)  # fmt: skip
"""How the goals begin that are not planned as their table says."""
